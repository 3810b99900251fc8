"""What an interrupted training leaves, and what is made of it."""

import contextlib
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, List, Optional

import pytest
import torch
import untrained
from espnet2.fileio.datadir_writer import DatadirWriter
from test_training import same

from espnet_gq._compat import tensors_only
from espnet_gq.espnet.torch_proxy import torch as espnet_torch
from espnet_gq.espnet.training.atomic_files import AtomicPath, matplotlib_plot
from espnet_gq.espnet.training.checkpointing import finish_epoch
from espnet_gq.espnet.training.trainer import GQTrainer
from espnet_gq.packing import CheckpointError, load_state_dict


@dataclass
class Options:
    """What is looked at of ESPnet's TrainerOptions."""

    output_dir: Path
    max_epoch: int = 5
    patience: Optional[int] = None
    early_stopping_criterion: Any = ("valid", "acc", "max")
    best_model_criterion: Any = (("valid", "acc", "max"),)
    keep_nbest_models: List[int] = field(default_factory=lambda: [2])
    nbest_averaging_interval: int = 2


@pytest.fixture
def folder(trained, tmp_path):
    """Folder of a finished training of two epochs."""
    shutil.copytree(trained, tmp_path / "exp", symlinks=True)
    return tmp_path / "exp"


def finish(folder, write=True, **options):
    return finish_epoch(Options(folder, **options), write)


def state(folder):
    """Return name -> contents of the models in a folder."""
    return {
        path.name: os.readlink(path) if path.is_symlink() else load_state_dict(path)
        for path in folder.glob("*.pth")
        if path.name != "checkpoint.pth" and "till" not in path.name
    }


LINKS = ("latest.pth", "valid.acc.best.pth")


@pytest.mark.parametrize("content", [None, b"", b"half"], ids=["none", "empty", "half"])
def test_the_rest_of_an_epoch_is_done(folder, content):
    before = state(folder)
    for name in ("2epoch.pth", *LINKS):
        (folder / name).unlink()
    (folder / LINKS[0]).symlink_to("1epoch.pth")
    if content is not None:
        whole = (folder / "1epoch.pth").read_bytes()
        part = whole[: len(whole) // 2] if content else b""
        (folder / "2epoch.pth").write_bytes(part)
    assert finish(folder).max_epoch == 5
    assert same(state(folder), before)
    average = load_state_dict(folder / "valid.acc.ave.till2epoch.pth")
    assert same(dict(average), dict(before["valid.acc.ave_2best.pth"]))
    assert not list(folder.glob(".*"))


def test_only_the_first_process_writes(folder):
    (folder / "2epoch.pth").unlink()
    finish(folder, write=False)
    assert not (folder / "2epoch.pth").exists()


def test_a_training_that_stopped_early_has_no_epoch_more(folder):
    best = os.readlink(folder / "valid.acc.best.pth")
    first_was_best = ("valid", "acc", "max" if best == "1epoch.pth" else "min")
    for patience, expected in ((0, 2), (1, 5)):
        options = finish(
            folder, patience=patience, early_stopping_criterion=first_was_best
        )
        assert options.max_epoch == expected


def test_a_half_checkpoint_says_what_to_do(folder):
    path = folder / "checkpoint.pth"
    whole = path.read_bytes()
    for length in (0, 1000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError) as error:
            finish(folder)
        message = str(error.value)
        assert message == (
            f"{path} is not a whole checkpoint, as an interrupted training may leave "
            "it; allowed: to remove it and train anew, from the last whole model: "
            f"--init_param {folder / '2epoch.pth'}"
        )
    for model in folder.glob("?epoch.pth"):
        model.write_bytes(b"")
    with pytest.raises(CheckpointError, match="remove it and train anew$"):
        finish(folder)


def test_a_model_of_another_bit_width_is_not_resumed(task, folder):
    config = task.config("other_bits.yaml", decoder_conf__gq_conf={"bits": 3})
    model, _ = untrained.build(task, config)
    with pytest.raises(CheckpointError) as error:
        with tensors_only():
            GQTrainer.resume(
                folder / "checkpoint.pth",
                model=model,
                reporter=None,
                optimizers=[],
                schedulers=[],
                scaler=None,
            )
    message = str(error.value)
    assert message.startswith(f"{folder / 'checkpoint.pth'}: decoder.")
    assert "has 4 bits in the checkpoint and 3 in the configuration" in message
    assert "\n" not in message


# ---- Atomic files -------------------------------------------------------------------
class Unwritable:
    def __reduce__(self):
        raise OSError(28, "No space left on device")


def test_a_link_is_there_all_the_time(tmp_path):
    for name in ("1epoch.pth", "2epoch.pth"):
        (tmp_path / name).touch()
    path = AtomicPath(tmp_path) / "latest.pth"
    path.symlink_to("1epoch.pth")
    path.unlink()  # as ESPnet does
    assert os.readlink(path) == "1epoch.pth"
    path.symlink_to("2epoch.pth")
    assert os.readlink(path) == "2epoch.pth"
    (path.parent / "1epoch.pth").unlink()
    assert sorted(os.listdir(tmp_path)) == ["2epoch.pth", "latest.pth"]
    (tmp_path / "latest.pth").unlink()
    assert os.listdir(tmp_path) == ["2epoch.pth"]


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "checkpoint.pth"
    espnet_torch.save({"a": torch.ones(2)}, path)
    once = path.read_bytes()
    with pytest.raises(OSError, match="No space"):
        espnet_torch.save([torch.zeros(10**6), Unwritable()], str(path))
    assert path.read_bytes() == once
    espnet_torch.save({"a": torch.ones(2)}, path)
    assert path.read_bytes() == once  # nothing in it is random
    assert os.listdir(tmp_path) == ["checkpoint.pth"]


def test_a_failed_text_leaves_the_old_file(tmp_path):
    (tmp_path / "config.yaml").write_text("old")
    path = AtomicPath(tmp_path, "config.yaml")
    with pytest.raises(RuntimeError):
        with path.open("w", encoding="utf-8") as f:
            f.write("half")
            assert path.read_text() == "old"
            raise RuntimeError
    assert path.read_text() == "old"
    with path.open("w", encoding="utf-8") as f:
        f.write("new")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["config.yaml"]


@pytest.mark.parametrize("error", [None, OSError(28, "No space left on device")])
def test_plots_are_replaced_whole(tmp_path, error):
    def plot(self, folder):
        for name in ("acc.png", "loss.png"):
            (folder / name).write_text("half")
        assert (tmp_path / "images/acc.png").read_text() == "old"
        if error:
            raise error
        (folder / "acc.png").write_text("new")

    (tmp_path / "images").mkdir()
    (tmp_path / "images/acc.png").write_text("old")
    with pytest.raises(OSError) if error else contextlib.nullcontext():
        matplotlib_plot(plot)(None, tmp_path / "images")
    found = {path.name: path.read_text() for path in (tmp_path / "images").iterdir()}
    assert found == (
        {"acc.png": "old"} if error else {"acc.png": "new", "loss.png": "half"}
    )
    assert os.listdir(tmp_path) == ["images"]


@pytest.mark.parametrize(
    "error, kept",
    [(None, True), (SystemExit("one was left out"), True), (RuntimeError(), False)],
    ids=["none", "exit", "error"],
)
def test_results_appear_whole_or_not_at_all(tmp_path, error, kept):
    with pytest.raises(type(error)) if error else contextlib.nullcontext():
        with DatadirWriter(tmp_path) as writer:
            for utt in ("a", "b"):
                for name in ("text", "token"):
                    writer["1best_recog"][name][utt] = "one"
                assert not (tmp_path / "1best_recog" / "text").exists()
            if error:
                raise error
    folder = tmp_path / "1best_recog"
    found = {path.name: path.read_text() for path in folder.iterdir()}
    assert found == {name: "a one\nb one\n" for name in ("text", "token") if kept}
