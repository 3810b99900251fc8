"""Fault injection detects non-atomic writes; commands survive a sample of faults."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from benchmarks import ROOT

needs_compiler = pytest.mark.skipif(
    not shutil.which(os.environ.get("CC", "cc")) or sys.platform != "linux",
    reason="no C compiler, or no Linux",
)

SCRIPT = """
import random

from tests.robustness.faults.runner import (
    Case,
    Injector,
    Outcome,
    Runner,
    restart_with_library,
)

work = restart_with_library()
from espnet_gq.files import write_text


def prepare(folder):
    (folder / "a").write_text("old")


def atomic(folder):
    write_text(folder / "a", "new" * 5000)


def in_place(folder):
    (folder / "a").write_text("new" * 5000)


def forgetful(folder):
    (folder / "a").unlink()
    (folder / "b").write_text("new")


injector = Injector(work)
for command in (atomic, in_place, forgetful):
    runner = Runner(Case(command.__name__, prepare, command), work, injector)
    for fault in ("kill", "torn", "full", "error"):
        outcome = Outcome()
        for at in runner.points(fault, 0, random.Random(0)):
            runner.meet(fault, at, outcome)
        print(command.__name__, fault, outcome.points, outcome.data_lost)
"""


@needs_compiler
def test_it_finds_writes_that_are_not_atomic(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    found = {(command, fault): (int(n), int(m)) for command, fault, n, m in lines}
    for fault in ("kill", "torn", "full", "error"):
        points, lost = found["atomic", fault]
        assert points >= 6 and lost == 0  # open, open, write, sync, rename, sync
        assert found["in_place", fault][1] > 0, fault
        assert found["forgetful", fault][1] > 0, fault


@needs_compiler
def test_a_sample_of_the_points_survives(tmp_path):
    outcome = {"points": 3, "survived": 3, "data_lost": 0}
    kept = {"decode": {"kill": outcome, "problems": []}, "gone": {"kill": outcome}}
    (tmp_path / "faults.json").write_text(json.dumps({"cases": kept}))
    done = subprocess.run(
        [
            *[sys.executable, "-m", "tests.robustness.faults", "--points", "2"],
            *["--cases", "train,format", "--faults", "kill,full"],
            *["--json", str(tmp_path / "faults.json")],
        ],
        capture_output=True,
        text=True,
        timeout=500,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    figures = json.loads((tmp_path / "faults.json").read_text())
    assert figures["total"] == {"points": 11, "survived": 11, "data_lost": 0}
    cases = figures["cases"]
    assert list(cases) == ["train", "decode", "format"]
    assert cases["train"]["kill"]["ended"] == {"killed": 2}
    assert cases["train"]["full"]["ended"] == {"error": 2}
    assert cases["train"]["command"].startswith("python -m tests.robustness.faults")
    assert not cases["train"]["problems"] and cases["decode"] == kept["decode"]
