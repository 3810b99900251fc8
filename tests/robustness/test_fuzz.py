"""Bad inputs of every kind, some of each: none crashes, every refusal is clear."""

import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def fuzz(*args):
    """Run fuzz.py; returns (exit status, what it printed)."""
    command = [sys.executable, str(BENCHMARKS / "fuzz.py"), *args]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_some_of_every_kind(tmp_path):
    status, out = fuzz("--inputs", "25", "--json", str(tmp_path / "fuzz.json"))
    assert status == 0, out
    counts = json.loads((tmp_path / "fuzz.json").read_text())["counts"]
    assert len(counts) == 8
    for kind, found in counts.items():
        assert found["refused"] > 0 and sum(found.values()) == 25, kind


def test_what_it_calls_a_crash(monkeypatch, capsys):
    """A signal, a foreign exception and words that name nothing are found."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import os
    import signal

    import fuzz as module

    def bad(rng, folder):
        choice = rng.randrange(3)
        if choice == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        raise (KeyError("x"), ValueError("something is wrong somewhere"))[choice - 1]

    monkeypatch.setitem(module.KINDS, "bad", (bad, (ValueError,)))
    found = list(module.run("bad", 0, 0, 12))
    assert [outcome.index for outcome in found] == list(range(12))
    assert {outcome.verdict for outcome in found} == {"crash", "unclear"}
    assert any("process ended" in outcome.words for outcome in found)
