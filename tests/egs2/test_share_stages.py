"""Stages 14 and 15 of the driver, on an untrained model."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from fake_hub import running_hub
from tiny_task import Task
from untrained import save

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "egs2/fsdd_gq/asr1"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Make a folder with the recipe's files and an experiment."""
    folder = tmp_path_factory.mktemp("digits_gq") / "asr1"
    folder.mkdir()
    for name in ("asr.sh", "path.sh", "cmd.sh", "run.sh", "conf", "local"):
        (folder / name).symlink_to(RECIPE / name)
    task = Task(folder / "task", train=1, valid=1)
    exp = save(task, task.config(), "x").rename(folder / "asr_x")
    (folder / "exp").mkdir()
    exp = exp.rename(folder / "exp/asr_x")
    (exp / "model.pth").rename(exp / "valid.acc.ave.pth")
    (exp / "images").mkdir()
    (exp / "images/loss.png").write_bytes(b"png")
    return folder


def run(folder, *args, **env):
    """Run both stages; return (exit status, output)."""
    python = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {k: v for k, v in os.environ.items() if k != "ESPNET_ROOT"}
    options = ["--stage", "14", "--asr_exp", "exp/asr_x", *args]
    done = subprocess.run(
        ["bash", "./run.sh", *options],
        cwd=folder,
        env={**environment, "PATH": python, "PYTHONPATH": str(ROOT), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


def test_pack_and_upload(recipe):
    upload = ["--skip_upload_hf", "false", "--hf_repo", "me/digits"]
    status, out = run(recipe, *upload)
    assert status == 2
    assert "packed.zip does not exist: run stage 14 (--skip_packing false)" in out
    with running_hub() as hub:
        hub.repos["me/digits"] = {}
        status, out = run(
            recipe, *upload, "--skip_packing", "false", HF_ENDPOINT=hub.address
        )
        assert status == 0, out
        found = hub.repos["me/digits"]
    exp = "exp/asr_x"
    with zipfile.ZipFile(recipe / exp / "asr_x_valid.acc.ave.packed.zip") as archive:
        names = set(archive.namelist())
        card = archive.read("README.md").decode()
    assert names == set(found)
    assert names == {
        *("meta.yaml", "README.md", "float.zip", f"{exp}/config.yaml"),
        *(f"{exp}/valid.acc.ave.packed.pth", f"{exp}/images/loss.png"),
    }
    kept = recipe / "exp/hf_me_digits/README.md"
    assert kept.read_bytes() == found["README.md"] and kept.read_text() != card
    for text in (card, kept.read_text()):
        assert f"with the {recipe.parent.name}/asr1 recipe" in text
        assert "language: en" in text
