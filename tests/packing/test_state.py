"""State beside finite tensors: extra state, masks, types."""

import json
import logging
import zlib

import pytest
import torch
from torch import nn

import espnet_gq
from espnet_gq.nn.finite import NotFiniteError
from espnet_gq.packing import (
    PackedFormatError,
    harden_state_dict,
    load_packed,
    load_state_dict,
    pack_state_dict,
    save,
    unpack_state_dict,
)
from espnet_gq.runtime import skeleton

INF = float("inf")


class Holder(nn.Module):
    def __init__(self, extra=None, mask=-INF):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.extra = extra
        self.register_buffer("mask", torch.full((3, 3), mask).triu(1))

    def get_extra_state(self):
        return self.extra

    def set_extra_state(self, extra):
        self.extra = extra

    def forward(self, x):
        return self.layer(x)


def trained(*args):
    module = espnet_gq.prepare(Holder(*args), {"bits": 3})
    module(torch.randn(2, 4))
    return module.eval()


EXTRAS = [None, 3, 0.5, "text", [1, "two", None], {"a": {"b": [True]}}, torch.ones(3)]


@pytest.mark.parametrize("extra", EXTRAS, ids=repr)
def test_extra_state_comes_back(extra, tmp_path):
    module = trained(extra)
    assert same(espnet_gq.harden(module).extra, extra)
    save(espnet_gq.pack(module), tmp_path / "packed.pth")
    assert same(load_packed(Holder(), tmp_path / "packed.pth").extra, extra)
    unpacked = unpack_state_dict(load_state_dict(tmp_path / "packed.pth"))
    other = espnet_gq.prepare(Holder(), {"bits": 3})
    other.load_state_dict(unpacked)
    assert same(other.extra, extra)
    save(module.state_dict(), tmp_path / "trained.pth")
    state = load_state_dict(tmp_path / "trained.pth")
    assert same(harden_state_dict(state)["_extra_state"], extra)
    assert pack_state_dict(state)["sha256"] == espnet_gq.pack(module)["sha256"]


def same(a, b):
    return torch.equal(a, b) if torch.is_tensor(a) else a == b


@pytest.mark.parametrize("extra", [(1, 2), {1: 2}, {"a": INF}, b"bytes", object()])
def test_extra_state_that_json_does_not_hold_is_refused(extra):
    with pytest.raises(ValueError, match="_extra_state holds .*; allowed beside"):
        espnet_gq.pack(trained(extra))


@pytest.mark.parametrize("value", [-INF, INF, float("nan")])
def test_masks_are_kept(value, caplog):
    module = trained(None, value)
    with caplog.at_level(logging.WARNING):
        packed = espnet_gq.pack(module)
    assert "mask" in caplog.text and "kept as they are" in caplog.text
    for other in (espnet_gq.harden(module), load_packed(Holder(), packed)):
        torch.testing.assert_close(other.mask, module.mask, equal_nan=True)
    state = module.state_dict()
    if value == value:
        assert torch.equal(harden_state_dict(state)["mask"], module.mask)
        assert pack_state_dict(state)["sha256"] == packed["sha256"]
    else:  # in a state dict it may be a weight
        for refused in (harden_state_dict, pack_state_dict):
            with pytest.raises(NotFiniteError, match="mask"):
                refused(state)


def altered(packed, change):
    header = json.loads(zlib.decompress(packed["header"].numpy().tobytes()))
    change(header["tensors"])
    raw = zlib.compress(json.dumps(header).encode())
    import hashlib

    packed["header"] = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
    digest = hashlib.sha256(raw + packed["data"].numpy().tobytes())
    packed["sha256"] = digest.hexdigest()
    return packed


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "x", "same_as": "nowhere"},
        {"name": "x", "same_as": "x"},
        {"name": "x", "same_as": "layer.bias"},
        {"name": "x", "same_as": 3},
        {"name": "x", "same_as": ["layer.weight"]},
        {"name": 3, "same_as": "layer.weight"},
        {"same_as": "layer.weight"},
        {"name": 3, "extra": 1},
    ],
    ids=str,
)
def test_hostile_entries_without_content(entry):
    packed = altered(espnet_gq.pack(trained()), lambda entries: entries.append(entry))
    with pytest.raises(PackedFormatError):
        unpack_state_dict(packed)


# ---- types ----
class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Embedding(9, 8), nn.Linear(8, 6)
        self.c, self.norm = nn.LSTM(6, 4), nn.LayerNorm(4)

    def forward(self, x):
        return self.norm(self.c(self.b(self.a(x)))[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_model_keeps_its_type(dtype):
    torch.manual_seed(0)
    module, x = espnet_gq.prepare(Layers(), {"bits": 4}), torch.arange(9)
    module(x)
    packed = espnet_gq.pack(module.eval())
    found = load_packed(Layers().to(dtype), packed)
    floats = [p.dtype for p in found.parameters()]
    assert set(floats) == {dtype}
    expected = espnet_gq.harden(module).to(dtype)
    with torch.no_grad():
        assert found(x).dtype == dtype
        torch.testing.assert_close(found(x), expected(x), rtol=0.02, atol=0.02)


def test_a_skeleton_under_another_default_type():
    torch.manual_seed(0)
    module, x = espnet_gq.prepare(Layers(), {"bits": 4}), torch.arange(9)
    module(x)
    packed = espnet_gq.pack(module.eval())
    torch.set_default_dtype(torch.float64)
    try:
        with skeleton():
            model = Layers()
        with torch.no_grad():
            assert load_packed(model, packed)(x).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


LONE = {
    "linear": (lambda: nn.Linear(8, 6), torch.randn(3, 8)),
    "embedding": (lambda: nn.Embedding(9, 8), torch.arange(9)),
    "conv1d": (lambda: nn.Conv1d(8, 6, 3), torch.randn(2, 8, 9)),
    "lstm": (lambda: nn.LSTM(8, 6, 2), torch.randn(4, 2, 8)),
    "gru cell": (lambda: nn.GRUCell(8, 6), torch.randn(3, 8)),
}


@pytest.mark.parametrize("kind", LONE)
def test_a_lone_layer(kind, tmp_path):
    make, x = LONE[kind]
    module = espnet_gq.prepare(make(), {"bits": 4}).eval()
    save(espnet_gq.pack(module), tmp_path / "packed.pth")
    layer = make()
    found = load_packed(layer, tmp_path / "packed.pth")
    assert found is layer
    with torch.no_grad():
        expected, out = module(x), found(x)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
