"""The benchmark of quantizing: checkpoints in little memory, processes, the report."""

import json
import os
import sys

import pytest
import torch
import yaml

from benchmarks.measuring import MIB
from benchmarks.quantizing import cost, models, process
from espnet_gq.packing import load_state_dict


def test_the_large_model_is_the_one_that_users_have():
    config = models.owsm_ctc()
    assert len(config["token_list"]) == len(set(config["token_list"])) == 50_002
    used = config["encoder_conf"]["use_cross_attention"]
    assert len(used) == 27 and [n for n, u in enumerate(used) if u][:2] == [2, 5]
    assert config["encoder_conf"]["interctc_layer_idx"] == [6, 12, 15, 21]


@pytest.mark.parametrize("name", ["tiny", "tiny_owsm"])
def test_a_checkpoint_is_complete_and_random(tmp_path, name):
    files = models.write(name, tmp_path)
    config = yaml.safe_load(files.config.read_text())
    module, _, cls = models.CASES[name].task.rpartition(".")
    task = getattr(sys.modules[module], cls)
    model, _ = task.build_model_from_file(files.config, files.checkpoint, "cpu")
    state = load_state_dict(files.checkpoint)
    own = model.state_dict()
    assert set(state) == set(own) and config["init"] is None
    for key, value in own.items():
        assert torch.equal(state[key], value), key
    assert files.parameters == sum(p.numel() for p in model.parameters())
    matrix = state["ctc.ctc_lo.weight"]
    assert matrix.std().item() == pytest.approx(matrix.shape[1] ** -0.5, rel=0.2)
    first = files.checkpoint.stat().st_mtime_ns
    assert models.write(name, tmp_path).checkpoint.stat().st_mtime_ns == first


WRITER = """
import sys, pathlib, torch
from benchmarks.quantizing.models import write_random
count, path = int(sys.argv[1]), pathlib.Path(sys.argv[2])
state = {f"w{n}": torch.empty(2048, 2048, device="meta") for n in range(count)}
write_random(state, path)
"""


def test_writing_takes_no_memory_of_its_own(tmp_path):
    path = tmp_path / "model.pth"
    few, many = (
        process.measure([sys.executable, "-c", WRITER, n, str(path)], os.environ)
        for n in ("1", "16")
    )
    assert path.stat().st_size > 256 * MIB
    assert many.anonymous_bytes - few.anonymous_bytes < 32 * MIB


HOLDER = """
import sys, time
held = bytearray(200 * 2**20)
print("holding", file=sys.stderr, flush=True)
time.sleep(0.3)
del held
print("done", file=sys.stderr, flush=True)
time.sleep(0.1)
"""


def test_the_peak_of_a_process():
    small = process.measure([sys.executable, "-c", "import time; time.sleep(0.2)"], {})
    found = process.measure([sys.executable, "-c", HOLDER], {})
    for key in ("resident_bytes", "anonymous_bytes"):
        added = getattr(found, key) - getattr(small, key)
        assert 190 * MIB < added < 220 * MIB
    assert found.anonymous_at_peak.endswith((" s, start", " s, holding"))
    assert 0.3 < found.wall_seconds and 0 < found.cpu_seconds
    with pytest.raises(RuntimeError, match="no such thing"):
        process.measure([sys.executable, "-c", "raise OSError('no such thing')"], {})


def test_a_run_reports_what_it_writes(tmp_path, capsys):
    figures = tmp_path / "figures.json"
    work = ["--work", str(tmp_path), "--json", str(figures), "--threads", "1"]
    cost.main(["--parameters", "tiny", "--bits", "3", *work])
    printed = capsys.readouterr().out
    (row,) = json.loads(figures.read_text())["rows"]
    assert row["model"] == "tiny" and row["data"] == "none" and row["bits"] == 3
    size = (tmp_path / "tiny/model.pth").stat().st_size
    assert row["checkpoint_bytes"] == size
    added = row["usage"]["resident_bytes"] - row["imports"]["resident_bytes"]
    assert row["added_resident_bytes"] == added
    assert row["resident_ratio"] == pytest.approx(added / size)
    assert f"{row['resident_ratio']:.2f} x the checkpoint (target: 1.5)" in printed
    assert f"{row['parameters']:,}" in printed
    assert (tmp_path / "tiny/quantized.zip").stat().st_size == row["zip_bytes"]
