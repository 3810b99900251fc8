"""Packed files straight into packed layers: exact, small, and safe."""

import contextlib
import hashlib
import json
import os
import random
import subprocess
import sys
import zipfile
import zlib

import pytest
import torch
from torch import nn

import espnet_gq
from espnet_gq.nn.prepare import quantized_weights
from espnet_gq.packing import PackedFormatError, load_packed, pack_state_dict, save
from espnet_gq.runtime import PackedWeight, available, skeleton


class Net(nn.Module):
    def __init__(self, width=33):
        super().__init__()
        self.conv = nn.Conv1d(7, width, 5)
        self.norm = nn.BatchNorm1d(width)
        self.lstm = nn.LSTM(width, 12, batch_first=True)
        self.out = nn.Linear(12, 13)

    def forward(self, x):
        x = self.norm(self.conv(x)).transpose(1, 2)
        return self.out(self.lstm(x)[0])


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    module = espnet_gq.prepare(Net(), {"bits": 5})
    module(torch.randn(4, 7, 10)).sum().backward()
    return module.eval()


@pytest.fixture(scope="module")
def packed(trained):
    return espnet_gq.pack(trained)


@pytest.fixture()
def path(packed, tmp_path):
    save(packed, tmp_path / "model.pth")
    return tmp_path / "model.pth"


def empty(width=33, prepared=True):
    with skeleton():
        model = Net(width).eval()
        return espnet_gq.prepare(model, {"bits": 5}) if prepared else model


@pytest.mark.parametrize("prepared", [True, False])
def test_the_model_is_the_hardened_one(trained, path, prepared):
    model = load_packed(empty(prepared=prepared), path)
    assert sum(isinstance(m, PackedWeight) for m in model.modules()) == 4
    assert all(t.device.type == "cpu" for t in model.state_dict().values())
    x = torch.randn(2, 7, 20)
    with torch.no_grad():
        torch.testing.assert_close(
            model(x), espnet_gq.harden(trained)(x), rtol=1e-5, atol=1e-6
        )


def test_a_float_model_that_has_memory_is_replaced_too(trained, path):
    x = torch.randn(2, 7, 20)
    with torch.no_grad():
        expected = load_packed(empty(), path)(x)
        assert torch.equal(load_packed(Net().eval(), path)(x), expected)


@pytest.mark.parametrize(
    "model, words",
    [
        (lambda: empty(34), "size mismatch for conv.weight"),
        (lambda: nn.Sequential(), "also has .* such as 'conv.weight'"),
        (lambda: Wider(), "lacks 2 tensors .* such as 'more.weight'"),
    ],
)
def test_another_model_is_named(path, model, words):
    with pytest.raises(ValueError, match=words):
        load_packed(model(), path)


class Wider(Net):
    def __init__(self):
        super().__init__()
        self.more = nn.Linear(2, 2)


def test_not_a_packed_file(tmp_path, trained):
    with pytest.raises(FileNotFoundError):
        load_packed(empty(), tmp_path / "none.pth")
    torch.save(trained.state_dict(), tmp_path / "qat.pth")
    with pytest.raises(ValueError, match="is not a packed checkpoint"):
        load_packed(empty(), tmp_path / "qat.pth")
    (tmp_path / "text.pth").write_text("no")
    with pytest.raises(ValueError, match="is not a checkpoint"):
        load_packed(empty(), tmp_path / "text.pth")


def test_every_truncation_is_an_error(path):
    whole = path.read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError):
            load_packed(empty(), path)


def test_every_flipped_bit_is_an_error_or_harmless(path, trained):
    whole, draw = path.read_bytes(), random.Random(0)
    x = torch.randn(1, 7, 12)
    with torch.no_grad():
        expected = load_packed(empty(), path)(x)
        errors = 0
        for _ in range(300):
            damaged = bytearray(whole)
            damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
            path.write_bytes(damaged)
            try:
                found = load_packed(empty(), path)(x)
            except ValueError:
                errors += 1
            else:  # in what fills the archive up
                assert torch.equal(found, expected)
    assert errors > 100


def hostile(packed, change):
    """A packed dict with another header and a checksum that is right."""
    header = json.loads(zlib.decompress(packed["header"].numpy().tobytes()))
    header = change(header) or header
    raw = zlib.compress(json.dumps(header).encode())
    digest = hashlib.sha256(raw + packed["data"].numpy().tobytes()).hexdigest()
    tensor = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
    return {**packed, "header": tensor, "sha256": digest}


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h["tensors"][0].update(shape=[2**20, 2**20]),
        lambda h: h["tensors"][0].update(shape=[2**40, 2**40]),
        lambda h: h["tensors"][0].update(shape=[0, 2**40, 5]),
        lambda h: h["tensors"][0].update(shape=[-1, 4]),
        lambda h: h["tensors"][0].update(shape=[33 * 7 * 5]),
        lambda h: h["tensors"][0].update(shape=[]),
        lambda h: h["tensors"][0].update(shape="many"),
        lambda h: h["tensors"][0].update(bits=0),
        lambda h: h["tensors"][0].update(bits=8),
        lambda h: h["tensors"][0].update(bits=2**40),
        lambda h: h["tensors"][0].update(scales=2**40),
        lambda h: h["tensors"][0].update(name=["conv"]),
        lambda h: h["tensors"][0].update(name="conv.bias"),
        lambda h: h["tensors"][0].update(name="norm.weight"),
        lambda h: h["tensors"][1].update(dtype="object"),
        lambda h: h["tensors"][1].update(name="conv.weight"),
        lambda h: h["tensors"].pop(),
        lambda h: h["tensors"].append({}),
        lambda h: h.update(tensors=7),
        lambda h: [h],
    ],
)
def test_hostile_headers(packed, tmp_path, change):
    save(hostile(packed, change), tmp_path / "hostile.pth")
    with pytest.raises(ValueError):
        load_packed(empty(), tmp_path / "hostile.pth")


def test_a_header_that_inflates_is_refused(packed, tmp_path):
    bomb = zlib.compress(b'{"tensors": [' + b" " * 2**26 + b"]}", 9)
    tensor = torch.frombuffer(bytearray(bomb), dtype=torch.uint8)
    save({**packed, "header": tensor}, tmp_path / "bomb.pth")
    with pytest.raises(PackedFormatError, match="too long"):
        load_packed(empty(), tmp_path / "bomb.pth")


@pytest.mark.parametrize("version", [0, 4, "1", None])
def test_unknown_versions(packed, tmp_path, version):
    save({**packed, "version": version}, tmp_path / "other.pth")
    with pytest.raises(PackedFormatError, match="version .*reads 1, 2, 3"):
        load_packed(empty(), tmp_path / "other.pth")


def test_a_compressed_archive_is_read_through_torch_or_refused(path, packed, tmp_path):
    with zipfile.ZipFile(path) as old:
        with zipfile.ZipFile(
            tmp_path / "deflated.pth", "w", zipfile.ZIP_DEFLATED
        ) as new:
            for name in old.namelist():
                new.writestr(name, old.read(name))
    with pytest.raises(ValueError):
        load_packed(empty(), tmp_path / "deflated.pth")


MEMORY = """
import sys, torch
from torch import nn
import espnet_gq
from espnet_gq.packing import load_packed
from espnet_gq.runtime import skeleton

def kib(field):
    for line in open("/proc/self/status"):
        if line.startswith(field + ":"):
            return int(line.split()[1])

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.a, self.b = nn.Linear(width, width), nn.LSTM(width, width)

    def forward(self, x):
        return self.b(self.a(x))[0]

def load(width, path):
    with skeleton():
        model = Net(width)
    return load_packed(model, path)

torch.set_num_threads(1)
with torch.no_grad():
    load(16, sys.argv[1])(torch.randn(3, 16))
    before = kib("VmRSS")
    model = load(2048, sys.argv[2])
    model(torch.randn(3, 2048))
print(kib("VmHWM") - before)
"""


@pytest.mark.skipif(not available(), reason="the kernels were not built")
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux")
def test_loading_never_holds_the_float_weights(tmp_path):
    class Large(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.a, self.b = nn.Linear(width, width), nn.LSTM(width, width)

    for width in (16, 2048):
        module = espnet_gq.prepare(Large(width), {"bits": 4})
        for _, _, quantizer in quantized_weights(module):
            quantizer.fitted = True  # a fit would take long and change nothing here
        save(pack_state_dict(module.state_dict()), tmp_path / f"{width}.pth")
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, tmp_path / "16.pth", tmp_path / "2048.pth"],
        capture_output=True,
        text=True,
        check=True,
    )
    weights = 9 * 2048**2
    packed_bytes = weights // 2
    # The packed weights and one tensor of the file; float32 would be 8 times as much.
    assert int(done.stdout) * 1024 < 2.0 * packed_bytes


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 6)
        self.hidden = nn.Linear(6, 6)
        self.out = nn.Linear(6, 9)
        self.out.weight = self.embed.weight

    def forward(self, x):
        return self.out(self.hidden(self.embed(x)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("without_memory", [True, False])
def test_a_float_parameter_of_two_layers_stays_one(dtype, without_memory):
    conf = {"bits": 3, "rules": [{"pattern": "embed", "float": True}]}
    module = espnet_gq.prepare(Tied(), conf).eval()
    with skeleton() if without_memory else contextlib.nullcontext():
        empty = Tied()
    loaded = load_packed(empty.to(dtype), espnet_gq.pack(module)).eval()
    assert loaded.out.weight is loaded.embed.weight
    assert loaded.out.weight.dtype == dtype
    x = torch.arange(9)
    torch.testing.assert_close(loaded(x).float(), module(x))
    loaded(x).sum().backward()
    assert [n for n, p in loaded.named_parameters() if p.grad is not None] == [
        *("embed.weight", "hidden.bias", "out.bias")
    ]
