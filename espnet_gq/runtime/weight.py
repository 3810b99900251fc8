"""A weight that stays packed: planes of indices, a codebook and scales."""

import copy
import ctypes
import math
from typing import Optional, Sequence, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from espnet_gq.runtime import reference
from espnet_gq.runtime.library import MODES, Weight, available, check, library
from espnet_gq.runtime.planes import from_planes, planes_size, to_planes

INT8_COLUMNS = 2**16
"""Most columns whose int8 products fit into 32 bits."""


class PackedWeight(nn.Module):
    """A weight tensor w = s * c[index], its b-bit indices packed in memory.

    The products run on the compiled kernels for float32 on a CPU, else on PyTorch
    operations with the same results.

    Args:
        planes: uint8, the indices as `planes.to_planes` lays them out.
        shape: Shape of the weight; dimension 0 counts its rows.
        codebook: Centroids c (2^bits,), float32.
        scale: Scales s (n,), float32: scale i serves the i-th of n equal parts of the
            rows.

    Raises:
        ValueError: If the sizes do not fit each other.
    """

    mode = "exact"
    """"exact" (float centroids) or "int8" (centroids and activations rounded)."""

    def __init__(
        self,
        planes: torch.Tensor,
        shape: Sequence[int],
        codebook: torch.Tensor,
        scale: torch.Tensor,
    ):
        super().__init__()
        self.shape = torch.Size(shape)
        self.rows = self.shape[0] if self.shape else 1
        self.cols = math.prod(self.shape[1:])
        self.bits = codebook.numel().bit_length() - 1
        if not 1 <= self.bits <= 8 or codebook.numel() != 2**self.bits:
            raise ValueError(
                f"a codebook has {codebook.numel()} centroids; allowed: 2, 4, ..., 256"
            )
        if planes.numel() != planes_size(self.rows, self.cols, self.bits):
            raise ValueError(
                f"the planes have {planes.numel()} bytes; a {self.bits}-bit weight of "
                f"shape {tuple(shape)} takes "
                f"{planes_size(self.rows, self.cols, self.bits)}"
            )
        if scale.numel() < 1 or self.rows % scale.numel():
            raise ValueError(f"{scale.numel()} scales do not divide {self.rows} rows")
        self.register_buffer("planes", planes)
        self.register_buffer("codebook", codebook.float())
        self.register_buffer("scale", scale.float().flatten())
        self._forget()

    @classmethod
    def from_stream(
        cls,
        stream: np.ndarray,
        shape: Sequence[int],
        codebook: torch.Tensor,
        scale: torch.Tensor,
    ) -> "PackedWeight":
        """Return the weight of a packed file's stream of indices (`packing.bits`)."""
        rows, cols = shape[0] if shape else 1, math.prod(shape[1:])
        bits = codebook.numel().bit_length() - 1
        planes = torch.empty(planes_size(rows, cols, bits), dtype=torch.uint8)
        stream = np.ascontiguousarray(stream)
        if stream.size != (rows * cols * bits + 7) // 8:
            raise ValueError(f"a stream of {stream.size} bytes for shape {shape}")
        if available():
            check(
                library().gq_fill_planes(
                    stream.ctypes.data, rows, cols, bits, planes.data_ptr()
                )
            )
        else:
            flags = np.unpackbits(stream, count=rows * cols * bits, bitorder="little")
            index = np.packbits(flags.reshape(-1, bits), axis=1, bitorder="little")
            planes = to_planes(torch.from_numpy(index[:, :1].reshape(rows, cols)), bits)
        return cls(planes, shape, codebook, scale)

    def extra_repr(self) -> str:
        return f"{tuple(self.shape)}, bits={self.bits}, mode={self.mode}"

    @property
    def device(self) -> torch.device:
        """Where the planes are."""
        return self.planes.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the products' results for activations of that type."""
        return self.codebook.dtype

    def size(self, dim: Optional[int] = None):
        """Return the shape, or one size of it, as of a tensor."""
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        """Return the number of dimensions, as of a tensor."""
        return len(self.shape)

    # --- what is derived from the buffers --------------------------------------------

    def _forget(self) -> None:
        self._handles = {}
        self._tables = None
        self._dense = None
        self._native = self.planes.device.type == "cpu" and available()

    def _apply(self, fn, *args, **kwargs):
        super()._apply(fn, *args, **kwargs)
        # The kernels and the mathematics of the codebook are float32 whatever type
        # the model is converted to.
        self.codebook = self.codebook.float()
        self.scale = self.scale.float()
        self._forget()
        return self

    def __getstate__(self):
        state = self.__dict__.copy()
        state.update(_handles={}, _tables=None, _dense=None)
        return state

    def __deepcopy__(self, memo):
        new = self.__class__.__new__(self.__class__)
        memo[id(self)] = new
        new.__dict__.update(copy.deepcopy(self.__getstate__(), memo))
        return new

    def codes(self) -> Tuple[torch.Tensor, float]:
        """Return the codebook in 8 bits and its unit: c is about unit * codes."""
        return reference.codes(self.codebook)

    def handle(self, bias: Optional[torch.Tensor] = None) -> int:
        """Return the address of the kernels' description of this weight.

        It is valid as long as the weight, and the bias, are.
        """
        key = None if bias is None else bias.data_ptr()
        found = self._handles.get(key)
        if found is not None:
            return found[1]
        if self._tables is None:
            codes, unit = self.codes()
            repeat = 256 // self.codebook.numel()
            value = self.codebook.repeat(repeat).contiguous()
            self._tables = value, codes.repeat(repeat).contiguous(), unit
        value, code, unit = self._tables
        weight = Weight(
            self.planes.data_ptr(),
            value.data_ptr(),
            code.data_ptr(),
            self.scale.data_ptr(),
            key,
            self.rows,
            self.cols,
            self.scale.numel(),
            unit,
            self.bits,
        )
        if len(self._handles) > 4:
            self._handles.clear()
        self._handles[key] = weight, ctypes.addressof(weight)
        return self._handles[key][1]

    # --- products --------------------------------------------------------------------

    def runs_native(self, x: torch.Tensor) -> bool:
        """Return whether the kernels take activations."""
        return (
            self._native
            and x.dtype is torch.float32
            and x.is_cpu
            and not (x.requires_grad and torch.is_grad_enabled())
        )

    @property
    def mode_number(self) -> int:
        """The mode as the kernels know it."""
        if self.cols > INT8_COLUMNS:
            return MODES["exact"]
        return MODES[self.mode]

    def linear(
        self, x: torch.Tensor, bias: Optional[torch.Tensor] = None
    ) -> torch.Tensor:
        """Return x w^T + bias.

        Args:
            x: Activations (..., cols).
            bias: (rows,).

        Returns:
            (..., rows), the type of x.

        Raises:
            ValueError: If x has another number of columns.
        """
        shape = x.shape
        if shape[-1] != self.cols:
            raise ValueError(
                f"activations of shape {tuple(shape)} for a packed weight of shape "
                f"{tuple(self.shape)}; allowed: (..., {self.cols})"
            )
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return torch.ops.espnet_gq.packed_linear(
                *(x, self.planes, self.codebook, self.scale, bias),
                *(self.rows, MODES["int8"] == self.mode_number),
            )
        if not self.runs_native(x) or (bias is not None and bias.dtype != x.dtype):
            return self._torch_linear(x, bias)
        # Small layers are called often: what is not needed is not done.
        if not x.is_contiguous():
            x = x.contiguous()
        out = torch.empty(*shape[:-1], self.rows)
        handle = self._handles.get(None if bias is None else bias.data_ptr())
        status = library().gq_linear(
            handle[1] if handle else self.handle(bias),
            x.data_ptr(),
            x.numel() // self.cols if self.cols else math.prod(shape[:-1]),
            out.data_ptr(),
            self.mode_number,
            torch.get_num_threads(),
            0,
        )
        if status:
            check(status)
        return out

    def _torch_linear(self, x, bias):
        if self.mode_number == MODES["int8"] and not torch.is_grad_enabled():
            return reference.int8_linear(
                x, self.index(), self.codebook, self.scale, bias
            )
        return F.linear(x, self.dense().view(self.rows, self.cols).to(x.dtype), bias)

    def index(self) -> torch.Tensor:
        """Return the indices (rows, cols), uint8."""
        return from_planes(self.planes, self.rows, self.cols, self.bits)

    def dense(self) -> torch.Tensor:
        """Return the weight itself in float32, in its shape."""
        if self.planes.device.type == "cpu" and available():
            out = torch.empty(self.cols, self.rows)
            threads = torch.get_num_threads()
            check(
                library().gq_values(
                    self.handle(), 0, self.rows, out.data_ptr(), threads, 0
                )
            )
            return out.t().contiguous().view(self.shape)
        if self._dense is None:
            # Unpacking in PyTorch is slow: here speed comes before memory.
            self._dense = reference.dense(self.index(), self.codebook, self.scale)
        return self._dense.view(self.shape)

    def embed(self, row: torch.Tensor) -> torch.Tensor:
        """Return rows of the weight: (..., cols) for indices (...).

        Raises:
            IndexError: If there is no such row.
        """
        if row.numel() and not 0 <= int(row.min()) <= int(row.max()) < self.rows:
            raise IndexError(
                f"rows {int(row.min())} to {int(row.max())} of a packed weight; "
                f"allowed: 0 to {self.rows - 1}"
            )
        if self.planes.device.type != "cpu" or not available():
            return F.embedding(row, self.dense().view(self.rows, self.cols))
        flat = row.reshape(-1).long().contiguous()
        out = torch.empty(flat.numel(), self.cols)
        check(
            library().gq_rows(
                self.handle(), flat.data_ptr(), flat.numel(), out.data_ptr()
            )
        )
        return out.view(*row.shape, self.cols)
