"""The packed checkpoint: bit-packed indices and their codebooks in one file.

A packed checkpoint is a dict of plain tensors and primitives, so `torch.load` reads it
with `weights_only=True`:

    format   "espnet_gq.packed"
    version  1; 2 where a tensor stores its codebook; 3 where an entry has no content
             in `data`
    header   uint8 tensor: zlib-compressed JSON (UTF-8), see below
    data     uint8 tensor: the contents of all tensors, in the order of the header
    sha256   hexadecimal SHA-256 of header followed by data

The header is {"plugin": version, "tensors": [entry, ...]}. An entry of a quantized
tensor is {"name", "shape", "bits", "scales"} and holds in `data` its ln mu (float32),
`scales` values of ln s (float32) and the stream of indices (`runtime/layout.py`). With
a further "levels": n it holds n <= 2^bits centroids c (float32) in the place of ln mu.
`scales` divides dimension 0: scale i serves the i-th of that many equal parts of it. A
weight is s * c[index], with the codebook c of `espnet_gq.quantizer.mulaw` (computed in
float64, rounded to float32). An entry of any other tensor is {"name", "shape", "dtype"}
and holds its little-endian values. Every entry is filled with zeros to a multiple of 4
bytes. Two kinds of entry hold nothing in `data`: {"name", "same_as"} is the quantized
tensor of an earlier entry once more (a tensor that layers share), {"name", "extra"}
what a module's `get_extra_state` returned, as JSON.
"""

import hashlib
import json
import logging
import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import (
    IO,
    Any,
    Collection,
    Dict,
    Iterator,
    List,
    Mapping,
    Optional,
    Set,
    Tuple,
    Union,
)

import numpy as np
import torch

from espnet_gq._version import __version__
from espnet_gq.files import atomic_write
from espnet_gq.nn.finite import check_finite, is_weight, named, not_finite
from espnet_gq.packing.stored import (
    StateDict,
    StoredQuantizer,
    is_quantizer_key,
    quantized_names,
    stored_quantizer,
)
from espnet_gq.quantizer.function import hard_indices, hard_quantize
from espnet_gq.runtime.layout import from_stream, padding, stream_size, to_stream
from espnet_gq.wording import quoted

FORMAT = "espnet_gq.packed"
VERSIONS = (1, 2, 3)
MAX_INFLATION = 100
"""Largest ratio of the header's size to its compressed size."""
EXTRA_STATE = "_extra_state"
"""Ending of the keys of what `get_extra_state` returned."""
DTYPES = {
    name: getattr(torch, name)
    for name in (
        *("float64", "float32", "float16", "bfloat16"),
        *("int64", "int32", "int16", "int8", "uint8", "bool"),
    )
}


class CheckpointError(ValueError):
    """A checkpoint cannot be read, or does not fit the model."""


class PackedFormatError(CheckpointError):
    """A packed checkpoint is damaged, hostile or of an unknown version."""


def _check_state(
    state: Mapping[str, Any], names: Set[str], buffers: Optional[Collection[str]]
) -> None:
    """Check that weights and quantizers are finite.

    Args:
        state: A QAT state dict.
        names: Its quantized tensors.
        buffers: Names of its tensors that are not parameters, None where unknown.

    Raises:
        NotFiniteError: If one is not; names it.
    """
    strict: List[Tuple[str, torch.Tensor]] = []
    rest: List[Tuple[str, torch.Tensor]] = []
    for key, value in state.items():
        if torch.is_tensor(value):
            known = buffers is not None and key not in buffers
            quantizer = is_quantizer_key(key, names)
            sure = known or quantizer or key in names or is_weight(key)
            (strict if sure else rest).append((key, value))
    check_finite(strict)
    found = set(not_finite(rest))
    if buffers is None:
        check_finite((k, v) for k, v in rest if k in found and v.isnan().any())
    if found:
        logging.warning(
            f"NaN or infinite values in {named(sorted(found))}, which may be a mask: "
            "kept as they are"
        )


def harden_state_dict(state: Mapping[str, Any]) -> StateDict:
    """Return the float state dict of a QAT one, with hardened weights.

    Raises:
        NotFiniteError: If a weight or quantizer holds NaN or infinite values; names it.
        ValueError: If a quantizer was never fitted.
    """
    names = set(quantized_names(state))
    _check_state(state, names, None)
    hardened = {k: v for k, v in state.items() if not is_quantizer_key(k, names)}
    for name in names:
        stored = stored_quantizer(state, name)
        hardened[name] = hard_quantize(state[name], stored.log_scale, stored.codebook)
    return hardened


def pack_state_dict(
    state: Mapping[str, Any], buffers: Optional[Collection[str]] = None
) -> Dict[str, Any]:
    """Return the packed form of a QAT state dict.

    Args:
        state: The state dict.
        buffers: Names of its tensors that are not parameters. Infinite or NaN values
            there, as in a mask, are kept, with a warning. Where None, the names are
            unknown, and NaN is an error. Statistics of normalization always have to be
            finite.

    Raises:
        NotFiniteError: If a weight or quantizer holds NaN or infinite values; names it.
        ValueError: If the state dict has no quantized tensor, one was never fitted,
            or an entry is of a type that the format does not know.
    """
    names = set(quantized_names(state))
    if not names:
        raise ValueError(
            "the checkpoint has no quantized tensor; allowed: one that a training "
            "with a gq_ encoder, decoder or model wrote"
        )
    _check_state(state, names, buffers)
    entries: List[Dict[str, Any]] = []
    entry: Dict[str, Any]
    chunks, version = [], 1
    contents: Dict[Tuple[str, bytes], str] = {}
    for key, tensor in state.items():
        if is_quantizer_key(key, names):
            continue
        if not torch.is_tensor(tensor):
            entries.append({"name": key, "extra": _extra(key, tensor)})
            version = 3
            continue
        tensor = tensor.detach().cpu()
        if key in names:
            stored = stored_quantizer(state, key)
            log_scale = stored.log_scale.cpu()
            index = hard_indices(tensor, log_scale, stored.codebook.cpu())
            entry = {"bits": stored.bits, "scales": log_scale.numel()}
            book = stored.log_mu
            if book is None:
                book, version = stored.codebook, max(version, 2)
                entry["levels"] = book.numel()
            content = (
                book.cpu().numpy().astype("<f4").tobytes()
                + log_scale.numpy().astype("<f4").tobytes()
                + to_stream(index.numpy(), stored.bits).tobytes()
            )
        else:
            dtype = str(tensor.dtype).replace("torch.", "")
            if dtype not in DTYPES:
                raise ValueError(
                    f"{key} has type {dtype}; allowed: {', '.join(DTYPES)}"
                )
            entry = {"dtype": dtype}
            content = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        entry = {"shape": list(tensor.shape), **entry}
        if key in names:
            same = (json.dumps(entry), hashlib.sha256(content).digest())
            first = contents.setdefault(same, key)
            if first != key:
                entries.append({"name": key, "same_as": first})
                version = 3
                continue
        entries.append({"name": key, **entry})
        chunks.append(content + bytes(padding(len(content))))
    header = json.dumps(
        {"plugin": __version__, "tensors": entries}, separators=(",", ":")
    )
    header_bytes = zlib.compress(header.encode(), 9)
    data = b"".join(chunks)
    return {
        "format": FORMAT,
        "version": version,
        "header": torch.frombuffer(bytearray(header_bytes), dtype=torch.uint8),
        "data": torch.frombuffer(bytearray(data), dtype=torch.uint8),
        "sha256": hashlib.sha256(header_bytes + data).hexdigest(),
    }


def _extra(key: str, value: Any) -> Any:
    """Return a module's extra state, if JSON can represent it."""
    try:
        if json.loads(json.dumps(value, allow_nan=False)) == value:
            return value
    except (TypeError, ValueError):
        pass
    raise ValueError(
        f"{key} holds {quoted(value)}; allowed beside tensors: None, numbers, text, "
        "and lists and dicts of these with text as keys"
    )


def is_packed(obj: Any) -> bool:
    """Return whether an object read from a file claims to be a packed checkpoint."""
    return isinstance(obj, Mapping) and obj.get("format") == FORMAT


def _header(packed: Mapping[str, Any]) -> Tuple[List[Dict[str, Any]], bytes]:
    """Check the keys of a packed checkpoint; return its entries and the raw header."""
    version = packed.get("version")
    if not isinstance(version, int) or version not in VERSIONS:
        raise PackedFormatError(
            f"format version {quoted(version)}; espnet_gq {__version__} reads "
            f"{', '.join(map(str, VERSIONS))}"
        )
    for key in ("header", "data"):
        value = packed.get(key)
        if not torch.is_tensor(value) or value.dtype != torch.uint8 or value.dim() != 1:
            raise PackedFormatError(f"'{key}' is not a one-dimensional uint8 tensor")
    header = packed["header"].cpu().numpy().tobytes()
    try:
        inflate = zlib.decompressobj()
        text = inflate.decompress(header, MAX_INFLATION * len(header))
        if not inflate.eof:
            raise PackedFormatError("the header is too long or incomplete")
        entries = json.loads(text)["tensors"]
        assert isinstance(entries, list)
    except PackedFormatError:
        raise
    except Exception as e:
        raise PackedFormatError(f"the header cannot be read ({e})") from None
    return entries, header


def _count(value: Any, most: int = 2**40) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise PackedFormatError(f"{quoted(value)} is not a count")
    return value


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """A quantized tensor as stored in the file."""

    shape: Tuple[int, ...]
    quantizer: StoredQuantizer
    stream: np.ndarray
    """The indices, see `runtime/layout.py`."""

    @property
    def codebook(self) -> torch.Tensor:
        """Centroids c (2^bits,); fewer are filled up with the last one."""
        c = self.quantizer.codebook
        return torch.cat([c, c[-1:].expand(2**self.quantizer.bits - c.numel())])


class _Data:
    """The data of a packed checkpoint, read in order; the checksum comes last.

    Args:
        packed: The packed dict.
        header: Its raw header.
        file: Reads the data piece by piece in the place of packed["data"].
    """

    def __init__(self, packed, header: bytes, file: Optional[IO[bytes]]):
        self.size = packed["data"].numel()
        self.sha256 = packed.get("sha256")
        self.array = np.empty(0, np.uint8)
        """The data, empty where they are read from a file."""
        if file is None:
            self.array = packed["data"].cpu().numpy()
        self.file = file
        self.at = 0
        self.digest = hashlib.sha256(header)

    def take(self, nbytes: int) -> np.ndarray:
        if nbytes > self.size - self.at:
            raise PackedFormatError("the data end before the last tensor")
        if self.file is None:
            taken = self.array[self.at : self.at + nbytes]
        else:
            try:
                read = self.file.read(nbytes)
            except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as e:
                raise PackedFormatError(f"the file cannot be read ({e})") from None
            taken = np.frombuffer(read, np.uint8)
            if taken.size != nbytes:
                raise PackedFormatError("the file ends before the last tensor")
        self.at += nbytes
        self.digest.update(taken.data)
        return taken

    def finish(self) -> None:
        if self.at != self.size:
            raise PackedFormatError(
                f"{self.size - self.at} bytes follow the last tensor"
            )
        if self.digest.hexdigest() != self.sha256:
            raise PackedFormatError("the checksum does not match: the file is damaged")


@dataclass(frozen=True)
class Extra:
    """A module's extra state (`get_extra_state`)."""

    value: Any


Stored = Union[QuantizedTensor, torch.Tensor, Extra]


def tensors(
    packed: Mapping[str, Any], file: Optional[IO[bytes]] = None
) -> Iterator[Tuple[str, Stored]]:
    """Yield (name, tensor) of a packed checkpoint, in its order.

    A quantized tensor with several names is one object. The checksum is compared after
    the last tensor: do not use any of them before.

    Args:
        packed: The packed dict.
        file: A reader of its data; None reads them from the dict.

    Raises:
        PackedFormatError: If the checkpoint is damaged, hostile or of another version.
    """
    entries, header = _header(packed)
    data = _Data(packed, header, file)
    if file is None:  # in memory: say that it is damaged before what is wrong with it
        whole = hashlib.sha256(header)
        whole.update(data.array.data)
        if whole.hexdigest() != data.sha256:
            raise PackedFormatError("the checksum does not match: the file is damaged")
    repeated = [e["same_as"] for e in entries if isinstance(e, dict) and "same_as" in e]
    known: Dict[str, QuantizedTensor] = {}
    value: Optional[Stored]
    for entry in entries:
        try:
            if isinstance(entry, dict) and "same_as" in entry:
                name, value = _name(entry), known.get(_name(entry, "same_as"))
                if value is None:
                    raise PackedFormatError("it repeats no earlier quantized tensor")
            else:
                name, value = _tensor(entry, data)
            if name in repeated and isinstance(value, QuantizedTensor):
                known[name] = value
        except PackedFormatError as e:
            label = entry.get("name") if isinstance(entry, dict) else None
            raise PackedFormatError(f"tensor {quoted(label)}: {e}") from None
        except (KeyError, TypeError, ValueError, RuntimeError) as e:
            raise PackedFormatError(f"a tensor entry is malformed ({e})") from None
        yield name, value
    data.finish()


def _name(entry: Mapping[str, Any], key: str = "name") -> str:
    if not isinstance(entry[key], str):
        raise PackedFormatError(f"{quoted(entry[key])} is not a name")
    return entry[key]


def _tensor(entry: Mapping[str, Any], data: _Data) -> Tuple[str, Stored]:
    name = _name(entry)
    if "extra" in entry:
        return name, Extra(entry["extra"])
    shape = tuple(_count(n) for n in entry["shape"])
    numel = _count(math.prod(shape))
    start = data.at
    if "bits" in entry:
        bits, scales = _count(entry["bits"], 8), _count(entry["scales"])
        if bits < 1 or scales < 1 or (shape or (1,))[0] % scales:
            raise PackedFormatError(f"{bits} bits with {scales} scales")
        levels = entry.get("levels")
        if levels is not None and not 2 <= _count(levels) <= 2**bits:
            raise PackedFormatError(f"{levels} levels at {bits} bits")
        book, log_scale = (
            torch.from_numpy(data.take(4 * n).view("<f4").astype(np.float32))
            for n in (levels or 1, scales)
        )
        if not (book.isfinite().all() and log_scale.isfinite().all()):
            raise PackedFormatError("its scale, mu or codebook is not finite")
        if levels is None:
            quantizer = StoredQuantizer(bits, log_scale, log_mu=book)
        else:
            quantizer = StoredQuantizer(bits, log_scale, centroids=book)
        stream = data.take(stream_size(numel, bits))
        value: Stored = QuantizedTensor(shape, quantizer, stream)
    else:
        if entry["dtype"] not in DTYPES:
            raise PackedFormatError(f"unknown type {quoted(entry['dtype'])}")
        dtype = DTYPES[entry["dtype"]]
        raw = data.take(numel * dtype.itemsize).copy()
        plain = torch.empty(shape, dtype=dtype)  # torch views no array without values
        if numel:
            plain = torch.from_numpy(raw).view(dtype).view(shape)
        if is_weight(name) and not_finite([(name, plain)]):
            raise PackedFormatError("it holds NaN or infinite values")
        value = plain
    data.take(padding(data.at - start))
    return name, value


def unpack_state_dict(packed: Mapping[str, Any]) -> StateDict:
    """Return the QAT state dict of a packed checkpoint, with hardened weights.

    Raises:
        PackedFormatError: If the checkpoint is damaged, hostile or of another version.
    """
    state: StateDict = {}
    for name, value in tensors(packed):
        if not isinstance(value, QuantizedTensor):
            state[name] = value.value if isinstance(value, Extra) else value
            continue
        quantizer = value.quantizer
        numel, scales = math.prod(value.shape), quantizer.log_scale.numel()
        index = torch.from_numpy(from_stream(value.stream, numel, quantizer.bits))
        index = index.view(scales, numel // scales)
        weight = quantizer.scale * value.codebook[index.int()]
        state[name] = weight.view(value.shape)
        state.update(quantizer.state(name))
    return state


def save(obj: Any, path: Union[str, Path]) -> None:
    """Write with `torch.save` to a temporary file beside `path`, then rename it."""
    # torch.save writes a file's name into it, and that of the temporary one is random.
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        torch.save(obj, file)


def load_object(path: Union[str, Path], mmap: bool = False) -> Any:
    """Read a file of `torch.save` without running code from it.

    Args:
        path: The file.
        mmap: Map it instead of reading it, where its kind allows.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it is damaged, or holds more than tensors and primitives.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        mmap = mmap and zipfile.is_zipfile(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as e:
        reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        reason = reason.split(". ")[0]  # torch adds pages of advice
        raise CheckpointError(
            f"{path} is not a checkpoint that can be read safely ({reason}); allowed: "
            "a file of plain tensors written by torch.save"
        ) from None


def _is_strided(tensor: torch.Tensor) -> bool:
    return tensor.layout == torch.strided


def load_state_dict(path: Union[str, Path], mmap: bool = False) -> Any:
    """Read a checkpoint's state dict without running code from it.

    Args:
        path: A file of `torch.save`: float, QAT, packed, or ESPnet's checkpoint.pth.
        mmap: Map the file instead of reading it, where its kind allows.

    Returns:
        The state dict, or the packed dict (see `is_packed`).

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If the file is not such a checkpoint.
    """
    obj = load_object(path, mmap)
    if is_packed(obj):
        return obj
    if isinstance(obj, Mapping) and isinstance(obj.get("model"), Mapping):
        obj = obj["model"]
    if not isinstance(obj, Mapping) or not all(
        isinstance(k, str)
        and (k.endswith(EXTRA_STATE) if not torch.is_tensor(v) else _is_strided(v))
        for k, v in obj.items()
    ):
        raise CheckpointError(
            f"{path} does not hold a state dict; allowed: a dict of tensors as ESPnet "
            "writes it"
        )
    return obj
