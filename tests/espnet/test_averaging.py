"""ESPnet's averaging over any window gives a model that hardens and packs."""

import itertools

import pytest
import torch
from espnet2.main_funcs.average_nbest_models import average_nbest_models
from espnet2.train.reporter import Reporter
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import espnet_gq
from espnet_gq.packing import (
    harden_state_dict,
    load_state_dict,
    pack_state_dict,
    quantized_names,
    stored_quantizer,
    unpack_state_dict,
)

EPOCHS = 5
CASES = [("gq", 1), ("gq", 3), ("gq", 5), ("gq", 8), ("uniform", 4), ("lsq", 3)]
CASES += [("lloyd_max", 2), ("dkm", 3), ("free", 2), ("free", 4), ("ternary", 2)]


def figures(accuracies, losses):
    """Return the reporter of a training with these figures, an epoch each."""
    reporter = Reporter()
    values = zip(accuracies, losses)
    stats = {
        epoch: {"valid": {"acc": float(acc)}, "train": {"loss": float(loss)}}
        for epoch, (acc, loss) in enumerate(values, 1)
    }
    reporter.load_state_dict({"epoch": EPOCHS, "stats": stats})
    return reporter


def net(method, bits):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), nn.Flatten())
    module.append(nn.Linear(36, 5))
    conf = {"bits": bits, "method": method, "annealing": {"steps": 100}}
    return espnet_gq.prepare(module, conf)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "{} {}".format(*case))
def training(request, tmp_path_factory):
    """Folder of the models of several epochs, and another model of the kind."""
    method, bits = request.param
    folder = tmp_path_factory.mktemp(f"{method}{bits}")
    module = net(method, bits)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    for epoch in range(1, EPOCHS + 1):
        for _ in range(3 + epoch):  # epochs of unlike length: means are no whole steps
            optimizer.zero_grad()
            module(torch.randn(8, 4, 8)).square().mean().backward()
            optimizer.step()
            espnet_gq.advance(module)
        torch.save(module.state_dict(), folder / f"{epoch}epoch.pth")
    return folder, net(method, bits), bits


def check(path, other, bits):
    state = load_state_dict(path)
    other.load_state_dict(state)  # every tensor, strictly
    other.eval()
    assert all(1 <= q.step <= 100 and q.fitted for q in quantizers(other))
    hardened = harden_state_dict(state)
    unpacked = unpack_state_dict(pack_state_dict(state))
    module_hardened = espnet_gq.harden(other).state_dict()
    for name, value in hardened.items():
        assert value.isfinite().all()
        assert torch.equal(value, unpacked[name]), name
        assert torch.equal(value, module_hardened[name]), name
    for name in quantized_names(state):
        stored = stored_quantizer(state, name)
        assert stored.bits == bits and stored.codebook.numel() <= 2**bits
        assert (stored.codebook.diff() > 0).all()
        rows = hardened[name].reshape(stored.log_scale.numel(), -1)
        for row, z in zip(rows, stored.scale * stored.codebook):
            assert torch.isin(row, z).all()


def quantizers(module):
    return [m for m in module.modules() if isinstance(m, espnet_gq.quantizer.Quantizer)]


@settings(max_examples=6, deadline=None)
@given(
    windows=st.lists(st.integers(1, EPOCHS), min_size=1, max_size=3, unique=True),
    accuracies=st.permutations(range(EPOCHS)),
    losses=st.permutations(range(EPOCHS)),
    suffix=st.sampled_from([None, "till5epoch"]),
)
def test_any_window(training, windows, accuracies, losses, suffix):
    folder, other, bits = training
    criteria = [("valid", "acc", "max"), ("train", "loss", "min")]
    reporter = figures(accuracies, losses)
    average_nbest_models(folder, reporter, criteria, windows, suffix)
    end = "." + (f"{suffix}." if suffix else "") + "pth"
    for (phase, key, _), n in itertools.product(criteria, windows):
        check(folder / f"{phase}.{key}.ave_{n}best{end}", other, bits)
    check(folder / f"valid.acc.ave{end}", other, bits)
