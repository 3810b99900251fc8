"""Invalid inputs by kind: generation, consumption and expected words of the refusal.

Each function of KINDS gets a random generator and an empty folder, feeds one invalid
input to the project, and returns words that a refusal must contain. Exceptions of the
project pass through.
"""

import copy
import hashlib
import json
import math
import random
import stat
import string
import zipfile
import zlib
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple, Type

import numpy as np
import soundfile
import torch

from espnet_gq import GQConfig, prepare
from espnet_gq.analysis.sensitivity import Cost, Sensitivity, TensorCosts
from espnet_gq.bin import allocate, format_wav_scp, pack
from espnet_gq.espnet.inference.audio import AudioNeeds
from espnet_gq.espnet.sharing.archive import unpack_archive
from espnet_gq.nn import GQConfigError
from espnet_gq.packing import load_packed, load_state_dict, pack_state_dict
from espnet_gq.packing.checkpoint import DTYPES
from espnet_gq.runtime import skeleton


class Refused(Exception):
    """A refusal that was returned, not raised."""


def model() -> torch.nn.ModuleDict:
    """Return a model with a layer of most kinds."""
    torch.manual_seed(0)
    return torch.nn.ModuleDict(
        {
            "conv": torch.nn.Conv1d(4, 6, 3),
            "norm": torch.nn.BatchNorm1d(6),
            "embed": torch.nn.Embedding(7, 6),
            "rnn": torch.nn.LSTM(6, 5),
            "out": torch.nn.Linear(5, 9),
        }
    )


CONF = {
    "bits": 5,
    "rules": [
        {"pattern": "rnn.weight_hh*", "bits": 1, "granularity": "gate"},
        {"pattern": "embed", "float": True},
    ],
    "granularity": "tensor",
    "forward": "soft",
    "annealing": {"start": 3, "end": 50, "curve": "linear", "steps": 9},
    "every": 2,
    "method": "gq",
    "method_conf": {"mu": 4, "train_mu": False},
}


def quantized_model() -> torch.nn.Module:
    """Return the model with fitted quantizers."""
    found = prepare(model(), {"bits": 5, "rules": CONF["rules"]})
    for module in found.modules():
        for _, weight, quantizer in getattr(module, "quantized", list)():
            quantizer.fit(weight)
    return found


# --- junk -----------------------------------------------------------------------------


def junk(rng: random.Random, depth: int = 0) -> Any:
    """Return a value of any type that YAML or JSON can represent."""
    plain: List[Any] = [
        *(None, True, False, 0, 1, -1, 2**31, 2**63, -(2**70), 10**400, 9),
        *(0.5, -0.0, 1e308, math.inf, -math.inf, math.nan, 1e-320),
        *("", " ", "x" * 3000, "5", "tensor", "*", "[", "\0", "\n", "ä\u202e", "../a"),
    ]
    roll = rng.randrange(10 if depth < 3 else 8)
    if roll < 8:
        return rng.choice(plain)
    size = rng.randrange(4)
    if roll == 8:
        return [junk(rng, depth + 1) for _ in range(size)]
    return {rng.choice(("bits", "a", "", 3)): junk(rng, depth + 1) for _ in range(size)}


def places(value: Any) -> List[Tuple[Any, Any]]:
    """Return (container, key) of all values in a nested value."""
    found: List[Tuple[Any, Any]] = []
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, below in items:
        found.append((value, key))
        found += places(below)
    return found


def disturbed(rng: random.Random, value: Any) -> Any:
    """Return a copy with some values replaced, added or removed."""
    value = copy.deepcopy(value)
    for _ in range(rng.randrange(1, 4)):
        container, key = rng.choice(places(value) or [({}, "")])
        roll = rng.randrange(4)
        if roll == 0 and isinstance(container, dict):
            container.pop(key, None)
        elif roll == 1 and isinstance(container, dict):
            container[rng.choice((key, "unknown", "Bits", ""))] = junk(rng)
        elif isinstance(container, dict) or key < len(container):
            container[key] = junk(rng)
    return value


def damaged(rng: random.Random, content: bytes) -> bytes:
    """Return the bytes cut, flipped, repeated or zeroed somewhere."""
    data = bytearray(content)
    for _ in range(rng.randrange(1, 5)):
        if not data:
            break
        at = rng.randrange(len(data))
        roll = rng.randrange(6)
        if roll == 0:
            del data[at:]
        elif roll == 1:
            data[at : at + rng.randrange(64)] = b""
        elif roll == 2:
            data[at:at] = rng.randbytes(rng.randrange(64))
        elif roll == 3:
            data[at : at + 64] = bytes(len(data[at : at + 64]))
        else:
            data[at] ^= 1 << rng.randrange(8)
    return bytes(data)


# --- kinds ----------------------------------------------------------------------------


def gq_conf(rng: random.Random, folder: Path) -> List[str]:
    """Configurations of the quantizer."""
    prepare(model(), GQConfig.from_dict(disturbed(rng, CONF)))
    return ["gq_conf"]


def packed_bytes(rng: random.Random, folder: Path) -> List[str]:
    """Packed files with damaged bytes."""
    path = folder / "model.pth"
    path.write_bytes(damaged(rng, _packed_file(folder)))
    _load(path)
    return [str(path)]


def packed_header(rng: random.Random, folder: Path) -> List[str]:
    """Packed files with a wrong header and a matching checksum."""
    packed = pack_state_dict(quantized_model().state_dict())
    header = json.loads(zlib.decompress(packed["header"].numpy().tobytes()))
    text = json.dumps(disturbed(rng, header)).encode("utf-8", "surrogatepass")
    data = packed["data"].numpy().tobytes()
    if rng.randrange(4) == 0:
        data = damaged(rng, data)
    if rng.randrange(8) == 0:
        text = b"[" * rng.randrange(200_000)
    header = zlib.compress(text)
    packed["header"] = torch.frombuffer(bytearray(header), dtype=torch.uint8)
    packed["data"] = torch.frombuffer(
        bytearray(data) or bytearray(1), dtype=torch.uint8
    )
    packed["sha256"] = hashlib.sha256(header + packed["data"].numpy().tobytes())
    packed["sha256"] = packed["sha256"].hexdigest()
    if rng.randrange(4) == 0:
        packed[rng.choice(list(packed))] = rng.choice((None, 3, "x", torch.ones(2)))
    path = folder / "model.pth"
    torch.save(packed, path)
    _load(path)
    return [str(path)]


def checkpoint(rng: random.Random, folder: Path) -> List[str]:
    """Training checkpoints with unexpected tensors."""
    state = dict(quantized_model().state_dict())
    for _ in range(rng.randrange(1, 4)):
        name = rng.choice(list(state) or [""])
        tensor, roll = state.get(name), rng.randrange(7)
        if not torch.is_tensor(tensor) or not tensor.numel():
            continue
        if roll == 0:
            del state[name]
        elif roll == 1:
            state[name] = tensor.flatten()[: rng.randrange(tensor.numel() + 1)]
        elif roll == 2:
            state[name] = tensor.to(rng.choice(list(DTYPES.values())))
        elif roll == 3 and tensor.is_floating_point():
            state[name] = torch.full_like(
                tensor, rng.choice((math.nan, math.inf, 1e38))
            )
        elif roll == 4:
            state[rng.choice(("", "a" * 500, "_quantizer.saved_state"))] = tensor
        elif roll == 5:
            state[name] = tensor[None]
        else:
            state[name] = rng.choice(
                (None, "x", [1], torch.tensor(1j), tensor.to_sparse())
            )
    path = folder / "model.pth"
    torch.save(state, path)
    form = rng.choice(("packed", "float"))
    pack.main(["--asr_model_file", str(path), "--format", form])
    return [str(path)]


def archive(rng: random.Random, folder: Path) -> List[str]:
    """Model zips: damaged, with entries outside the folder, or with huge contents."""
    path = folder / "in" / "model.zip"
    path.parent.mkdir()
    meta = "files: {asr_model_file: m.pth}\nyaml_files: {asr_train_config: c.yaml}\n"
    entries: Dict[str, bytes] = {"meta.yaml": meta.encode()}
    entries.update({"m.pth": b"weights" * 99, "c.yaml": b"encoder: conformer\n"})
    hostile = (
        *("../evil", "/tmp/evil", "a/../../evil", "C:\\evil", "a\\..\\..\\evil", "./a"),
        *("a//b", "M.pth", "m.pth/x", "a" * 300, "con\0trol", "link", "device", "bomb"),
    )
    if rng.randrange(3) == 0:
        entries["meta.yaml"] = damaged(rng, entries["meta.yaml"])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in entries.items():
            file.writestr(name, content)
        for name in rng.sample(hostile, rng.randrange(3)):
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            kind = {"link": stat.S_IFLNK, "device": stat.S_IFCHR}.get(
                name, stat.S_IFREG
            )
            info.external_attr = (kind | 0o644) << 16
            content = bytes(2**25) if name == "bomb" else b"/etc/passwd"
            file.writestr(info, content)
    if rng.randrange(2):
        path.write_bytes(damaged(rng, path.read_bytes()))
    target = folder / "out" / "model"
    try:
        unpack_archive(path, target)
    finally:
        found = {p for p in folder.rglob("*")} - {path, path.parent, target.parent}
        outside = [p for p in found if not p.is_relative_to(target)]
        if outside or any(p.is_symlink() for p in found):
            raise AssertionError(f"the zip wrote {outside or 'a link'}")
    return [str(path)]


def audio(rng: random.Random, folder: Path) -> List[str]:
    """Audio files: damaged, with another rate, or with samples that are not finite."""
    suffix = rng.choice(("wav", "flac", "ogg"))
    path = folder / f"sound.{suffix}"
    length, fs = rng.choice((0, 1, 128, 4000)), rng.choice((1, 8000, 8000, 192000))
    samples = np.random.default_rng(rng.randrange(2**32)).standard_normal(length)
    if suffix == "wav":
        if length and rng.randrange(2):
            samples[rng.randrange(length)] = rng.choice((np.nan, np.inf, 1e300))
        soundfile.write(path, samples, fs, rng.choice(("FLOAT", "PCM_16", "DOUBLE")))
    else:
        soundfile.write(path, np.zeros(4000), 8000)
    if rng.randrange(3):
        path.write_bytes(damaged(rng, path.read_bytes()))
    if rng.randrange(10) == 0:
        path.write_text("".join(rng.choices(string.printable, k=99)))
    reason = AudioNeeds(8000, 129).refusal(str(path))
    if reason is not None:
        raise Refused(reason)
    return [str(path)]


def data_directory(rng: random.Random, folder: Path) -> List[str]:
    """Kaldi data directories with damaged tables."""
    source = folder / "data"
    source.mkdir()
    soundfile.write(folder / "a.wav", np.zeros(4000), 8000)
    files = {
        "wav.scp": f"a {folder}/a.wav\nb {folder}/a.wav\n",
        "text": "a one\nb two\n",
        "utt2spk": "a s\nb s\n",
    }
    if rng.randrange(2):
        files["segments"] = "a-1 a 0.0 0.2\nb-1 b 0.1 0.3\n"
    name = rng.choice(list(files))
    for other, content in files.items():
        data = content.encode()
        (source / other).write_bytes(damaged(rng, data) if other == name else data)
    if rng.randrange(8) == 0:
        (source / name).unlink()
    if rng.randrange(8) == 0:
        (folder / "a.wav").write_bytes(damaged(rng, (folder / "a.wav").read_bytes()))
    format_wav_scp.main(["--dir", str(source), str(folder / "out"), "--fs", "8k"])
    return [str(folder)]


def sensitivity(rng: random.Random, folder: Path) -> List[str]:
    """Sensitivity files, changed by hand."""
    path = folder / "sensitivity.json"
    record = _sensitivity(path)
    text = json.dumps(disturbed(rng, record))
    content = text.encode("utf-8", "surrogatepass")
    path.write_bytes(damaged(rng, content) if rng.randrange(4) == 0 else content)
    budget = rng.choice((["--effective_bits", "4"], ["--max_size", "2kB"]))
    allocate.main([str(path), *budget, "--output", str(folder / "out.yaml")])
    return [str(path)]


KINDS: Dict[
    str, Tuple[Callable[[random.Random, Path], List[str]], Tuple[Type, ...]]
] = {
    "gq_conf": (gq_conf, (GQConfigError,)),
    "packed file, bytes": (packed_bytes, (ValueError, FileNotFoundError)),
    "packed file, header": (packed_header, (ValueError, FileNotFoundError)),
    "checkpoint": (checkpoint, (SystemExit,)),
    "zip": (archive, (ValueError, OSError)),
    "audio": (audio, (Refused,)),
    "data directory": (data_directory, (SystemExit,)),
    "sensitivity.json": (sensitivity, (SystemExit,)),
}
"""By kind: the function that feeds one input, and the exceptions that are refusals."""


def _packed_file(folder: Path) -> bytes:
    path = folder / "whole.pth"
    torch.save(pack_state_dict(quantized_model().state_dict()), path)
    content = path.read_bytes()
    path.unlink()
    return content


def _load(path: Path) -> None:
    load_state_dict(path)
    with skeleton():
        built = model()
        prepare(built, {"bits": 5, "rules": CONF["rules"]})
    load_packed(built, path)
    with torch.no_grad():
        built["out"](torch.ones(2, 5))
        built["rnn"](torch.ones(3, 1, 6))


def _sensitivity(path: Path) -> Dict[str, Any]:
    widths = [1, 2, 4, 8]
    tensors = [
        TensorCosts(
            f"encoder.{name}.weight",
            (8, 16),
            {b: Cost(4.0**-b, 5.0**-b, 16 * b + 8, 1) for b in widths},
        )
        for name in ("a", "b", "c")
    ]
    Sensitivity(
        task="asr",
        model="0" * 64,
        data={},
        bits=widths,
        base_loss=1.0,
        utterances=3,
        unquantized={"numel": 4, "bytes": 40},
        unmeasured=0,
        tensors=tensors,
    ).write(path)
    return json.loads(path.read_text())
