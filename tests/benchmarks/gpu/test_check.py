"""The GPU check runs on a CPU, survives crashing rows and reports their results."""

import json
import os
import subprocess
import sys
from argparse import Namespace

from benchmarks import ROOT
from benchmarks.gpu import check
from benchmarks.gpu.rows import FAIL, PASS, SKIPPED, at_least, at_most, attempt


def run(*words, **environment):
    return subprocess.run(
        [sys.executable, "-m", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE", **environment},
        timeout=500,
    )


def test_rows_and_report(tmp_path):
    file = tmp_path / "found.json"
    words = ["--device", "cpu", "--rows", "large", "--json", file]
    done = run("benchmarks.gpu.check", *words)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    record = json.loads(file.read_text())
    assert record["device"] == "cpu" and record["small"]
    command = "python -m benchmarks.gpu.check --device cpu --rows large"
    assert record["command"] == command
    (row,) = record["rows"]
    assert {"pass", "figure"} == {result["status"] for result in row["results"]}
    assert run("benchmarks.gpu.table", file).stdout == done.stdout
    assert "its figures mean nothing" in done.stdout


def test_without_espnet_its_rows_are_skipped(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys; sys.modules['espnet2']=None"
    )
    file = tmp_path / "found.json"
    words = ["--device", "cpu", "--rows", "cost", "distributed", "--json", file]
    done = run("benchmarks.gpu.check", *words, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    for row in json.loads(file.read_text())["rows"]:
        for result in row["results"]:
            assert result["status"] == SKIPPED and "espnet2" in result["note"], result


def test_a_crashed_row_is_a_failed_line():
    args = Namespace(device="cpu", small=True, verbose=False)
    crashed = check.run_row(check.Row("absent", 100, ""), args, 100)
    stopped = check.run_row(check.Row("kernels", 100, ""), args, 0.2)
    for record, words in ((crashed, "exit status 2"), (stopped, "stopped after 0 s")):
        last = record["results"][-1]
        assert last["status"] == "fail" and words in last["note"]


def test_an_exception_in_a_case_is_a_line():
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
