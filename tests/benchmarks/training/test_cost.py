"""The benchmark runs, prints its table and writes the same figures."""

import json
import os
import subprocess
import sys

from benchmarks import ROOT


def test_quick_run(tmp_path):
    figures = tmp_path / "figures.json"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.training.cost",
            "--quick",
            "--json",
            str(figures),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
        timeout=500,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads(figures.read_text())
    rows = [row for rows in record["workloads"].values() for row in rows]
    gq = [row for row in rows if row["method"] == "gq"]
    assert gq
    for row in gq:
        assert row["seconds"]["min"] > 0 and row["peak_bytes"]["min"] > 0
        assert f"{row['time_ratio']['median']:.3f}" in done.stdout
