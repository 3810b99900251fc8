"""Invalid inputs of every kind: no crashes, and clear refusals."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import ROOT
from tests.robustness.fuzz import __main__ as fuzz
from tests.robustness.fuzz.inputs import KINDS


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12, deadline=None)
@given(rng=st.randoms(use_true_random=False))
def test_inputs_drawn_by_hypothesis(kind, rng):
    """The same generators driven by Hypothesis, which shrinks failing inputs."""
    with tempfile.TemporaryDirectory() as name:
        outcome = fuzz.verdict(kind, rng, Path(name))
    assert outcome.verdict in ("accepted", "refused"), outcome.words


def test_a_few_inputs_of_every_kind(tmp_path):
    command = [sys.executable, "-m", "tests.robustness.fuzz", "--inputs", "10"]
    done = subprocess.run(
        [*command, "--json", str(tmp_path / "fuzz.json")],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "fuzz.json").read_text())
    assert record["command"] == "python -m tests.robustness.fuzz --inputs 10"
    assert len(record["counts"]) == 8
    for kind, found in record["counts"].items():
        assert found["refused"] > 0 and sum(found.values()) == 10, kind


def test_crashes_and_unclear_refusals_are_recognized(monkeypatch):
    """A signal, a foreign exception and a message that names nothing are detected."""

    def bad(rng, folder):
        choice = rng.randrange(3)
        if choice == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        raise (KeyError("x"), ValueError("something is wrong somewhere"))[choice - 1]

    monkeypatch.setitem(fuzz.KINDS, "bad", (bad, (ValueError,)))
    found = list(fuzz.run("bad", 0, 0, 12))
    assert [outcome.number for outcome in found] == list(range(12))
    assert {outcome.verdict for outcome in found} == {"crash", "unclear"}
    assert any("process ended" in outcome.words for outcome in found)
