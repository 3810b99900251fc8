"""Checkpoints that do not fit are refused in one sentence that names the file."""

import math

import pytest
import torch
import untrained
from espnet2.tasks import abs_task
from tiny_task import ABSENT

from espnet_gq.espnet.inference import loading
from espnet_gq.packing import (
    CheckpointError,
    load_state_dict,
    pack_state_dict,
    save,
)

CHANGES = {
    "bits": ({"encoder_conf__gq_conf": {"bits": 3}}, "5 bits in the "),
    "blocks": ({"encoder_conf__num_blocks": 3}, " lacks "),
    "fewer": ({"encoder_conf__num_blocks": 1}, " also has "),
    "wider": ({"encoder_conf__linear_units": 48}, ": size mismatch for encoder."),
}


@pytest.fixture(scope="module")
def folder(task):
    """Folder of an untrained model: encoder of 5 bits, two blocks."""
    return untrained.save(task, task.config("loading.yaml"), "loading")


@pytest.fixture(scope="module")
def packed(folder):
    """The same, packed."""
    path = folder / "packed.pth"
    save(pack_state_dict(load_state_dict(folder / "model.pth")), path)
    return path


def built(task, name, **changes):
    """Return config.yaml of another model, and the model."""
    config = task.config(f"{name}.yaml", **changes)
    folder = task.path / f"untrained_{name}"
    if not folder.exists():
        untrained.save(task, config, name)
    return folder / "config.yaml", lambda: untrained.build(task, config)[0]


def check_sentence(path, error, *parts):
    message = str(error.value)
    assert message.startswith(str(path))
    assert "\n" not in message and len(message) < 700
    assert all(part in message for part in parts), message


def from_file(config, path):
    return untrained.task_class().build_model_from_file(config, path)


@pytest.mark.parametrize("name", CHANGES)
def test_decoding_with_another_configuration(task, folder, packed, name, monkeypatch):
    changes, expected = CHANGES[name]
    config, _ = built(task, f"loading_{name}", **changes)
    for path in (folder / "model.pth", packed):
        with pytest.raises(CheckpointError) as error:
            from_file(config, path)
        check_sentence(path, error, expected)
    monkeypatch.setattr(loading, "available", lambda: False)  # as on a GPU
    with pytest.raises(CheckpointError) as error:
        from_file(config, packed)
    check_sentence(packed, error)


def test_decoding_a_quantized_checkpoint_as_a_float_one(task, folder):
    gone = {f"{part}_conf__gq_conf": ABSENT for part in ("encoder", "decoder", "model")}
    classes = {"encoder": "conformer", "decoder": "transformer", "model": "espnet"}
    config, _ = built(task, "loading_float", **classes, **gone)
    with pytest.raises(CheckpointError) as error:
        from_file(config, folder / "model.pth")
    check_sentence(folder / "model.pth", error, "also has", "_quantizer.")
    from_file(config, task.path / "untrained_loading_float" / "model.pth")


def test_a_later_version_of_the_packed_format(folder, packed, monkeypatch):
    later = {**torch.load(packed, weights_only=True), "version": 4}
    path = folder / "later.pth"
    torch.save(later, path)
    for available in (True, False):
        monkeypatch.setattr(loading, "available", lambda: available)
        with pytest.raises(CheckpointError) as error:
            from_file(folder / "config.yaml", path)
        check_sentence(path, error, "format version 4; espnet_gq", "reads 1, 2, 3")


@pytest.mark.parametrize("name", ["weight", "codebook"])
def test_weights_that_are_not_finite(folder, name):
    state = load_state_dict(folder / "model.pth")
    key = "decoder.output_layer.weight"
    key += "" if name == "weight" else "_quantizer.log_scale"
    path = folder / f"not_finite_{name}.pth"
    torch.save({**state, key: torch.full_like(state[key], math.nan)}, path)
    with pytest.raises(CheckpointError) as error:
        from_file(folder / "config.yaml", path)
    check_sentence(path, error, f"NaN or infinite values in {key}; allowed")


class Code:
    def __reduce__(self):
        return (print, ("this must not be printed",))


@pytest.mark.parametrize("content", ["half", "code"])
def test_files_that_are_no_checkpoints(task, folder, content, capsys):
    path = folder / f"{content}.pth"
    whole = (folder / "model.pth").read_bytes()
    if content == "half":
        path.write_bytes(whole[: len(whole) // 2])
    else:
        torch.save({"a": Code()}, path)
    model, _ = untrained.build(task, task.config("loading.yaml"))
    for load in (
        lambda: from_file(folder / "config.yaml", path),
        lambda: abs_task.load_pretrained_model(str(path), model, False),
    ):
        with pytest.raises(CheckpointError) as error:
            load()
        check_sentence(path, error, "not a checkpoint that can be read safely")
    assert "this must not" not in capsys.readouterr().out


# ---- --init_param -------------------------------------------------------------------
@pytest.mark.parametrize("name", ["bits", "fewer", "wider"])
def test_starting_from_another_model(task, folder, name):
    changes, expected = CHANGES[name]
    _, model = built(task, f"loading_{name}", **changes)
    with pytest.raises(CheckpointError) as error:
        abs_task.load_pretrained_model(str(folder / "model.pth"), model(), False)
    expected = {"fewer": "Unexpected key(s)"}.get(name, expected)
    check_sentence(folder / "model.pth", error, expected)


def test_starting_from_a_packed_model(task, folder, packed):
    model, _ = untrained.build(task, task.config("loading.yaml"))
    for ignore in (False, True):
        with pytest.raises(CheckpointError) as error:
            abs_task.load_pretrained_model(f"{packed}:encoder:encoder", model, ignore)
        check_sentence(packed, error, "is packed; allowed as --init_param")
    abs_task.load_pretrained_model(str(folder / "model.pth"), model, False)
