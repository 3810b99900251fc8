"""The time loop of packed recurrent layers, in the native library or in PyTorch."""

import ctypes
from typing import Dict, List, NamedTuple, Optional, Tuple, Union

import torch
import torch.nn.functional as F

from espnet_gq.native import address, library
from espnet_gq.native.library import CELLS, check
from espnet_gq.runtime import context
from espnet_gq.runtime.weight import INT8_COLUMNS, PackedWeight

ACTIVATIONS = {"RNN_TANH": torch.tanh, "RNN_RELU": torch.relu}
"""Cells without gates: h = activation(W_ih x + W_hh h)."""
Matrix = Union[PackedWeight, torch.Tensor]
_Native = Tuple[ctypes.CDLL, PackedWeight, Optional[PackedWeight]]
States = Tuple[torch.Tensor, torch.Tensor, Optional[torch.Tensor]]


class Steps(NamedTuple):
    """The time loop of one direction of one layer, after its input matrix.

    Args:
        cell: "LSTM" or "GRU"; "RNN_TANH" or "RNN_RELU", which run in PyTorch.
        hh: (gates * units, outputs).
        hr: Projection (outputs, units) of an LSTM, or None: outputs = units.
        sizes: Batch size at each step of a PackedSequence, else None.
        reverse: Whether to go from the last step to the first.
    """

    cell: str
    hh: Matrix
    hr: Optional[Matrix]
    sizes: Optional[torch.Tensor]
    reverse: bool

    def __call__(
        self,
        gates: torch.Tensor,
        h: torch.Tensor,
        c: Optional[torch.Tensor],
        bias: Optional[torch.Tensor],
    ) -> States:
        """Return outputs and final states.

        Args:
            gates: (steps, batch, gates * units), or (sum of sizes, gates * units).
            h: (batch, outputs). Neither state is written to.
            c: (batch, units), LSTM only.
            bias: (gates * units,), GRU only.

        Returns:
            out (steps, batch, outputs) or (sum of sizes, outputs), h, and c of an LSTM.
        """
        if context.is_recorded(gates):
            out, h, state = torch.ops.espnet_gq.packed_steps(
                *(self.cell, gates, h, c, _parts(self.hh), _parts(self.hr)),
                *(bias, self.sizes, self.reverse, _int8(self.hh), _int8(self.hr)),
            )
            return out, h, None if c is None else state
        if context.is_transformed():
            return self.by_operations(gates, h, c, bias)
        if not torch.is_grad_enabled() or self._native(gates) is None:
            return self.compute(gates, h, c, bias)
        if not context.wants_gradient(gates, h, c, bias):
            return self.compute(gates, h, c, bias)
        out, h, *rest = _Gradient.apply(gates, h, c, bias, self)
        return out, h, rest[0] if rest else None

    def _native(self, gates: torch.Tensor) -> Optional[_Native]:
        """Return the library and its weights, None where the kernels cannot run."""
        hh, hr = self.hh, self.hr
        if not isinstance(hh, PackedWeight) or gates.dtype is not torch.float32:
            return None
        if self.cell not in CELLS:
            return None
        if not hh.runs_native(gates):
            return None
        if hr is not None:
            if not isinstance(hr, PackedWeight) or not hr.runs_native(gates):
                return None
            if hh.mode_number != hr.mode_number:
                return None
        kernels = library.loaded()
        return None if kernels is None else (kernels, hh, hr)

    def active(self, gates: torch.Tensor) -> List[int]:
        """Return the batch size at each step.

        Raises:
            RuntimeError: If the batch sizes of a PackedSequence do not fit its data.
        """
        if self.sizes is None:
            steps, batch = gates.shape[:2]
            return [batch] * steps
        sizes = self.sizes
        if sizes.dtype is not torch.int64 or not sizes.is_cpu or sizes.dim() != 1:
            raise RuntimeError(
                f"batch_sizes of a PackedSequence are {sizes.dtype} on {sizes.device} "
                f"of shape {tuple(sizes.shape)}; allowed: torch.int64 on cpu, (steps,)"
            )
        active = sizes.tolist()
        falling = all(b <= a for a, b in zip(active, active[1:]))
        if not falling or active[-1:] < [1] or sum(active) != gates.shape[0]:
            raise RuntimeError(
                f"batch_sizes of a PackedSequence do not fit {gates.shape[0]} rows; "
                "allowed: positive numbers that do not increase, of that sum"
            )
        return active

    def compute(self, gates, h, c, bias) -> States:
        """Return the results for plain tensors, by the kernels where they can run."""
        for t in (gates, h, c, bias):
            if t is not None and t.layout is not torch.strided:
                raise RuntimeError(f"an operand is {t.layout}; allowed: torch.strided")
        native = self._native(gates)
        if native is None:
            return self.by_operations(gates, h, c, bias)
        active = self.active(gates)
        if not gates.numel():
            return (
                gates.new_empty(*gates.shape[:-1], h.shape[-1]),
                *(h.clone(), None if c is None else c.clone()),
            )
        (kernels, hh, hr), f32 = native, torch.float32
        rows, outputs = hh.rows, hh.cols
        units = rows // (4 if self.cell == "LSTM" else 3)
        total, batch = gates.numel() // rows, active[0]
        gates = gates.contiguous()
        # The library writes to the states: the caller keeps its own.
        h = h.clone(memory_format=torch.contiguous_format)
        if c is not None:
            c = c.clone(memory_format=torch.contiguous_format)
        out = gates.new_empty(*gates.shape[:-1], outputs)
        check(
            kernels.gq_recurrence(
                CELLS[self.cell],
                hh.description(bias),
                None if hr is None else hr.description(),
                units,
                address(gates, f32, total * rows, "the gates"),
                (ctypes.c_int64 * len(active))(*active),
                len(active),
                self.reverse,
                address(h, f32, batch * outputs, "the hidden state"),
                None if c is None else address(c, f32, batch * units, "the cell state"),
                address(out, f32, total * outputs, "the result"),
                outputs,
                hh.mode_number,
                torch.get_num_threads(),
                0,
            )
        )
        return out, h, c

    def by_operations(self, gates, h, c, bias) -> States:
        """Return the results by PyTorch operations, which autograd can follow."""
        for name, t in (("hidden", h), ("cell", c), ("bias", bias)):
            if t is not None and t.dtype is not gates.dtype:
                raise RuntimeError(
                    f"gates are {gates.dtype}, {name} is {t.dtype}; allowed: one type"
                )
        apply_hh, apply_hr = _product(self.hh, gates), _product(self.hr, gates)
        flat = gates if self.sizes is not None else gates.flatten(0, 1)
        active = self.active(gates)
        begins = [0]
        for n in active:
            begins.append(begins[-1] + n)
        found: Dict[int, torch.Tensor] = {}
        order = range(len(active))
        for t in reversed(order) if self.reverse else order:
            n = active[t]
            now, rest = flat[begins[t] : begins[t + 1]], h[n:]
            hidden = apply_hh(h[:n], bias)
            if self.cell in ACTIVATIONS:
                new = ACTIVATIONS[self.cell](now + hidden)
            elif c is None:
                new = gru(now, hidden, h[:n])
            else:
                new, cell = lstm(now + hidden, c[:n])
                c = torch.cat([cell, c[n:]]) if len(c) > n else cell
                new = new if apply_hr is None else apply_hr(new, None)
            h = torch.cat([new, rest]) if len(rest) else new
            found[t] = new
        out = torch.cat([found[t] for t in order])
        if self.sizes is None:
            out = out.unflatten(0, gates.shape[:2])
        return out, h, c


class _Gradient(torch.autograd.Function):
    """The library's time loop; its gradient recomputes the steps by operations."""

    @staticmethod
    def forward(ctx, gates, h, c, bias, steps):
        ctx.steps = steps
        if bias is not None and bias.is_inference():
            bias = bias.clone()
        ctx.save_for_backward(gates, h, c, bias)
        out, h, c = steps.compute(gates, h, c, bias)
        return (out, h) if c is None else (out, h, c)

    @staticmethod
    def backward(ctx, *grads):
        again = torch.is_grad_enabled()
        with torch.enable_grad():
            given = [
                t if t is None or again else t.detach().requires_grad_(need)
                for t, need in zip(ctx.saved_tensors, ctx.needs_input_grad)
            ]
            results = ctx.steps.by_operations(*given)
            asked = [t for t in given if t is not None and t.requires_grad]
            pairs = [(r, g) for r, g in zip(results, grads) if r is not None]
            found = iter(
                torch.autograd.grad(
                    *([r for r, _ in pairs], asked, [g for _, g in pairs]),
                    create_graph=again,
                    allow_unused=True,
                )
            )
        return (
            *(None if t is None or not t.requires_grad else next(found) for t in given),
            None,
        )


def _parts(weight: Optional[Matrix]) -> List[torch.Tensor]:
    if isinstance(weight, PackedWeight):
        return list(weight.parts())
    return [] if weight is None else [weight]


def _int8(weight: Optional[Matrix]) -> bool:
    return isinstance(weight, PackedWeight) and weight.mode == "int8"


def linear(x, weight, bias):
    if isinstance(weight, PackedWeight):
        return weight.product(x, bias)
    return F.linear(x, weight.to(x.dtype), bias)


def _product(weight: Optional[Matrix], x: torch.Tensor):
    """Return a product for many steps, unpacked first where no kernel runs."""
    if weight is None:
        return None
    if isinstance(weight, PackedWeight):
        exact = weight.mode == "exact" or weight.cols > INT8_COLUMNS
        follow = torch.is_grad_enabled() or context.is_transformed()
        if not exact or (weight.runs_native(x) and not follow):
            return weight.product
        weight = weight.matrix()
    weight = weight.to(x.dtype)
    return lambda x, bias: F.linear(x, weight, bias)


def lstm(gates: torch.Tensor, c: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
    i, f, g, o = gates.chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def gru(gates, hidden, h: torch.Tensor) -> torch.Tensor:
    (ir, iz, i_n), (hr, hz, hn) = gates.chunk(3, -1), hidden.chunk(3, -1)
    z = torch.sigmoid(iz + hz)
    n = torch.tanh(i_n + torch.sigmoid(ir + hr) * hn)
    return n + z * (h - n)
