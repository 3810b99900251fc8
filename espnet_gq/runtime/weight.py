"""A weight that stays packed, and its products."""

import math
from typing import Optional, Tuple

import torch
import torch.nn.functional as F

from espnet_gq.native import address, library
from espnet_gq.native.library import MODES, Weight, check
from espnet_gq.runtime import context, reference
from espnet_gq.runtime.layout import from_planes, planes_size
from espnet_gq.runtime.storage import PackedStorage
from espnet_gq.runtime.tensor_like import TensorLike

INT8_COLUMNS = 2**16
"""Most columns whose int8 products fit into 32 bits; wider weights compute exactly."""

NARROW = (torch.float16, torch.bfloat16)
"""Types whose products are computed in float32."""


class PackedWeight(TensorLike, PackedStorage):
    """A weight tensor w = s * c[index], its b-bit indices packed in memory.

    For float32, float16 and bfloat16 on a CPU, products run in the native library, else
    in PyTorch operations with the same results. A packed weight can stand in the place
    of a layer's weight: see `TensorLike`. Arguments are those of `PackedStorage`.
    """

    mode = "exact"
    """"exact" (float centroids) or "int8" (centroids and activations rounded)."""

    _described: Optional[tuple] = None
    _unpacked: Optional[Tuple[Tuple[torch.Tensor, ...], torch.Tensor]] = None

    def _forget(self) -> None:
        self.__dict__.update(_described=None, _unpacked=None)

    # --- for the kernels -------------------------------------------------------------

    def codes(self) -> Tuple[torch.Tensor, float]:
        """Return the codebook in 8 bits and its unit: c is about unit * codes."""
        return reference.codes(self.codebook)

    def description(self, bias: Optional[torch.Tensor] = None) -> Weight:
        """Return the C structure of this weight, for an immediate call.

        It holds only addresses. It is cached, and rebuilt when a buffer or the bias is
        another tensor, or has other memory, another type or another size.

        Raises:
            TypeError: If one of them is of a wrong type or not on the CPU.
            ValueError: If one of them has a wrong size.
        """
        buffers, f32 = self._buffers, torch.float32
        planes, codebook = buffers["planes"], buffers["codebook"]
        scale, found = buffers["scale"], self._described
        if (
            found is not None
            and found[0] is planes
            and found[1] is codebook
            and found[2] is scale
            and found[3] is bias
        ):
            where, sizes, weight = found[4:]
            # The same tensors may have got other memory, types or sizes.
            if (
                planes.data_ptr() == where[0]
                and codebook.data_ptr() == where[1]
                and scale.data_ptr() == where[2]
                and planes.numel() == sizes[0]
                and codebook.numel() == sizes[1]
                and scale.numel() == sizes[2]
                and planes.dtype is torch.uint8
                and codebook.dtype is f32
                and scale.dtype is f32
                and planes.is_contiguous()
                and codebook.is_contiguous()
                and scale.is_contiguous()
                and (
                    bias is None
                    or (
                        bias.data_ptr() == where[3]
                        and bias.shape == (self.rows,)
                        and bias.dtype is f32
                        and bias.is_contiguous()
                    )
                )
            ):
                return weight
        size = planes_size(self.rows, self.cols, self.bits)
        scales = scale.numel()
        if not scales or self.rows % scales:
            raise ValueError(f"{scales} scales do not divide {self.rows} rows")
        where = (
            address(planes, torch.uint8, size, "the planes of a packed weight"),
            address(codebook, f32, 2**self.bits, "the codebook of a packed weight"),
            address(scale, f32, scales, "the scale of a packed weight"),
            None if bias is None else address(bias, f32, self.rows, "the bias"),
        )
        if bias is not None and bias.dim() != 1:
            raise ValueError(
                f"the bias has shape {tuple(bias.shape)}; allowed: (rows,)"
            )
        weight = Weight(*where, self.rows, self.cols, scales, self.bits)
        if bias is None or bias.is_leaf:  # a computed bias is new at every call
            sizes = size, 2**self.bits, scales
            found = (planes, codebook, scale, bias, where, sizes, weight)
            self.__dict__["_described"] = found
        return weight

    @property
    def mode_number(self) -> int:
        """The number of the mode in the C interface."""
        if self.cols > INT8_COLUMNS:
            return MODES["exact"]
        return MODES[self.mode]

    def runs_native(self, x: torch.Tensor) -> bool:
        """Return whether the kernels take activations of this kind."""
        return (
            x.is_cpu
            and (x.dtype is torch.float32 or x.dtype in NARROW)
            and x.layout is torch.strided
            and not x.is_nested
            and self._buffers["planes"].is_cpu
            and library.loaded() is not None
        )

    # --- products --------------------------------------------------------------------

    def linear(
        self, x: torch.Tensor, bias: Optional[torch.Tensor] = None
    ) -> torch.Tensor:
        """Return x w^T + bias, as torch.nn.functional.linear does.

        The value is that of the mode; the gradient is that of the exact product.

        Args:
            x: Activations (..., cols) of the weight's type.
            bias: (rows,).

        Returns:
            (..., rows), the type of x.

        Raises:
            RuntimeError: If x has another number of columns, another type or another
                device.
        """
        # The usual case comes first: for small layers, checks take as long as products.
        if (
            torch.compiler.is_compiling()
            or type(x) not in context.PLAIN
            or x.dtype is not self._dtype
            or x.is_nested
            or not context.is_usual()
        ):
            return self._unusual_linear(x, bias)
        if torch.is_grad_enabled() and (
            x.requires_grad or (bias is not None and bias.requires_grad)
        ):
            return Product.apply(x, bias, self)
        return self.compute(x, bias)

    def _check_columns(self, x: torch.Tensor) -> None:
        """Raise where activations have another number of columns."""
        shape = x.shape
        if not shape or shape[-1] != self.cols:
            raise RuntimeError(
                f"activations of shape {tuple(shape)} for a packed weight of shape "
                f"{tuple(self.shape)}; allowed: (..., {self.cols})"
            )

    def _unusual_linear(self, x, bias):
        dtype = context.autocast_type(x)
        if dtype is not None:
            with torch.autocast(x.device.type, enabled=False):
                bias = None if bias is None else bias.float()
                return self.product(x.float(), bias).to(dtype)
        self._check_device(x)
        if x.dtype is not self._dtype or x.is_nested:
            return F.linear(x, self.matrix(), bias)  # raises what PyTorch does
        return self.product(x, bias)

    def _check_device(self, x: torch.Tensor) -> None:
        """Raise where activations are on another device; PyTorch does not always."""
        if x.device != self.device:
            raise RuntimeError(
                f"activations are on {x.device} and a packed weight on {self.device}; "
                "allowed: one device"
            )

    def product(
        self, x: torch.Tensor, bias: Optional[torch.Tensor] = None
    ) -> torch.Tensor:
        """Return x w^T + bias for activations of any floating type, traced or not."""
        if context.is_recorded(x):
            return torch.ops.espnet_gq.packed_linear(
                *(x, *self.parts(), bias),
                *(self.rows, self.cols, MODES["int8"] == self.mode_number),
            )
        if context.is_transformed():
            self._check_columns(x)
            exact = F.linear(x, self.matrix().to(x.dtype), bias)
            if self.mode_number == MODES["exact"]:
                return exact
            detached = None if bias is None else bias.detach()
            value = self._int8_operations(x.detach(), detached)
            return exact + (value - exact).detach()
        if context.wants_gradient(x, bias):
            return Product.apply(x, bias, self)
        return self.compute(x, bias)

    def compute(
        self, x: torch.Tensor, bias: Optional[torch.Tensor] = None
    ) -> torch.Tensor:
        """Return x w^T + bias of plain tensors, without gradients."""
        shape, rows, cols = x.shape, self.rows, self.cols
        if not shape or shape[-1] != cols:
            self._check_columns(x)
        kernels = library.loaded()
        if (
            kernels is None
            or x.dtype is not torch.float32
            or not x.is_cpu
            or x.layout is not torch.strided
        ):
            return self._compute_elsewhere(x, bias)
        try:
            weight = self.description(bias)
        except (TypeError, ValueError):
            return self._compute_elsewhere(x, bias)
        if not x.is_contiguous() or x.is_neg():
            x = x.contiguous().resolve_neg()
        m = x.numel() // cols if cols else math.prod(shape[:-1])
        # new_empty: type and device of x, whatever the defaults of the process are.
        out = (
            x.new_empty(m, rows) if len(shape) == 2 else x.new_empty(*shape[:-1], rows)
        )
        status = kernels.gq_linear(
            weight,
            x.data_ptr(),
            m,
            out.data_ptr(),
            MODES[self.mode] if cols <= INT8_COLUMNS else 0,
            torch.get_num_threads(),
            0,
        )
        if status:
            check(status)
        return out

    def _compute_elsewhere(self, x, bias):
        self._check_device(x)
        if bias is not None and (bias.dtype != x.dtype or bias.device != x.device):
            return F.linear(x, self.matrix().to(x.dtype), bias)  # raises
        if x.dtype in NARROW and self.runs_native(x):
            bias = None if bias is None else bias.float()
            return self.compute(x.float(), bias).to(x.dtype)
        int8 = self.mode_number == MODES["int8"] and x.device.type != "meta"
        if int8 and x.is_floating_point():
            return self._int8_operations(x, bias)
        return F.linear(x, self.matrix().to(x.dtype), bias)

    def _int8_operations(self, x, bias):
        return reference.int8_linear(
            x.to_dense() if x.layout is not torch.strided else x,
            *(self.index(), self.codebook, self.scale, bias),
        )

    def embed(
        self,
        row: torch.Tensor,
        max_norm: Optional[float] = None,
        norm_type: float = 2.0,
    ) -> torch.Tensor:
        """Return rows of the weight: (..., cols) for indices (...).

        Args:
            row: int64 or int32.
            max_norm: Rows of a larger norm are scaled to it, in the result only.
            norm_type: p of the norm.

        Raises:
            IndexError: If there is no such row.
            RuntimeError: If the indices are of another type.
        """
        out = self._rows(row)
        if max_norm is not None:
            wide = out.float() if out.dtype in NARROW else out
            norm = torch.linalg.vector_norm(wide, norm_type, dim=-1, keepdim=True)
            factor = torch.where(norm > max_norm, max_norm / (norm + 1e-7), 1.0)
            out = (out * factor).to(out.dtype)
        return out

    def _rows(self, row):
        whole = row.dtype in (torch.int64, torch.int32)
        if whole and context.is_recorded(row):
            out = torch.ops.espnet_gq.packed_rows(
                row, *self.parts(), self.rows, self.cols
            )
            return out.to(self._dtype)
        if (
            not whole
            or not row.is_cpu
            or self.device.type != "cpu"
            or library.loaded() is None
            or context.is_transformed()
        ):
            return F.embedding(row, self.matrix())
        out = self.compute_rows(row)
        return out if self._dtype is torch.float32 else out.to(self._dtype)

    def compute_rows(self, row: torch.Tensor) -> torch.Tensor:
        """Return rows of the weight in float32, for plain indices."""
        kernels = library.loaded()
        whole = row.dtype in (torch.int64, torch.int32)
        if kernels is None or not row.is_cpu or self.device.type != "cpu" or not whole:
            return F.embedding(row, self._values())
        flat = row.reshape(-1).to(torch.int64).contiguous()
        n = flat.numel()
        weight = self.description()
        out = self._buffers["codebook"].new_empty(n, self.cols)
        status = kernels.gq_rows(
            weight,
            address(flat, torch.int64, n, "the indices"),
            n,
            address(out, torch.float32, n * self.cols, "the result"),
        )
        if status == 1:  # the description is right
            raise IndexError(
                f"rows {int(flat.min())} to {int(flat.max())} of a packed weight; "
                f"allowed: 0 to {self.rows - 1}"
            )
        check(status)
        return out.view(*row.shape, self.cols)

    # --- unpacked --------------------------------------------------------------------

    def index(self) -> torch.Tensor:
        """Return the indices (rows, cols), uint8."""
        return from_planes(self.planes, self.rows, self.cols, self.bits)

    def dense(self) -> torch.Tensor:
        """Return the unpacked weight in its type and shape."""
        return self.matrix().view(self.shape)

    def matrix(self) -> torch.Tensor:
        """Return the unpacked weight in its type, (rows, cols)."""
        parts = self.parts()
        if context.is_recorded(parts[0]):
            values = torch.ops.espnet_gq.packed_values(*parts, self.rows, self.cols)
        else:
            values = self._values()
        return values.to(self._dtype)

    def compute_values(self) -> torch.Tensor:
        """Return the weight in float32, (rows, cols), from plain buffers."""
        kernels = library.loaded()
        if kernels is None or self.device.type != "cpu":
            return reference.dense(self.index(), self.codebook, self.scale)
        out = torch.empty(self.cols, self.rows, dtype=torch.float32, device="cpu")
        check(
            kernels.gq_values(
                self.description(),
                0,
                self.rows,
                address(out, torch.float32, out.numel(), "the result"),
                torch.get_num_threads(),
                0,
            )
        )
        return out.t().contiguous()

    def _values(self) -> torch.Tensor:
        """Return `compute_values`, cached where unpacking is slow."""
        device = self.device.type
        if device == "meta" or (device == "cpu" and library.loaded() is not None):
            with context.outside_transforms():
                return self.compute_values()
        parts, found = self.parts(), self._unpacked
        # Versions of tensors do not count writes through `.data`: compare values.
        if found is not None and all(
            a.device == b.device and torch.equal(a, b) for a, b in zip(parts, found[0])
        ):
            return found[1]
        with context.outside_transforms(), torch.inference_mode(False), torch.no_grad():
            values = self.compute_values()
            kept = tuple(part.detach().clone() for part in parts)
        self.__dict__["_unpacked"] = kept, values
        return values


class Product(torch.autograd.Function):
    """The product of a mode, with the gradient of the exact one."""

    @staticmethod
    def forward(ctx, x, bias, weight):
        ctx.weight = weight
        # Autograd then detects in-place changes before the backward pass.
        ctx.save_for_backward(*(t for t in weight.parts() if not t.is_inference()))
        return weight.compute(x, bias)

    @staticmethod
    def backward(ctx, grad):
        ctx.saved_tensors
        to_x = to_bias = None
        if ctx.needs_input_grad[0]:
            to_x = grad @ ctx.weight.matrix().to(grad.dtype)
        if ctx.needs_input_grad[1]:
            to_bias = grad.sum_to_size(grad.shape[-1])
        return to_x, to_bias, None
