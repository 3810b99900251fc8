"""The holds on ESPnet: each finds its name, and nothing outside ESPnet is replaced."""

import importlib
import inspect
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_task import ABSENT, Task, run

from espnet_gq._compat import espnet_version
from espnet_gq.espnet import registration
from espnet_gq.espnet.holds import HOLDS, RELEASES, Kind, holds
from espnet_gq.espnet.registration import (
    HoldError,
    find,
    install,
    is_installed,
    replaced,
)
from espnet_gq.espnet.torch_proxy import ModuleProxy
from espnet_gq.espnet.torch_proxy import torch as espnet_torch
from espnet_gq.files import SUFFIX

INSTALLED = holds(espnet_version())
DECODER = next(h for h in INSTALLED if h.name == "decoder_choices")
TASK = next(h for h in INSTALLED if h.name == "ASRTask.build_model")
TORCH = next(h for h in INSTALLED if h.kind is Kind.PROXIED)


def module_of(hold):
    try:
        return importlib.import_module(hold.module)
    except ModuleNotFoundError as e:
        if e.name == "lightning":
            pytest.skip("lightning is not installed")
        raise


@pytest.mark.parametrize("hold", INSTALLED, ids=str)
def test_the_name_is_there_and_extended(hold):
    module = module_of(hold)
    _, _, value = find(hold, module)
    if hold.kind is Kind.SCOPED:
        with replaced(hold, module, print):
            assert getattr(module, hold.name) is print
        assert getattr(module, hold.name) is value
        return
    assert is_installed(hold, module)
    install(hold, module)
    assert find(hold, module)[2] is value


def test_each_name_is_held_once():
    for release in RELEASES:
        names = [str(hold) for hold in holds(release)]
        assert len(names) == len(set(names))
    for hold in HOLDS:
        assert hold.reason.endswith(".") and hold.reason.count(". ") == 0
        assert set(hold.releases) <= set(RELEASES) and hold.releases


@pytest.mark.parametrize(
    "hold, problem",
    [
        (replace(TASK, name="ASRTask.no_such_function"), "does not exist"),
        (replace(TASK, name="NoTask.build_model"), "does not exist"),
        (replace(TASK, name="ASRTask.num_optimizers"), "is a int"),
        (replace(TASK, name="ASRTask"), "is a ABCMeta"),
        (replace(DECODER, name="ASRTask"), "is a ABCMeta"),
        (replace(DECODER, kind=Kind.SUBCLASS), "is a ClassChoices"),
        (replace(TORCH, name="__name__"), "is a str"),
    ],
)
def test_a_hold_that_is_lost_is_one_sentence(hold, problem):
    with pytest.raises(HoldError) as error:
        find(hold, module_of(hold))
    assert str(error.value) == (
        f"{hold} {problem}, but espnet_gq extends it ({hold.kind.value}: "
        f"{hold.reason}); allowed: an ESPnet release that espnet_gq supports"
    )


def test_a_class_of_another_kind_is_not_replaced(monkeypatch):
    hold = next(h for h in INSTALLED if h.name == "Encoder")
    module = module_of(hold)
    monkeypatch.setattr(module, "Encoder", dict)
    with pytest.raises(HoldError, match="Encoder is builtins.dict, but espnet_gq"):
        install(hold, module)
    assert module.Encoder is dict


def test_a_task_that_was_imported_before_the_plugin(tmp_path):
    code = (
        "from espnet2.bin.pack import pack\nfrom espnet2.bin import pack as command\n"
        "from espnet2.tasks.asr import ASRTask, encoder_choices\n"
        "import espnet_gq.espnet\n"
        "assert 'gq_conformer' in encoder_choices.classes\n"
        "assert ASRTask.trainer.__name__ == 'GQTrainer'\n"
        "assert command.pack is not pack and command.pack.__wrapped__ is pack\n"
    )
    run([sys.executable, "-c", code])


# ---- PyTorch as ESPnet's modules see it ----------------------------------------------
def test_a_proxy_differs_in_what_it_is_given_only():
    proxy = ModuleProxy(torch, save=print)
    assert proxy.save is print and torch.save is not print
    assert proxy.Tensor is torch.Tensor and proxy.nn is torch.nn
    assert inspect.ismodule(proxy)
    with pytest.raises(AttributeError, match="no_such_name"):
        proxy.no_such_name
    assert espnet_torch.nn.Linear is torch.nn.Linear
    assert espnet_torch.nn.utils.rnn is torch.nn.utils.rnn


def test_other_libraries_keep_their_functions(tmp_path):
    """Sampled at every file that is opened or moved and in every forward pass."""
    pytest.importorskip("lightning")
    task = Task(tmp_path, train=8)
    task.config(nbest_averaging_interval=1)
    float_parts = {
        **{f"{part}_conf__gq_conf": ABSENT for part in ("encoder", "decoder", "model")},
        **{"encoder": "conformer", "decoder": "transformer", "model": "espnet"},
    }
    from untrained import build

    model, _ = build(task, task.config("float.yaml", **float_parts))
    torch.save(model.state_dict(), tmp_path / "float.pth")
    script = Path(__file__).with_name("originals.py")
    run([sys.executable, str(script), str(tmp_path)])
    seen = json.loads((tmp_path / "seen.json").read_text())
    for stage, events in {
        "train": ("open", "os.rename", "os.symlink", "forward"),
        "train_with_lightning": ("open", "os.rename", "forward"),
        "pack": ("open", "os.rename"),
        "decode": ("open", "os.rename", "forward"),
        "share": ("open", "os.rename"),
    }.items():
        assert all(seen[stage].get(event) for event in events), (stage, seen[stage])
    plots = {path.name for path in (tmp_path / "out").rglob("*.png")}
    assert "loss.png" in plots and any("self_attn" in name for name in plots)
    assert not list(tmp_path.rglob(f"*{SUFFIX}"))
    assert not registration._function(torch.save) in registration._replacements
