"""Calls of packed layers with wrong arguments, generated from a seed, with verdicts."""

import json
import random
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence, Tuple
from unittest import mock

import torch
from torch import nn

import espnet_gq
from espnet_gq.native import library
from espnet_gq.native.library import HARD, SOFT
from espnet_gq.packing import load_packed
from espnet_gq.quantizer import assignment, fused
from espnet_gq.runtime import PackedWeight, set_mode
from espnet_gq.runtime.layout import planes_size, stream_size

REFUSALS = (TypeError, ValueError, RuntimeError, IndexError, AttributeError)
TYPES = [
    *(torch.float64, torch.float16, torch.bfloat16, torch.float32, torch.int64),
    *(torch.int32, torch.uint8, torch.int8, torch.bool, torch.complex64),
]

WITH_ISA = (
    *("gq_linear", "gq_values", "gq_recurrence", "gq_stack"),
    *("gq_forward", "gq_backward"),
)

LAYERS: Dict[str, Tuple[Callable[[], nn.Module], Callable[[], Tuple[Any, ...]]]] = {
    "Linear": (lambda: nn.Linear(40, 35), lambda: (torch.randn(3, 40),)),
    "Linear, many rows": (lambda: nn.Linear(40, 35), lambda: (torch.randn(19, 40),)),
    "Conv1d, pointwise": (lambda: nn.Conv1d(9, 20, 1), lambda: (torch.randn(2, 9, 5),)),
    "Conv1d": (lambda: nn.Conv1d(9, 20, 3), lambda: (torch.randn(2, 9, 5),)),
    "Conv2d": (lambda: nn.Conv2d(3, 20, 3), lambda: (torch.randn(2, 3, 5, 6),)),
    "Embedding": (lambda: nn.Embedding(21, 9), lambda: (torch.randint(21, (2, 3)),)),
    "LSTM": (
        lambda: nn.LSTM(9, 17, 2, bidirectional=True),
        lambda: (torch.randn(5, 3, 9), torch.randn(4, 3, 17), torch.randn(4, 3, 17)),
    ),
    "LSTM, projected": (
        lambda: nn.LSTM(9, 17, proj_size=5),
        lambda: (torch.randn(5, 3, 9), torch.randn(1, 3, 5), torch.randn(1, 3, 17)),
    ),
    "GRU": (
        lambda: nn.GRU(9, 17, batch_first=True),
        lambda: (torch.randn(3, 5, 9), torch.randn(1, 3, 17)),
    ),
    "LSTMCell": (
        lambda: nn.LSTMCell(9, 17),
        lambda: (torch.randn(3, 9), torch.randn(3, 17), torch.randn(3, 17)),
    ),
    "GRUCell": (
        lambda: nn.GRUCell(9, 17),
        lambda: (torch.randn(3, 9), torch.randn(3, 17)),
    ),
}


class Instrumented:
    """The library, with an instrumented instruction set as last argument `isa`."""

    def __init__(self, native, names: Sequence[str]):
        self._library = native
        count = native.gq_isa_count()
        found = [native.gq_isa_name(i).decode() for i in range(count)]
        self._isas = [i for i, name in enumerate(found) if name in names]
        if len(self._isas) < len(names):
            known = ", ".join(found)
            raise ValueError(f"--instruction-sets {' '.join(names)}; allowed: {known}")

    def __getattr__(self, name: str):
        function = getattr(self._library, name)
        if name not in WITH_ISA:
            return function
        return lambda *args: function(*args[:-1], random.choice(self._isas))


def change(rng: random.Random, t: torch.Tensor) -> torch.Tensor:
    """Return a tensor with another type, size, layout or device."""

    def cut(n: int) -> torch.Tensor:
        dim = rng.randrange(max(t.dim(), 1))
        return t.narrow(dim, 0, min(n, t.shape[dim])) if t.dim() else t

    ways: List[Callable[[], torch.Tensor]] = [
        *(lambda: t.to(rng.choice(TYPES)), lambda: t.to("meta"), lambda: t[..., None]),
        *(lambda: cut(0), lambda: cut(1), lambda: cut(2).clone(), lambda: t.flatten()),
        *(lambda: torch.cat([t, t], -1), lambda: torch.cat([t, t]), lambda: t.t()),
        *(lambda: t[::2], lambda: t[..., ::2], lambda: t.flip(-1), lambda: t[0]),
        lambda: torch.cat([t, t], -1)[..., ::2],
        lambda: t.transpose(0, -1).contiguous().transpose(0, -1),
        lambda: t.reshape(-1)[:1].expand(t.shape),
        lambda: t.reshape(-1)[: t.numel() // 2].clone(),
        *(lambda: t * 1e30, lambda: t - 1000, lambda: t * rng.choice([-1, 2**40])),
        *(lambda: t * float("nan"), lambda: t.to_sparse(), lambda: torch._neg_view(t)),
        *(lambda: t.detach().requires_grad_(), lambda: nn.Parameter(t)),
        *(lambda: torch.empty(0), lambda: torch.tensor(1.0), lambda: t.clone()),
        lambda: t.as_strided(t.shape, [0] * t.dim()),
    ]
    return rng.choice(ways)()


def arguments(inputs: Sequence[torch.Tensor], layer: nn.Module) -> Tuple[Any, ...]:
    """Return inputs in the form that the layer takes."""
    x, *states = inputs
    if not states:
        return (x,)
    return x, states[0] if isinstance(layer, (nn.GRU, nn.GRUCell)) else tuple(states)


def swap(rng: random.Random, layer: nn.Module) -> None:
    """Replace the memory of a buffer or a bias."""
    tensors = [*layer.buffers(), *layer.parameters()]
    for tensor in rng.sample(tensors, rng.choice([1, 1, 2])):
        new = change(rng, tensor.detach())
        # Contiguous negated tensors, from a private function only, are not tried.
        tensor.data = new.resolve_neg()


def call_layer(rng: random.Random) -> Callable[[], Any]:
    """Return a call of a layer with a wrong argument or state."""
    make, inputs = LAYERS[rng.choice(list(LAYERS))]
    prepared = espnet_gq.prepare(nn.Sequential(make()), {"bits": rng.randint(1, 8)})
    model = nn.Sequential(make())
    load_packed(model, espnet_gq.pack(prepared.eval()))
    set_mode(model, rng.choice(["exact", "int8"]))
    layer, given = model[0], list(inputs())
    what = rng.choice(["inputs", "inputs", "buffers", "defaults", "moved", "sequence"])
    grad, default, device = rng.random() < 0.3, torch.float32, None
    if what == "inputs":
        for at in rng.sample(range(len(given)), rng.randint(1, len(given))):
            given[at] = change(rng, given[at])
        if rng.random() < 0.1:
            given = given[: rng.randint(1, len(given))]
    elif what == "buffers":
        if rng.random() < 0.5:
            layer(*arguments(given, layer))  # the layer may have cached something
        swap(rng, layer)
    elif what == "moved":
        target: Any = rng.choice([torch.float64, torch.float16, "meta"])
        layer = layer.to(target)
    elif what == "sequence" and isinstance(layer, nn.RNNBase):
        sizes = torch.tensor([rng.randint(-1, 4) for _ in range(rng.randint(0, 5))])
        if rng.random() < 0.3:
            sizes = torch.tensor([3, 2, 2, 1])
        data = torch.randn(rng.choice([8, int(sizes.sum().clamp(0))]), 9)
        given[0] = nn.utils.rnn.PackedSequence(data, sizes)
    else:
        default = rng.choice([torch.bfloat16, torch.float16, torch.float64])
        device = rng.choice([None, "meta"])

    def call():
        torch.set_default_dtype(default)
        torch.set_default_device(device)
        try:
            with torch.set_grad_enabled(grad):
                return layer(*arguments(given, layer))
        finally:
            torch.set_default_dtype(torch.float32)
            torch.set_default_device(None)

    return call


def call_operator(rng: random.Random) -> Callable[[], Any]:
    """Return a call of an operator with some wrong arguments."""
    bits = rng.randint(1, 8)
    rows, cols = rng.choice([16, 20, 68]), rng.choice([5, 32, 40])
    weight = random_weight(rows, cols, bits)
    parts, x = list(weight.parts()), torch.randn(3, cols)
    row = torch.randint(rows, (3,))
    h, c, gates = (
        torch.randn(3, cols),
        torch.randn(3, rows // 4),
        torch.randn(5, 3, rows),
    )
    name = rng.choice(["packed_linear", "packed_values", "packed_rows", "packed_steps"])
    by_name: Dict[str, List[Any]] = {
        "packed_linear": [x, *parts, torch.randn(rows), rows, cols, rng.random() < 0.5],
        "packed_values": [*parts, rows, cols],
        "packed_rows": [row, *parts, rows, cols],
        "packed_steps": [
            *("LSTM", gates, h, c, parts, [torch.randn(cols, rows // 4)], None),
            *(None, rng.random() < 0.5, False, rng.random() < 0.5),
        ],
    }
    given = by_name[name]
    for at in rng.sample(range(len(given)), rng.randint(0, 2)):
        if torch.is_tensor(given[at]):
            given[at] = change(rng, given[at])
        elif isinstance(given[at], list) and given[at]:
            given[at] = [change(rng, t) for t in given[at]]
        elif isinstance(given[at], int):
            given[at] = rng.choice([0, 1, -1, 16, 2**40, given[at] + 1])
    return lambda: getattr(torch.ops.espnet_gq, name)(*given)


def random_weight(rows: int, cols: int, bits: int) -> PackedWeight:
    """Return a weight with random indices."""
    planes = torch.randint(256, (planes_size(rows, cols, bits),), dtype=torch.uint8)
    return PackedWeight(planes, (rows, cols), torch.randn(2**bits), torch.rand(1) + 0.1)


def call_weight(rng: random.Random) -> Callable[[], Any]:
    """Return a use of a weight with some wrong arguments."""
    bits, rows, cols = (
        rng.randint(1, 8),
        rng.choice([3, 16, 33]),
        rng.choice([1, 5, 40]),
    )
    stream = torch.randint(256, (stream_size(rows * cols, bits),), dtype=torch.uint8)
    stream = (change(rng, stream) if rng.random() < 0.5 else stream).detach()
    shape = [rows, cols] if rng.random() < 0.7 else [rng.randint(-1, 50), cols]
    codebook, scale = torch.randn(2**bits), torch.rand(1) + 0.1
    if rng.random() < 0.3:
        codebook = change(rng, codebook)
    if rng.random() < 0.3:
        scale = change(rng, scale)
    x = torch.randn(2, cols)
    if rng.random() < 0.3:
        x = change(rng, x)

    def call():
        weight = PackedWeight.from_stream(stream.numpy(), shape, codebook, scale)
        return (
            weight.linear(x),
            weight.dense(),
            weight.embed(torch.tensor([0, rows - 1])),
        )

    return call


def call_quantizer(rng: random.Random) -> Callable[[], Any]:
    """Return a pass of the quantizer with some wrong arguments."""
    bits, rows, cols = rng.randint(1, 8), rng.choice([1, 3, 20]), rng.choice([1, 5, 40])
    scale = torch.rand(rng.choice([1, rows]), 1) + 0.5
    given = [torch.randn(rows, cols), scale, 1 / scale, torch.linspace(-1, 1, 2**bits)]
    given += [torch.randn(rows, cols), torch.randn(2**bits)]
    for at in rng.sample(range(len(given)), rng.randint(0, 2)):
        given[at] = change(rng, given[at]).detach()
    mode, alpha = rng.choice([SOFT, HARD]), rng.choice([1.0, 7.0, 100.0])

    def call():
        backend: Any = fused if library.available() else assignment
        w, scale, inverse, c, grad, dc = given
        out = backend.forward(w, scale, inverse, c, mode, alpha)
        to_w, _, _ = backend.backward(grad, w, scale, inverse, c, dc, mode, alpha)
        # At a kink, float32 gradients may differ. Values are compared where centroids
        # are ascending and scales finite, as those of a quantizer are.
        if not (c.diff() > 0).all() or not (scale * inverse).isfinite().all():
            out = torch.zeros_like(out)
        return out, torch.zeros_like(to_w)

    return call


CALLS = [call_layer, call_layer, call_layer, call_operator, call_weight, call_quantizer]


def flat(result: Any) -> List[torch.Tensor]:
    """Return the tensors of a result as a list."""
    if torch.is_tensor(result):
        return [result.detach()]
    return [t for part in result if part is not None for t in flat(part)]


def same(a: Any, b: Any) -> bool:
    """Return whether two results agree within the error of rounding to 8 bits."""
    pairs = list(zip(flat(a), flat(b)))
    if len(flat(a)) != len(flat(b)):
        return False
    for x, y in pairs:
        if x.shape != y.shape or x.dtype != y.dtype or x.device != y.device:
            return False
        if x.is_meta or x.layout is not torch.strided:
            continue
        x, y = (t.to(torch.complex128).nan_to_num(0, 0, 0) for t in (x, y))
        size = float(y.abs().max()) if y.numel() else 0.0
        if not torch.allclose(x, y, rtol=1e-3, atol=2e-2 * max(size, 1e-3)):
            return False
    return True


def attempt(call: Callable[[], Any]) -> Any:
    """Return the result, or the exception."""
    try:
        return call()
    except Exception as error:
        return error


def judge(seed: int, index: int) -> Tuple[str, str]:
    """Make a call; return the verdict and a message."""
    rng = random.Random(f"{seed} {index}")
    torch.manual_seed(rng.randrange(2**31))
    while True:  # some changes do not apply to some tensors
        try:
            call = rng.choice(CALLS)(rng)
            break
        except Exception:
            continue
    state = torch.get_rng_state()
    found = attempt(call)
    if isinstance(found, Exception):
        words = str(found)
        clear = isinstance(found, REFUSALS) and len(words) > 10
        one = "\n" not in words.split("\nException raised from")[0].strip()
        return (
            "refused" if clear and one else "unclear"
        ), f"{type(found).__name__} {words}"
    with mock.patch.object(library, "loaded", lambda: None):
        torch.set_rng_state(state)
        expected = attempt(call)
    if isinstance(expected, Exception):
        return "wrong", f"returned where operations raise: {expected}"
    return ("right", "") if same(found, expected) else ("wrong", "other values")


def child(path: str, names: Sequence[str], seed: int, first: int, count: int) -> None:
    """Make calls; write one line of JSON per call."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    native = Instrumented(library.load(Path(path)), names)
    with mock.patch.object(library, "loaded", lambda: native):
        for index in range(first, first + count):
            print(json.dumps([index, "begun", ""]), flush=True)
            print(json.dumps([index, *judge(seed, index)]), flush=True)
