"""A whole stack of packed recurrent layers in one call of the native library."""

import ctypes
from typing import List, Optional, Sequence

import torch

from espnet_gq.native import address, library
from espnet_gq.native.library import CELLS, Direction, Weight, check
from espnet_gq.runtime import context
from espnet_gq.runtime.steps import Steps
from espnet_gq.runtime.weight import PackedWeight

GATES = {"LSTM": 4, "GRU": 3}


def run(
    cell: str,
    x: torch.Tensor,
    states: Sequence[torch.Tensor],
    weights: Sequence[Sequence],
    has_biases: bool,
    sizes: Optional[torch.Tensor],
    each: int,
) -> Optional[List[torch.Tensor]]:
    """Return the output and the final states of all layers, without gradients.

    The values are those of the layers one after another, bit for bit.

    Args:
        cell: The cell of `Steps`.
        x: (steps, batch, inputs), or (sum of sizes, inputs).
        states: h (directions, batch, outputs), and c (directions, batch, units) of an
            LSTM, each the forward and the backward direction of a layer in turn.
        weights: By direction: W_ih, W_hh, the biases, the projection.
        has_biases: Whether there are biases.
        sizes: Batch sizes of a PackedSequence, else None.
        each: Directions per layer.

    Returns:
        None where the library cannot run all of it: where PyTorch records, transforms
        or differentiates the call, and for float matrices, several modes, other types
        and empty operands.
    """
    if (
        cell not in CELLS
        or type(x) not in context.PLAIN
        or x.dtype is not torch.float32
        or torch.compiler.is_compiling()
        or not context.is_usual()
        or not x.numel()
    ):
        return None
    kernels = library.loaded()
    if kernels is None:
        return None
    given = [x, *states]
    for direction in weights:
        given += direction[2:4] if has_biases else ()
    if context.wants_gradient(*given):
        return None
    if any(type(t) not in context.PLAIN or not _is_dense(t) for t in given):
        return None
    first = weights[0][1]
    if not isinstance(first, PackedWeight):
        return None
    rows, outputs, mode = first.rows, first.cols, first.mode_number
    units, inputs = rows // GATES[cell], x.shape[-1]
    kept: List[Weight] = []  # until the call has returned
    try:
        directions = (Direction * len(weights))()
        for i, (ih, hh, *rest) in enumerate(weights):
            biases = rest[:2] if has_biases else ()
            hr = rest[-1] if len(rest) > len(biases) else None
            matrices = [ih, hh] if hr is None else [ih, hh, hr]
            for w in matrices:
                if not isinstance(w, PackedWeight) or w.mode_number != mode:
                    return None
            if (ih.rows, ih.cols) != (rows, inputs if i < each else each * outputs):
                return None
            found = [w.description() for w in matrices]
            kept += found
            directions[i] = Direction(
                *map(ctypes.addressof, found),
                *([None] if hr is None else []),
                *(address(b, torch.float32, rows, "a bias") for b in biases),
            )
    except (TypeError, ValueError):
        return None
    active = Steps(cell, first, None, sizes, False).active(x)
    if not x.is_contiguous() or x.is_neg():
        x = x.contiguous().resolve_neg()
    # The library writes to the states: the caller keeps its own.
    final = [s.clone(memory_format=torch.contiguous_format) for s in states]
    out = x.new_empty(*x.shape[:-1], each * outputs)
    f32, batch, total = torch.float32, active[0], x.numel() // inputs
    wide = zip(final, (outputs, units), ("hidden", "cell"))
    at = [
        address(state, f32, len(weights) * batch * width, f"the {name} state")
        for state, width, name in wide
    ]
    check(
        kernels.gq_stack(
            *(CELLS[cell], directions, len(weights) // each, each, units),
            address(x, f32, total * inputs, "the input"),
            (ctypes.c_int64 * len(active))(*active),
            len(active),
            *(at if len(at) == 2 else (*at, None)),
            address(out, f32, total * each * outputs, "the result"),
            *(mode, torch.get_num_threads(), 0),
        )
    )
    return [out, *final]


def _is_dense(t: torch.Tensor) -> bool:
    return t.is_cpu and t.dtype is torch.float32 and t.layout is torch.strided
