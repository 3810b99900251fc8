"""The inputs that each weight of a layer is multiplied with, as matrices.

A layer computes with a weight W (G, R, K) as X W^T, for inputs X (G, n, K): rows of a
Linear, im2col columns of a convolution (one matrix per group), inputs and last hidden
states of a recurrent layer, whose gates all see the same, or query, key and value of an
attention (one matrix each).

Other layers have no such inputs here: rows of an embedding are looked up, so errors of
one cannot compensate another's; a transposed convolution sums over its rows; what a
re-parametrization makes of a tensor is not known.
"""

import re
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence
from torch.utils._pytree import tree_leaves

Inputs = Dict[str, torch.Tensor]
"""Name of the parameter -> X (G, n, K)."""

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
RECURRENT = (nn.LSTM, nn.GRU, nn.RNN)
CELLS = (nn.LSTMCell, nn.GRUCell, nn.RNNCell)
KINDS = (nn.Linear, *CONVOLUTIONS, *RECURRENT, *CELLS, nn.MultiheadAttention)
_MULTIPLIED = re.compile(
    r"weight|weight_(ih|hh)|weight_(ih|hh|hr)_l\d+(_reverse)?|(in|q|k|v)_proj_weight"
)


def is_multiplied(layer: nn.Module, attribute: str) -> bool:
    """Return whether `inputs_of` knows the inputs of a parameter of a layer, unless the
    layer's class computes something else (`computes_as_known`)."""
    return isinstance(layer, KINDS) and bool(_MULTIPLIED.fullmatch(attribute))


def groups_and_columns(
    layer: nn.Module, shape: Tuple[int, ...], attribute: str = "weight"
) -> Tuple[int, int]:
    """Return G and K of a weight of this shape."""
    groups = layer.groups if isinstance(layer, CONVOLUTIONS) else 1
    groups = 3 if attribute == "in_proj_weight" else groups
    return groups, torch.Size(shape[1:]).numel()


def _known_class(layer: nn.Module) -> Any:
    return next(cls for cls in type(layer).__mro__ if cls in KINDS)


def is_own(layer: nn.Module) -> bool:
    """Return whether a layer of KINDS has code of its own in the place of PyTorch's."""
    return any(
        getattr(type(layer), name, None) is not getattr(_known_class(layer), name, None)
        for name in ("forward", "_conv_forward")
    )


@torch.no_grad()
def computes_as_known(
    layer: nn.Module, args: Tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
) -> bool:
    """Return whether a call of a layer of KINDS gave what PyTorch's class gives.

    Args:
        layer: The layer.
        args, kwargs: Of the call.
        output: Its result.
    """
    cls: Any = _known_class(layer)
    try:
        if isinstance(layer, CONVOLUTIONS):
            x = args[0] if args else kwargs["input"]
            expected = cls._conv_forward(layer, x, layer.weight, layer.bias)
        else:
            expected = cls.forward(layer, *args, **kwargs)
    except Exception:  # the class takes other inputs
        return False
    pairs = list(zip(tree_leaves(output), tree_leaves(expected)))
    return len(tree_leaves(output)) == len(tree_leaves(expected)) and all(
        a is b
        or (
            torch.is_tensor(a)
            and torch.is_tensor(b)
            and a.shape == b.shape
            and torch.allclose(a.float(), b.float(), rtol=1e-3, atol=1e-4)
        )
        for a, b in pairs
    )


def stages_of(layer: nn.Module, attributes: List[str]) -> List[List[str]]:
    """Return a layer's weights in the order in which its inputs come about."""
    if not isinstance(layer, RECURRENT):
        return [attributes]
    kinds = ("weight_ih", "weight_hh", "weight_hr")
    stages: Dict[Tuple[int, int], List[str]] = {}
    for name in attributes:
        kind, _, rest = name.partition("_l")
        key = (int(rest.removesuffix("_reverse")), kinds.index(kind))
        stages.setdefault(key, []).append(name)
    return [stages[key] for key in sorted(stages)]


@torch.no_grad()
def inputs_of(
    layer: nn.Module, args: Tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Inputs:
    """Return the inputs of a call of a layer of one of KINDS.

    Args:
        layer: The layer.
        args, kwargs: Of the call.
    """
    if isinstance(layer, nn.MultiheadAttention):
        return _attention_inputs(layer, args, kwargs)
    x = args[0] if args else kwargs["input"]
    hx = args[1] if len(args) > 1 else kwargs.get("hx")
    if isinstance(layer, nn.Linear):
        return {"weight": x.reshape(1, -1, layer.in_features).float()}
    if isinstance(layer, CONVOLUTIONS):
        return {"weight": columns(layer, x)}
    if isinstance(layer, CELLS):
        return _cell_inputs(layer, x, hx)
    assert isinstance(layer, RECURRENT)
    found: Dict[str, List[torch.Tensor]] = {}
    for sequence, state in _sequences(layer, x, hx):
        for name, matrix in _recurrent_inputs(layer, sequence, state).items():
            found.setdefault(name, []).append(matrix)
    return {name: torch.cat(parts)[None] for name, parts in found.items()}


def columns(layer: Union[nn.Conv1d, nn.Conv2d], x: torch.Tensor) -> torch.Tensor:
    """Return the im2col matrix (groups, n, in_channels / groups * kernel)."""
    dimensions = len(layer.kernel_size)
    if x.dim() == dimensions + 1:
        x = x[None]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x.float(), list(layer._reversed_padding_repeated_twice), mode=mode)
    kernel, dilation, stride = layer.kernel_size, layer.dilation, layer.stride
    if dimensions == 1:
        x = x[:, :, None]
        kernel, dilation, stride = (1, *kernel), (1, *dilation), (1, *stride)
    taken = F.unfold(x, kernel, dilation=dilation, stride=stride)
    batch, width, number = taken.shape
    taken = taken.view(batch, layer.groups, width // layer.groups, number)
    taken = taken.permute(1, 0, 3, 2)
    return taken.reshape(layer.groups, batch * number, width // layer.groups)


def _attention_inputs(
    layer: nn.MultiheadAttention, args: Tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Inputs:
    names = ("query", "key", "value")
    given = {**dict(zip(names, args)), **kwargs}
    rows = [given[name].reshape(-1, given[name].shape[-1]).float() for name in names]
    if layer.in_proj_weight is None:
        return {f"{n[0]}_proj_weight": x[None] for n, x in zip(names, rows)}
    most = max(map(len, rows))  # rows of zeros change no sum
    return {
        "in_proj_weight": torch.stack(
            [F.pad(x, (0, 0, 0, most - len(x))) for x in rows]
        )
    }


def _cell_inputs(layer: nn.Module, x: torch.Tensor, hx: Any) -> Inputs:
    x = x.reshape(1, -1, x.shape[-1]).float()
    hidden = hx[0] if isinstance(hx, (tuple, list)) else hx
    if hidden is None:
        size = layer.get_parameter("weight_hh").shape[1]
        hidden = x.new_zeros(x.shape[1], size)
    hidden = hidden.reshape(1, -1, hidden.shape[-1]).float()
    return {"weight_ih": x, "weight_hh": hidden}


def _sequences(layer: nn.RNNBase, x: Any, hx: Any):
    """Yield each sequence (T, F) of a batch, with its state (layers, ...) or None."""
    if isinstance(x, PackedSequence):
        x, lengths = pad_packed_sequence(x)  # undoes the sorting
        batch = [x[: int(n), i] for i, n in enumerate(lengths)]
    elif x.dim() == 2:
        batch = [x]
        if hx is not None:
            hx = _map(hx, lambda h: h[:, None])
    else:
        batch = list(x if layer.batch_first else x.transpose(0, 1))
    for i, sequence in enumerate(batch):
        state = None if hx is None else _map(hx, lambda h, i=i: h[:, i].float())
        yield sequence.float(), state


def _map(hx: Any, function) -> Any:
    return tuple(map(function, hx)) if isinstance(hx, (tuple, list)) else function(hx)


def _recurrent_inputs(
    layer: nn.RNNBase, x: torch.Tensor, state: Any
) -> Dict[str, torch.Tensor]:
    """Return the inputs (n, K) of each matrix of a layer for one sequence."""
    found: Dict[str, torch.Tensor] = {}
    directions = 2 if layer.bidirectional else 1
    for depth in range(layer.num_layers):
        outputs = []
        for direction in range(directions):
            suffix = f"_l{depth}" + ("_reverse" if direction else "")
            number = depth * directions + direction
            first = None if state is None else _map(state, lambda h: h[number])
            taken = x.flip(0) if direction else x
            run = _STEPS[layer.mode]
            hidden, unprojected, last = run(layer, suffix, taken, first)
            found[f"weight_ih{suffix}"] = taken
            found[f"weight_hh{suffix}"] = hidden
            if unprojected is not None:
                found[f"weight_hr{suffix}"] = unprojected
            following = torch.cat([hidden[1:], last[None]])
            outputs.append(following.flip(0) if direction else following)
        x = torch.cat(outputs, 1)
    return found


def _affine(layer: nn.RNNBase, kind: str, suffix: str, x: torch.Tensor):
    weight = getattr(layer, f"weight_{kind}{suffix}")
    bias = getattr(layer, f"bias_{kind}{suffix}", None)
    return F.linear(x, weight.float(), None if bias is None else bias.float())


def _lstm(
    layer: nn.RNNBase, suffix: str, x: torch.Tensor, first: Any
) -> Tuple[torch.Tensor, Optional[torch.Tensor], torch.Tensor]:
    """Return h before each step, o tanh(c) where it is projected, and the last h."""
    size = layer.hidden_size
    h, c = (None, None) if first is None else first
    h = x.new_zeros(layer.proj_size or size) if h is None else h
    c = x.new_zeros(size) if c is None else c
    project = getattr(layer, f"weight_hr{suffix}", None)
    before, unprojected = [], []
    for gates in _affine(layer, "ih", suffix, x):
        before.append(h)
        i, f, g, o = (gates + _affine(layer, "hh", suffix, h)).chunk(4)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        if project is not None:
            unprojected.append(h)
            h = F.linear(h, project.float())
    return torch.stack(before), torch.stack(unprojected) if unprojected else None, h


def _gru(
    layer: nn.RNNBase, suffix: str, x: torch.Tensor, first: Any
) -> Tuple[torch.Tensor, Optional[torch.Tensor], torch.Tensor]:
    """Return h before each step, None, and the last h."""
    h = x.new_zeros(layer.hidden_size) if first is None else first
    before = []
    for gates in _affine(layer, "ih", suffix, x):
        before.append(h)
        r, z, n = gates.chunk(3)
        hr, hz, hn = _affine(layer, "hh", suffix, h).chunk(3)
        z = torch.sigmoid(z + hz)
        n = torch.tanh(n + torch.sigmoid(r + hr) * hn)
        h = (1 - z) * n + z * h
    return torch.stack(before), None, h


def _rnn(
    layer: nn.RNNBase, suffix: str, x: torch.Tensor, first: Any
) -> Tuple[torch.Tensor, Optional[torch.Tensor], torch.Tensor]:
    """Return h before each step, None, and the last h."""
    activation = torch.tanh if layer.mode == "RNN_TANH" else torch.relu
    h = x.new_zeros(layer.hidden_size) if first is None else first
    before = []
    for hidden in _affine(layer, "ih", suffix, x):
        before.append(h)
        h = activation(hidden + _affine(layer, "hh", suffix, h))
    return torch.stack(before), None, h


_STEPS = {"LSTM": _lstm, "GRU": _gru, "RNN_TANH": _rnn, "RNN_RELU": _rnn}
