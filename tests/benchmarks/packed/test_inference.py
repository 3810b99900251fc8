"""The benchmark runs, prints its tables and writes the same figures."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks import ROOT


def run(*options, check=True):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.packed.inference", *map(str, options)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
        timeout=500,
        cwd=ROOT,
    )
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """Return the output and the figures of a quick run on noise, in two parts."""
    folder = tmp_path_factory.mktemp("packed_inference")
    options = ["--quick", "--modes", "int8", "--json", folder / "figures.json"]
    options += ["--data", folder / "missing", "--cache", folder / "cache"]
    printed = run(*options, "--parts", "kernels,models,latency").stdout
    options += ["--parts", "memory", "--plot", folder / "figures.png"]
    printed += run(*options).stdout
    return printed, json.loads((folder / "figures.json").read_text()), folder


def rows(found):
    """Yield the figures of every variant."""
    if isinstance(found, dict):
        yield from [found] if "method" in found else []
        found = list(found.values())
    if isinstance(found, list):
        for value in found:
            yield from rows(value)


def test_the_parts_of_both_runs_are_in_the_file(quick):
    _, record, folder = quick
    assert list(record["parts"]) == ["kernels", "models", "latency", "memory"]
    for part in record["parts"].values():
        assert part["command"].startswith("python ") and part["machine"]["threads"] == 1
        methods = {(row["method"], row["bits"]) for row in rows(part)}
        # ONNX Runtime is left out where it is not installed.
        assert {m for m in methods if not m[0].startswith("onnx")} == {
            *(("float32", None), ("torch int8", None)),
            *(("packed", 8), ("packed", 5)),
        }


def test_the_figures_are_those_of_the_tables(quick):
    printed, record, _ = quick
    parts = record["parts"]
    assert parts["kernels"]["cases"][0]["read_bytes_a_second"]["min"] > 0
    for row in rows(parts["kernels"]):
        assert f"{1e6 * row['seconds']['median']:,.1f}" in printed
        assert f"| {row['x_torch_int8']['median']:.3f} |" in " ".join(printed.split())
    for row in rows(parts["models"]):
        assert f"{1e3 * row['seconds']['median']:,.2f}" in printed
    for row in rows(parts["latency"]):
        assert f"{1e3 * row['latency_seconds']['p90']:,.1f}" in printed
        assert 2.5 < row["labels_a_second"] < 3.5
    for row in rows(parts["memory"]):
        assert f"{row['peak_bytes']['median'] / 2**20:,.0f}" in printed
        assert row["peak_bytes"]["median"] >= row["loaded_bytes"]["median"]
    for part in parts.values():
        for aim in part.get("aims", ()):
            assert f"{aim['what']}: {aim['value']:.3f}" in printed
            assert aim["reached"] == (aim["value"] <= aim["most"])
    assert "of noise" in printed


def test_the_plot_is_an_image(quick):
    assert (quick[2] / "figures.png").read_bytes()[:4] == b"\x89PNG"


def test_other_files_are_not_overwritten(tmp_path):
    other = tmp_path / "other.json"
    other.write_text('{"benchmark": "training_cost"}')
    done = run("--quick", "--json", other, check=False)
    assert done.returncode == 2 and "holds no figures" in done.stderr
    assert other.read_text() == '{"benchmark": "training_cost"}'
