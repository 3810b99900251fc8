"""The benchmark runs whole processes, prints its tables and writes the same figures."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks import ROOT
from benchmarks.device import plot, table
from benchmarks.device.process import run as run_process
from espnet_gq.device.engine import find_library

pytestmark = pytest.mark.skipif(
    not os.path.exists("/proc/self/smaps_rollup") or find_library() is None,
    reason="needs Linux and the device engine",
)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """Return gq-asr as the Python package installs it."""
    path = tmp_path_factory.mktemp("program") / "gq-asr"
    path.write_text(
        f'#!/bin/sh\nexec {sys.executable} -m espnet_gq.device.program "$@"\n'
    )
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def quick(program, tmp_path_factory):
    """Return the output and the figures of a quick run on noise."""
    folder = tmp_path_factory.mktemp("device")
    options = ["--quick", "--others", "onnx int8", "--program", program]
    options += ["--data", folder / "missing", "--cache", folder / "cache"]
    options += ["--json", folder / "figures.json", "--plot", folder / "figures.svg"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.device.recognition", *map(str, options)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
        timeout=500,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, json.loads((folder / "figures.json").read_text()), folder


def test_every_variant_is_measured_or_named(quick):
    printed, record, _ = quick
    assert list(record["sizes"]) == ["tiny", "tiny_conformer"]
    for found in record["sizes"].values():
        measured = [str(table.variant_of(row)) for row in found["variants"]]
        not_run = [row["what"] for row in found["not_run"]]
        assert sorted([*measured, *not_run]) == [
            "ESPnet, packed 5 bits int8",
            "ONNX Runtime dynamic int8",
            "engine 5 bits int8",
            "engine 8 bits int8",
        ]
        for row in found["not_run"]:
            assert f"not run: {row['what']}: {row['reason']}" in printed
    assert "of noise" in printed


def test_the_figures_are_those_of_the_table(quick):
    printed, record, _ = quick
    rows = record["sizes"]["tiny"]["variants"]
    for row in rows:
        peak = row["peak_bytes"]["median"] / 2**20
        assert f"| {peak:,.1f} (" in " ".join(printed.split())
        assert row["peak_bytes"]["median"] >= row["anonymous_bytes"]["median"]
        assert 0 < row["p50_seconds"]["median"] <= row["p90_seconds"]["median"]
        assert row["start_seconds"]["median"] > 0
    engine = [row for row in rows if row["method"] == "engine"]
    assert all(2 < row["tokens_a_second"]["median"] < 6 for row in engine)
    same = next(row for row in rows if row["method"] == "espnet packed")
    assert same["tokens_a_second"] == engine[1]["tokens_a_second"]  # of 5 bits


def test_plot(quick, tmp_path):
    pytest.importorskip("matplotlib")
    _, _, folder = quick
    figures = str(folder / "figures.json")
    plot.main(["--figures", figures, "--output", str(tmp_path / "again.svg")])
    content = (folder / "figures.svg").read_bytes()
    assert b"peak memory of the process, MiB" in content
    assert (tmp_path / "again.svg").read_bytes() == content


def test_a_process_that_fails_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="no such model"):
        run_process(["sh", "-c", "echo no such model; exit 2"], [], 1)
    with pytest.raises(RuntimeError, match="did not recognize a.wav"):
        opens = 'for file; do cat "$file" > /dev/null; done'
        path = tmp_path / "a.wav"
        path.touch()
        run_process(["sh", "-c", opens, "sh"], [path], 1)
