"""A packed checkpoint written tensor by tensor: no more than its own size in memory."""

import hashlib
import json
import zlib
from typing import Any, Dict, Iterator, List, Mapping, Sequence, Tuple

import torch

from espnet_gq._version import __version__
from espnet_gq.packing.checkpoint import (
    DTYPES,
    FORMAT,
    Extra,
    QuantizedTensor,
    tensors,
)
from espnet_gq.packing.stored import StateDict, StoredQuantizer
from espnet_gq.quantizer.function import scale_pair
from espnet_gq.runtime.layout import from_stream, padding, to_stream

BLOCK = 2**20
"""Numbers of a tensor that are converted at a time."""


class PackedWriter:
    """Collects the entries of a packed checkpoint, in order (see `checkpoint.py`).

    Example:
        >>> writer = PackedWriter()
        >>> stored = StoredQuantizer(1, torch.zeros(1), log_mu=torch.zeros(1))
        >>> writer.add_quantized("a", (2,), stored, torch.tensor([0, 1]).byte())
        >>> writer.add("b", torch.ones(3))
        >>> sorted(unpack(writer.finish()))
        ['a', 'b']
    """

    def __init__(self) -> None:
        self._entries: List[Dict[str, Any]] = []
        self._data = bytearray()
        self._version = 1

    def add_quantized(
        self,
        name: str,
        shape: torch.Size,
        quantizer: StoredQuantizer,
        indices: torch.Tensor,
    ) -> None:
        """Add a quantized tensor.

        Args:
            name: Its name in the state dict.
            shape: Its shape.
            quantizer: Its scales and codebook.
            indices: Number of the centroid of each weight, uint8.
        """
        entry: Dict[str, Any] = {"name": name, "shape": list(shape)}
        entry |= {"bits": quantizer.bits, "scales": quantizer.log_scale.numel()}
        book = quantizer.log_mu
        if book is None:
            book = quantizer.codebook
            entry["levels"] = book.numel()
            self._version = max(self._version, 2)
        for values in (book, quantizer.log_scale):
            self._data += values.cpu().numpy().astype("<f4").tobytes()
        self._data += to_stream(indices.cpu().numpy(), quantizer.bits).data
        self._close(entry)

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Add any other tensor.

        Raises:
            ValueError: If the format does not know its type.
        """
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in DTYPES:
            raise ValueError(f"{name} has type {dtype}; allowed: {', '.join(DTYPES)}")
        flat = tensor.detach().cpu().contiguous().flatten()
        self._data += flat.view(torch.uint8).numpy().data
        self._close({"name": name, "shape": list(tensor.shape), "dtype": dtype})

    def add_again(self, name: str, first: str) -> None:
        """Add another name of a quantized tensor that layers share."""
        self._entries.append({"name": name, "same_as": first})
        self._version = 3

    def _close(self, entry: Dict[str, Any]) -> None:
        self._entries.append(entry)
        self._data += bytes(padding(len(self._data)))

    def finish(self) -> Dict[str, Any]:
        """Return the packed dict; nothing can be added afterwards."""
        compressed = compressed_header(self._entries)
        digest = hashlib.sha256(compressed)
        digest.update(self._data)
        return {
            "format": FORMAT,
            "version": self._version,
            "header": torch.frombuffer(bytearray(compressed), dtype=torch.uint8),
            "data": torch.frombuffer(self._data, dtype=torch.uint8),
            "sha256": digest.hexdigest(),
        }


def compressed_header(entries: Sequence[Mapping[str, Any]]) -> bytes:
    """Return the header of a packed checkpoint with these entries."""
    header = {"plugin": __version__, "tensors": entries}
    return zlib.compress(json.dumps(header, separators=(",", ":")).encode(), 9)


def blocks(shape: Sequence[int]) -> Iterator[Tuple[slice, slice]]:
    """Yield the parts of a matrix, of at most BLOCK numbers each."""
    rows, columns = shape
    across = max(1, min(columns, BLOCK))
    down = max(1, BLOCK // across)
    for top in range(0, rows, down):
        for left in range(0, columns, across):
            yield slice(top, top + down), slice(left, left + across)


def centroids(
    indices: torch.Tensor, codebook: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """Return codebook[indices] times a scale per row, float32.

    PyTorch's indices take 12 bytes a weight; only a part of them exists at a time.

    Args:
        indices: Numbers of centroids, uint8, of any shape.
        codebook: Normalised centroids (levels,).
        scale: The scales; scale i serves the i-th of equal parts of dimension 0.
    """
    scale = scale.reshape(-1, 1)
    rows = indices.reshape(len(scale), -1)
    found = torch.empty(rows.shape, dtype=codebook.dtype, device=codebook.device)
    for at in blocks(rows.shape):
        torch.mul(codebook[rows[at].int()], scale[at[0]], out=found[at])
    return found.view(indices.shape)


def dequantized(tensor: QuantizedTensor) -> torch.Tensor:
    """Return the float32 weights of a quantized tensor of a packed checkpoint."""
    quantizer = tensor.quantizer
    numel = torch.Size(tensor.shape).numel()
    index = torch.from_numpy(from_stream(tensor.stream, numel, quantizer.bits))
    scale = scale_pair(quantizer.log_scale, torch.float32)[0]
    return centroids(index.view(tensor.shape), tensor.codebook, scale)


def unpack(packed: Mapping[str, Any]) -> StateDict:
    """Return the float state dict of a packed checkpoint, which needs no plugin.

    As `harden_state_dict(unpack_state_dict(packed))`, with one copy in memory.

    Raises:
        PackedFormatError: If the checkpoint is damaged, hostile or of another version.
    """
    state: StateDict = {}
    first: Dict[int, Tuple[QuantizedTensor, torch.Tensor]] = {}
    for name, value in tensors(packed):
        if isinstance(value, QuantizedTensor):
            if id(value) not in first:
                first[id(value)] = value, dequantized(value)
            state[name] = first[id(value)][1]
        else:
            state[name] = value.value if isinstance(value, Extra) else value
    return state
