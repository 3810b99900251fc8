"""The check for GPUs runs on a CPU, survives its rows, and reports what they found."""

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu"
ROOT = str(FOLDER.parents[1])


def python(*words):
    return subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": ROOT},
        timeout=500,
    )


def test_rows_and_report(tmp_path):
    file = tmp_path / "found.json"
    words = ["--device", "cpu", "--rows", "large", "--json", file]
    done = python(FOLDER / "check.py", *words)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    record = json.loads(file.read_text())
    assert record["device"] == "cpu" and record["small"]
    (row,) = record["rows"]
    assert {"pass", "figure"} == {result["status"] for result in row["results"]}
    assert python(FOLDER / "table.py", file).stdout == done.stdout
    assert "its figures mean nothing" in done.stdout


@pytest.fixture()
def check(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER.parent))
    monkeypatch.syspath_prepend(str(FOLDER))
    import check

    return check


def test_a_row_that_ends_badly_is_a_failed_line(check):
    args = Namespace(device="cpu", small=True, verbose=False)
    crashed = check.run_row(check.Row("absent", 100, ""), args, 100)
    stopped = check.run_row(check.Row("kernels", 100, ""), args, 0.2)
    for record, words in ((crashed, "exit status 2"), (stopped, "stopped after 0 s")):
        last = record["results"][-1]
        assert last["status"] == "fail" and words in last["note"]


def test_what_a_case_raises_is_a_line(check):
    from rows import FAIL, PASS, SKIPPED, at_least, at_most, attempt

    def broken(error):
        def find():
            yield at_most("first", 1.0, 2.0)
            raise error

        return find

    for error, status in (
        (ValueError("no"), FAIL),
        (ModuleNotFoundError("no", name="torchao.x"), SKIPPED),
        (ModuleNotFoundError("no", name="espnet_gq.x"), FAIL),
    ):
        found = list(attempt("second", broken(error)))
        assert [r.status for r in found] == [PASS, status]
    nan = float("nan")
    assert at_most("x", nan, 1.0).status == at_least("x", nan, 1.0).status == FAIL
    assert at_most("x", 1.1, 1.0).status == at_least("x", 0.9, 1.0).status == FAIL
