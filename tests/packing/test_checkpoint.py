"""The packed checkpoint: exact, small, and safe to read."""

import copy
import os

import pytest
import torch
from torch import nn

import espnet_gq
from espnet_gq.packing import (
    PackedFormatError,
    harden_state_dict,
    load_packed,
    load_state_dict,
    pack_state_dict,
    quantized_names,
    save,
    unpack_state_dict,
)
from espnet_gq.quantizer.methods import METHODS


def net(bits=5, **conf):
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv1d(7, 33, 5), nn.BatchNorm1d(33), nn.Flatten(), nn.Linear(33 * 6, 13)
    )
    espnet_gq.prepare(module, {"bits": bits, **conf})
    module(torch.randn(4, 7, 10)).sum().backward()
    return module.eval()


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_packed_hardened_and_evaluated_are_the_same_model(tmp_path, bits, granularity):
    module = net(bits, granularity=granularity)
    x = torch.randn(3, 7, 10)
    save(espnet_gq.pack(module), tmp_path / "packed.pth")
    state = unpack_state_dict(load_state_dict(tmp_path / "packed.pth"))
    hardened = harden_state_dict(module.state_dict())
    for key, value in espnet_gq.harden(module).state_dict().items():
        assert torch.equal(value, hardened[key]), key
        assert torch.equal(value, state[key]), key
        assert value.dtype == state[key].dtype
    # Packed again it is the same file; loaded into the quantized model, the same model.
    assert torch.equal(pack_state_dict(state)["data"], espnet_gq.pack(module)["data"])
    other = net(bits, granularity=granularity)
    other.load_state_dict(state)
    assert torch.equal(other(x), module(x))
    for name in quantized_names(state):
        rows = state[name].flatten(1)
        rows = rows if granularity == "channel" else rows.view(1, -1)
        assert max(row.unique().numel() for row in rows) <= 2**bits


@pytest.mark.parametrize("method", [m for m in METHODS if m != "gq"])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_other_methods_are_packed_with_their_codebooks(tmp_path, method, bits):
    if (method, bits) in {("lsq", 1), ("ternary", 4)}:
        pytest.skip("not a width of this method")
    module = net(bits, method=method)
    x = torch.randn(3, 7, 10)
    packed = espnet_gq.pack(module)
    assert packed["version"] == 2
    save(packed, tmp_path / "packed.pth")
    state = unpack_state_dict(load_state_dict(tmp_path / "packed.pth"))
    for key, value in espnet_gq.harden(module).state_dict().items():
        assert torch.equal(value, state[key]), key
    other = net(bits, method=method)
    other.load_state_dict(state)
    assert torch.equal(other(x), module(x))
    runs = load_packed(net(bits, method=method), tmp_path / "packed.pth")
    with torch.no_grad():
        torch.testing.assert_close(runs(x), module(x), rtol=1e-5, atol=1e-6)


def test_size_is_that_of_the_indices(tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(*[nn.Linear(256, 256) for _ in range(12)])
    espnet_gq.prepare(module, {"bits": 5})
    save(espnet_gq.pack(module), tmp_path / "packed.pth")
    expected = 12 * (256 * 256 * 5 / 8 + 256 * 4)
    assert (tmp_path / "packed.pth").stat().st_size <= 1.02 * expected


def test_a_float_checkpoint_cannot_be_packed():
    with pytest.raises(ValueError, match="no quantized tensor"):
        pack_state_dict(nn.Linear(2, 2).state_dict())


@pytest.mark.parametrize("key", ["log_scale", "log_mu"])
def test_a_quantizer_that_lacks_a_tensor_is_named(key):
    state = net().state_dict()
    del state[f"0.weight_quantizer.{key}"]
    with pytest.raises(ValueError, match="^0.weight has a quantizer without"):
        pack_state_dict(state)


def test_an_untrained_quantizer_cannot_be_packed():
    module = espnet_gq.prepare(nn.Linear(4, 4), {"bits": 5})
    with pytest.raises(ValueError, match="weight has never been quantized"):
        pack_state_dict(module.state_dict())


def damaged():
    packed = espnet_gq.pack(net())

    def changed(**values):
        return {**packed, **values}

    flipped = packed["data"].clone()
    flipped[100] ^= 1
    yield "bit flip", changed(data=flipped), "checksum"
    yield "truncated", changed(data=packed["data"][:-8]), "checksum"
    yield "version", changed(version=99), "version 99;"
    yield "no data", {k: v for k, v in packed.items() if k != "data"}, "'data'"
    yield "wrong type", changed(header="text"), "'header'"
    yield "not a byte", changed(data=packed["data"].float()), "'data'"


@pytest.mark.parametrize(
    "name, packed, words", list(damaged()), ids=lambda x: str(x)[:9]
)
def test_damage_is_named(name, packed, words):
    with pytest.raises(PackedFormatError, match=words):
        unpack_state_dict(packed)


def rewritten(change):
    """A packed dict with a changed header and a checksum that is right."""
    import hashlib
    import json
    import zlib

    packed = espnet_gq.pack(net())
    header = json.loads(zlib.decompress(packed["header"].numpy().tobytes()))
    header = change(copy.deepcopy(header)) or header
    raw = zlib.compress(json.dumps(header).encode())
    digest = hashlib.sha256(raw + packed["data"].numpy().tobytes()).hexdigest()
    tensor = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
    return {**packed, "header": tensor, "sha256": digest}


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h["tensors"][0].update(shape=[2**40, 2**40]),
        lambda h: h["tensors"][0].update(shape=[-1, 4]),
        lambda h: h["tensors"][0].update(shape="many"),
        lambda h: h["tensors"][0].update(bits=0),
        lambda h: h["tensors"][0].update(bits=64),
        lambda h: h["tensors"][0].update(scales=12),
        lambda h: h["tensors"][1].update(dtype="object"),
        lambda h: h["tensors"][1].pop("dtype"),
        lambda h: h["tensors"].pop(),
        lambda h: h["tensors"].append({}),
        lambda h: h.update(tensors=7),
        lambda h: h["tensors"].insert(0, 5),
    ],
)
def test_a_hostile_header_is_an_error_before_any_large_allocation(change):
    def apply(header):
        change(header)
        return header

    with pytest.raises(PackedFormatError):
        unpack_state_dict(rewritten(apply))


def test_nothing_runs_from_a_file(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "evil"),))

    torch.save({"x": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="cannot be read safely|can be read safely"):
        load_state_dict(tmp_path / "evil.pth")
    assert not (tmp_path / "evil").exists()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "model.pth"
    save({"x": torch.ones(1)}, path)

    class Broken:
        def __reduce__(self):
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save({"x": Broken()}, path)
    assert torch.equal(load_state_dict(path)["x"], torch.ones(1))
    assert [p.name for p in tmp_path.iterdir()] == ["model.pth"]


def test_a_packed_file_has_nothing_random_in_it(tmp_path):
    for name in ("a.pth", "b.pth"):
        save(espnet_gq.pack(net()), tmp_path / name)
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()
