"""Packed layers behave as the float layers that they stand for: types, sizes, errors,
gradients, training."""

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from packed_kinds import (
    KINDS,
    RECURRENT,
    close,
    equal,
    flat,
    in_mode,
    mapped,
    outcome,
    pair,
)
from torch import nn

from espnet_gq import native
from espnet_gq.runtime import PackedWeight

every_kind = pytest.mark.parametrize("name", KINDS)
every_mode = pytest.mark.parametrize("mode", ["exact", "int8"])
TOLERANCE = {
    torch.float16: 5e-3,
    torch.bfloat16: 4e-2,
    torch.float32: 3e-6,
    torch.float64: 3e-6,
}
MOVES = {
    "double": lambda m: m.double(),
    "half": lambda m: m.half(),
    "bfloat16": lambda m: m.bfloat16(),
    "to": lambda m: m.to(torch.float64),
    "to like": lambda m: m.to(torch.zeros(1, dtype=torch.float16)),
    "there and back": lambda m: m.half().float(),
}


@pytest.fixture(params=[True, False], ids=["kernels", "operations"])
def library(request, monkeypatch):
    """With the library and without it."""
    if not request.param:
        monkeypatch.setattr(native.library, "loaded", lambda: None)


# --- types ----------------------------------------------------------------------------


@every_kind
@every_mode
@pytest.mark.parametrize("move", MOVES)
def test_a_moved_model(name, mode, move, library):
    kind = KINDS[name]
    packed, hardened = pair(kind.layer)
    exact = copy.deepcopy(packed)
    packed, hardened = MOVES[move](packed), MOVES[move](hardened)
    dtype = next(hardened.parameters()).dtype
    args = kind.inputs()
    moved = mapped(lambda t: t.to(dtype), args)
    with in_mode(packed, mode), torch.no_grad():
        found = packed(*moved)
        size = 0.1 if mode == "int8" else max(TOLERANCE[dtype], 2e-3 * ("back" in move))
        close(found, hardened(*moved), atol=size, rtol=size)
        for other in (
            copy.deepcopy(packed),
            pickle.loads(pickle.dumps(packed)),
            saved_and_loaded(packed),
        ):
            assert equal(other(*moved), found)
        for weight in (m for m in packed.modules() if isinstance(m, PackedWeight)):
            assert weight.dtype == weight.dense().dtype == dtype
            assert weight.codebook.dtype == weight.scale.dtype == torch.float32
    if move == "there and back" and mode == "exact":
        for a, b in zip(packed.modules(), exact.modules()):
            if isinstance(a, PackedWeight):
                assert equal(a.dense(), b.dense())


def saved_and_loaded(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@every_kind
def test_a_state_dict_keeps_the_type_as_a_float_layer_does(name):
    kind = KINDS[name]
    packed, hardened = pair(kind.layer)
    for assign in (False, True):
        for model in (packed, hardened):
            target = copy.deepcopy(model)
            target.load_state_dict(
                copy.deepcopy(model).double().state_dict(), assign=assign
            )
            (layer,) = target.children()
            weight = next(
                m
                for n, m in [*layer.named_children(), *layer.named_parameters()]
                if "weight" in n
            )
            assert weight.dtype == (torch.float64 if assign else torch.float32)
            args = mapped(lambda t: t.to(weight.dtype), kind.inputs())
            assert flat(target(*args))[0].dtype == weight.dtype


@every_kind
@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.int64],
    ids=str,
)
def test_activations_of_another_type(name, dtype, library):
    kind = KINDS[name]
    packed, hardened = pair(kind.layer)
    args = mapped(lambda t: t.to(dtype), kind.inputs())
    with torch.no_grad():
        theirs, ours = (outcome(lambda: model(*args)) for model in (hardened, packed))
    if isinstance(theirs, Exception):
        assert isinstance(ours, type(theirs)), ours
        assert len(str(ours)) > 10
    else:  # an embedding's indices
        close(ours, theirs)


def test_a_type_is_explicit_and_not_the_process_default():
    weight = pair(KINDS["Linear"].layer)[0].layer.weight
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        other = PackedWeight(*weight_arguments(weight), dtype=dtype)
        assert other.dtype == other.dense().dtype == dtype
    assert PackedWeight(*weight_arguments(weight)).dtype == torch.float32


def weight_arguments(weight):
    return weight.planes, weight.shape, weight.codebook, weight.scale


@every_kind
@every_mode
def test_autocast_gives_the_types_of_float_layers(name, mode, library):
    kind = KINDS[name]
    packed, hardened = pair(kind.layer)
    for change in (lambda t: t, torch.Tensor.bfloat16):
        args = mapped(change, kind.inputs())
        with in_mode(packed, mode), torch.no_grad(), torch.autocast("cpu"):
            theirs = outcome(lambda: hardened(*args))
            if isinstance(theirs, Exception):
                continue
            ours = packed(*args)
        close(ours, theirs, atol=0.1, rtol=0.05)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        args = kind.inputs()
        close(packed(*args), hardened(*args))


# --- sizes ----------------------------------------------------------------------------

SIZES = {
    "Linear": [(0, 20), (3, 0, 20), (1, 2, 3, 20), (20,), (3, 19), (0,), (), (3, 0)],
    "Conv1d 1": [
        *(
            (0, 20, 5),
            (20, 5),
            (2, 20, 1),
            (2, 20, 0),
            (2, 19, 5),
            (20,),
            (1, 2, 20, 5),
        ),
        *((19, 5), (0, 20, 0), ()),
    ],
    "Conv1d 3": [(0, 20, 9), (20, 9), (2, 20, 2), (2, 19, 9), (20,), (1, 2, 20, 9)],
    "Conv2d": [(0, 4, 7, 6), (4, 7, 6), (2, 4, 0, 6), (2, 3, 7, 6), (7, 6), ()],
    "LSTM unbatched": [
        *((5, 0, 20), (0, 3, 20), (0, 20), (1, 1, 20), (5, 20), (5, 3, 19), (20,)),
        *((2, 5, 3, 20), (5, 19), ()),
    ],
    "LSTM projected": [
        (0, 5, 20),
        (3, 0, 20),
        (0, 20),
        (3, 1, 20),
        (5, 20),
        (3, 5, 19),
    ],
    "GRU": [
        (0, 5, 20),
        (3, 0, 20),
        (0, 20),
        (3, 1, 20),
        (5, 20),
        (3, 5, 19),
        (20,),
        (),
    ],
    "LSTMCell": [(0, 20), (20,), (3, 19), (2, 3, 20), (), (19,)],
    "GRUCell": [(0, 20), (20,), (3, 19), (2, 3, 20), (), (19,)],
}


@pytest.mark.parametrize(
    "name, shape", [(n, s) for n, all_ in SIZES.items() for s in all_]
)
@every_mode
def test_every_size_gives_what_the_float_layer_gives(name, shape, mode, library):
    packed, hardened = pair(KINDS[name].layer)
    x = torch.randn(shape)
    with in_mode(packed, mode), torch.no_grad():
        theirs, ours = outcome(lambda: hardened(x)), outcome(lambda: packed(x))
    if isinstance(theirs, Exception):
        assert type(ours) is type(theirs), (ours, theirs)
        assert 10 < len(str(ours)) and "\n" not in str(ours)
    else:
        assert not isinstance(ours, Exception), ours
        close(ours, theirs, *((0.1, 0) if mode == "int8" else ()))
        for a, b in zip(flat(ours), flat(theirs)):
            assert a.is_contiguous() or not b.is_contiguous()


@every_kind
@every_mode
@pytest.mark.parametrize(
    "layout",
    [
        lambda t: t.transpose(0, -1).contiguous().transpose(0, -1),
        lambda t: torch.cat([t, t], -1)[..., : t.shape[-1]],
        lambda t: t.flip(0).flip(0),
        lambda t: torch.repeat_interleave(t, 2, -1)[..., ::2],
        lambda t: t[:1].expand_as(t),
        lambda t: torch._neg_view(-t),
        lambda t: torch.complex(t, -t).conj().imag,
        lambda t: nn.Parameter(t),
    ],
    ids=["transposed", "cut", "flipped", "strided", "expanded", "negated"]
    + ["conjugate", "parameter"],
)
def test_every_layout_of_activations(name, mode, layout, library):
    kind = KINDS[name]
    packed, hardened = pair(kind.layer)
    args = mapped(layout, kind.inputs())
    plain = mapped(
        lambda t: t.detach().resolve_neg().clone(memory_format=torch.contiguous_format),
        args,
    )
    with in_mode(packed, mode), torch.no_grad():
        # The products of PyTorch itself differ by the layout.
        close(packed(*args), packed(*plain), atol=1e-6 if mode == "exact" else 0.02)
    with torch.no_grad():
        close(packed(*args), hardened(*plain))


@pytest.mark.parametrize("like", ["float layer", "sparse", "nested", "subclass"])
def test_unusual_tensors(like, library):
    packed, hardened = pair(lambda: nn.Linear(20, 33))

    class Named(torch.Tensor):
        pass

    x = torch.randn(4, 20)
    given = {
        "float layer": lambda: x,
        "sparse": lambda: x.relu().to_sparse(),
        "nested": lambda: torch.nested.nested_tensor([x[:1], x[1:]]),
        "subclass": lambda: x.as_subclass(Named),
    }[like]()
    with torch.no_grad():
        theirs, ours = outcome(lambda: hardened(given)), outcome(lambda: packed(given))
    if isinstance(theirs, Exception):
        assert isinstance(ours, Exception)
        return
    assert type(ours) is type(theirs) and ours.is_nested == theirs.is_nested
    parts = ours.unbind() if ours.is_nested else [ours]
    for a, b in zip(parts, theirs.unbind() if theirs.is_nested else [theirs]):
        close(a.as_subclass(torch.Tensor), b.as_subclass(torch.Tensor))


@pytest.mark.parametrize("where", ["input", "model", "both"])
@every_kind
def test_the_meta_device(name, where):
    kind = KINDS[name]
    models, args = pair(kind.layer), kind.inputs()
    if where != "model":
        args = tuple(to_meta(a) for a in args)
    if where != "input":
        models = [model.to("meta") for model in models]
    with torch.no_grad():
        ours, theirs = (outcome(lambda: model(*args)) for model in models)
    if isinstance(ours, Exception):
        # PyTorch does not always look: `nn.Linear` then returns unwritten memory.
        assert where != "both" and 10 < len(str(ours))
    else:
        for a, b in zip(flat(ours), flat(theirs), strict=True):
            assert a.shape == b.shape and a.device == b.device and a.dtype == b.dtype


def to_meta(value):
    if torch.is_tensor(value):
        return value.to("meta")
    if isinstance(value, nn.utils.rnn.PackedSequence):
        return value._replace(data=value.data.to("meta"))
    return tuple(to_meta(part) for part in value)


# --- embeddings -----------------------------------------------------------------------


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.5, float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_max_norm(norm_type, dtype, library):
    packed, hardened = pair(lambda: nn.Embedding(20, 33))
    packed, hardened = packed.to(dtype), hardened.to(dtype)
    norms = hardened.layer.weight.norm(norm_type, -1)
    ids = torch.tensor([[3, 3, 0], [19, 7, 3]])
    limit = float(norms[[0, 3, 7, 19]].float().sort().values[1:3].mean())
    limit = min(limit, 0.9 * float(norms[3]))
    before = packed.layer.weight.dense()
    for model in (packed, hardened):
        model.layer.max_norm, model.layer.norm_type = limit, norm_type
    ours, theirs = packed(ids), hardened(ids).detach()
    close(
        ours,
        theirs,
        atol=TOLERANCE[dtype],
        rtol=1e-2 if dtype is torch.bfloat16 else 1e-5,
    )
    assert not equal(ours, F.embedding(ids, before))
    assert equal(packed.layer.weight.dense(), before)  # it is frozen
    direct = F.embedding(ids, packed.layer.weight, max_norm=limit, norm_type=norm_type)
    assert equal(direct, ours)


@pytest.mark.parametrize(
    "ids",
    [
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(3, 0, dtype=torch.int64),
        torch.tensor(7),
        torch.tensor([[1, 19]], dtype=torch.int32),
        torch.arange(20)[::2],
        torch.arange(20).view(4, 5).t(),
        torch.tensor([3]).expand(4),
        torch.tensor([1.0]),
        torch.tensor([True]),
        torch.tensor([1], dtype=torch.int16),
        torch.tensor([1], dtype=torch.uint8),
        torch.tensor([20]),
        torch.tensor([-1]),
        [1],
        None,
    ],
    ids=repr,
)
def test_indices(ids, library):
    packed, hardened = pair(lambda: nn.Embedding(20, 33, padding_idx=-1))
    theirs, ours = outcome(lambda: hardened(ids)), outcome(lambda: packed(ids))
    if isinstance(theirs, Exception):
        assert type(ours) is type(theirs), ours
    else:
        close(ours, theirs.detach())


# --- gradients and training -----------------------------------------------------------


def with_gradients(model, args):
    """Return results, and the gradients of inputs and parameters."""
    args = mapped(lambda t: t.detach().clone().requires_grad_(), args)
    model.zero_grad()
    out = flat(model(*args))
    sum(
        (t.double() * torch.linspace(1, 2, t.numel()).view(t.shape)).sum() for t in out
    ).backward()
    leaves = [t for t in flat(args) if t.is_floating_point()]
    return (
        out,
        [t.grad for t in leaves],
        {n: p.grad for n, p in model.named_parameters() if "weight" not in n},
    )


@every_kind
@every_mode
def test_values_of_the_mode_and_gradients_of_the_exact_product(name, mode, library):
    kind = KINDS[name]
    if name.startswith("Embedding"):
        pytest.skip("no activations")
    packed, hardened = pair(kind.layer)
    args = kind.inputs()
    _, to_x, to_bias = with_gradients(hardened, args)
    with in_mode(packed, mode):
        out, ours, biases = with_gradients(packed, args)
        with torch.no_grad():
            plain = packed(*args)
        assert all(t.requires_grad for t in out)
        size = 1e-6 if mode == "exact" else 1e-5  # of int8, a rounding may turn
        close(
            [t.detach() for t in out],
            plain,
            atol=0.02 if mode == "int8" and name in RECURRENT else size,
        )
    if "relu" in name and mode == "int8":
        return  # the gradient of relu jumps at zero
    loose = (1e-4, 1e-3) if mode == "exact" else (0.3, 0.3)
    for a, b in zip(ours, to_x, strict=True):
        torch.testing.assert_close(a, b, atol=loose[0], rtol=loose[1])
    assert biases.keys() == to_bias.keys()
    for key in biases:
        scale = float(to_bias[key].abs().max())
        torch.testing.assert_close(
            biases[key], to_bias[key], atol=loose[0] * max(scale, 1), rtol=loose[1]
        )


@every_mode
def test_int8_stays_int8_where_gradients_are_enabled(mode, library):
    packed, _ = pair(lambda: nn.Linear(20, 33))
    x = torch.randn(4, 20)
    with in_mode(packed, mode):
        with torch.no_grad():
            expected = packed(x)
        with torch.enable_grad():
            assert equal(packed(x), expected)
            assert equal(packed(x.clone().requires_grad_()), expected)
            assert equal(packed.requires_grad_(False)(x), expected)


@every_kind
def test_a_gradient_after_inference_mode(name, library):
    kind = KINDS[name]
    packed, _ = pair(kind.layer)
    args = kind.inputs()
    with torch.inference_mode():
        packed(*args)
    for _ in range(2):
        if name.startswith("Embedding"):
            assert not packed(*args).requires_grad
        else:
            assert all(g is not None for g in with_gradients(packed, args)[1])


@every_kind
def test_a_model_loaded_in_inference_mode(name, library):
    kind = KINDS[name]
    with torch.inference_mode():
        packed, hardened = pair(kind.layer)
    args = kind.inputs()
    with torch.no_grad():
        close(packed(*args), hardened(*args))
    if not name.startswith("Embedding"):
        for p in packed.parameters():
            p.requires_grad_(False)
        changed = mapped(lambda t: t.clone().requires_grad_(), args)
        sum(t.sum() for t in flat(packed(*changed))).backward()
        assert all(t.grad is not None for t in flat(changed) if t.is_floating_point())


@pytest.mark.parametrize("name", ["Linear", "LSTM", "GRU", "LSTMCell", "GRUCell"])
def test_gradients_of_gradients(name, library):
    kind = KINDS[name]
    models, args = pair(kind.layer), kind.inputs()
    found = []
    for model in models:
        given = mapped(lambda t: t.detach().clone().requires_grad_(), args)
        x = flat(given)[0]
        out = flat(model(*given))[0].pow(2).sum()
        (first,) = torch.autograd.grad(out, x, create_graph=True)
        first.pow(2).sum().backward()
        found.append(x.grad)
    torch.testing.assert_close(*found, atol=1e-3, rtol=1e-3)


def test_a_change_in_place_before_the_gradient_is_noticed():
    packed, _ = pair(lambda: nn.Linear(20, 33))
    out = packed(torch.randn(4, 20, requires_grad=True)).sum()
    packed.layer.weight.codebook.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()


@pytest.mark.parametrize(
    "name",
    [
        "Linear",
        "Conv1d 1",
        "Conv1d 3",
        "Embedding",
        "LSTM",
        "GRU",
        "LSTMCell",
        "GRUCell",
    ],
)
@pytest.mark.parametrize("transform", ["vmap", "jvp", "grad", "dual"])
@every_mode
def test_transforms_of_functions(name, transform, mode, library):
    kind = KINDS[name]
    packed, hardened = pair(kind.layer)
    args = kind.inputs()
    if name == "Embedding" and transform != "vmap":
        pytest.skip("no activations")
    x, rest = args[0], args[1:]
    tangent = torch.ones_like(x)

    def apply(model):
        if transform == "vmap":
            many = torch.stack([x, x.flip(0)])
            return torch.func.vmap(lambda one: model(one, *rest))(many)
        if transform == "jvp":
            return torch.func.jvp(lambda one: model(one, *rest), (x,), (tangent,))
        if transform == "grad":
            return torch.func.grad(lambda one: flat(model(one, *rest))[0].sum())(x)
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, tangent)
            out = flat(model(dual, *rest))[0]
            return torch.autograd.forward_ad.unpack_dual(out).tangent

    theirs = outcome(lambda: apply(hardened))
    if isinstance(theirs, Exception):
        theirs = None  # PyTorch's own layer cannot
    with in_mode(packed, mode):
        ours = outcome(lambda: apply(packed))
    if isinstance(ours, Exception):
        assert theirs is None, ours
    elif theirs is not None:
        close(ours, theirs, *((1e-4, 1e-3) if mode == "exact" else (0.3, 0.3)))


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
def test_dropout_between_layers_in_training(layer, library):
    packed, hardened = pair(lambda: layer(20, 33, 3, dropout=0.5))
    x = torch.randn(5, 3, 20)
    with torch.no_grad():
        close(packed(x), hardened(x))
        for model in (packed, hardened):
            model.train()
        found = [packed(x)[0] for _ in range(2)]
        assert not equal(*found)
        mean = torch.stack([packed(x)[0] for _ in range(300)]).mean(0)
        theirs = torch.stack([hardened(x)[0] for _ in range(300)]).mean(0)
        assert float((mean - theirs).abs().max()) < 0.1


def test_every_other_kind_is_the_same_in_training(library):
    for kind in KINDS.values():
        packed, _ = pair(kind.layer)
        args = kind.inputs()
        with torch.no_grad():
            expected = packed(*args)
            assert equal(packed.train()(*args), expected)


def test_a_float_weight_in_a_packed_weights_place():
    for name in ("Linear", "Conv1d 1", "Conv1d 3", "Conv2d", "Embedding"):
        kind = KINDS[name]
        packed, hardened = pair(kind.layer)
        packed.layer.weight = nn.Parameter(hardened.layer.weight.detach().clone())
        args = kind.inputs()
        with torch.no_grad():
            assert equal(packed(*args), hardened(*args))
    packed, hardened = pair(lambda: nn.LSTM(20, 33))
    for name in ("weight_ih_l0", "weight_hh_l0"):
        setattr(
            packed.layer, name, nn.Parameter(getattr(hardened.layer, name).detach())
        )
        x = torch.randn(5, 3, 20)
        with torch.no_grad():
            close(packed(x), hardened(x))


def test_modes_of_several_matrices():
    """A projection may compute in another mode than the states."""
    packed, hardened = pair(lambda: nn.LSTM(20, 33, proj_size=7))
    x = torch.randn(5, 3, 20)
    results = []
    with torch.no_grad():
        for hh in ("exact", "int8"):
            for hr in ("exact", "int8"):
                packed.layer.weight_hh_l0.mode = hh
                packed.layer.weight_hr_l0.mode = hr
                results.append(packed(x)[0])
        close(results[0], hardened(x)[0])
    for i, a in enumerate(results):
        for b in results[:i]:
            assert 0 < float((a - b).abs().max()) < 0.1
