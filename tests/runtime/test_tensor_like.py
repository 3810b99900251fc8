"""A packed weight in the place of a tensor: functional uses, fast paths, attributes."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from packed_kinds import close, equal, flat, outcome, pair
from torch import nn

import espnet_gq
from espnet_gq.packing import load_packed
from espnet_gq.runtime import PackedWeight, set_mode


@pytest.fixture()
def linear():
    packed, hardened = pair(lambda: nn.Linear(20, 33))
    return packed.layer.weight, hardened.layer.weight.detach()


FUNCTIONS = {
    "linear": (lambda x, w: F.linear(x, w)),
    "linear with a bias": (lambda x, w: F.linear(x, w, torch.ones(33))),
    "linear by name": (lambda x, w: F.linear(input=x, weight=w)),
    "matmul": (lambda x, w: x @ w.t()),
    "matmul of T": (lambda x, w: torch.matmul(x, w.T)),
    "from the left": (lambda x, w: w @ x.t()),
    "as a right operand": (lambda x, w: x.t() @ (x @ w.mT) @ w),
    "mm": (lambda x, w: torch.mm(w, x.t())),
    "einsum": (lambda x, w: torch.einsum("bi,oi->bo", x, w)),
    "bilinear": (
        lambda x, w: F.bilinear(x, x, w.reshape(33, 20, 1).expand(-1, -1, 20))
    ),
    "addmm": (lambda x, w: torch.addmm(torch.zeros(33), x, w.transpose(0, 1))),
    "norm": (lambda x, w: w.norm() + torch.linalg.vector_norm(w)),
    "statistics": (lambda x, w: w.abs().mean() + w.std() + w.max() - w.min()),
    "arithmetic": (lambda x, w: 2 * w + w / 3 - (1 - w) ** 2 + -w),
    "comparison": (lambda x, w: (w > 0) & (w <= 0.5) & (w < 1) | (w >= 2)),
    "indexing": (lambda x, w: w[3] + w[:, 2].sum() + w[torch.tensor([1, 2])].sum()),
    "rows": (lambda x, w: F.embedding(torch.tensor([[1, 32]]), w)),
    "rows by torch": (lambda x, w: torch.embedding(w, torch.tensor([1, 32]))),
    "bag": (lambda x, w: F.embedding_bag(torch.tensor([[1, 32]]), w)),
    "cat": (lambda x, w: torch.cat([w, w])),
    "stack": (lambda x, w: torch.stack([w, w, x[:1].expand(33, 20)])),
    "conversion": (lambda x, w: F.linear(x.double(), w.double())),
    "conversion by to": (lambda x, w: F.linear(x.double(), w.to(x.double()))),
    "like": (lambda x, w: torch.zeros_like(w)),
    "clone": (lambda x, w: w.clone()),
    "detached": (lambda x, w: F.linear(x, w.detach())),
    "views": (lambda x, w: w.view(-1).reshape(20, 33).permute(1, 0).flatten()),
    "copied from": (lambda x, w: torch.empty(33, 20).copy_(w)),
    "loss": (lambda x, w: F.mse_loss(w, torch.zeros(33, 20))),
    "numpy": (lambda x, w: torch.from_numpy(np.array(w.numpy()))),
    "array": (lambda x, w: torch.from_numpy(np.asarray(w).copy())),
    "list": (lambda x, w: torch.tensor(w.tolist())),
    "where": (lambda x, w: torch.where(w > 0, w, torch.zeros(()))),
    "out": (lambda x, w: torch.add(w, 1, out=torch.empty(33, 20))),
    "allclose": (lambda x, w: torch.tensor(torch.allclose(w, w.clone()))),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("grad", [True, False])
def test_functions(linear, name, grad):
    packed, tensor = linear
    x = torch.randn(4, 20, requires_grad=grad)
    with torch.set_grad_enabled(grad):
        ours, theirs = (FUNCTIONS[name](x, w) for w in (packed, tensor))
    close(ours.detach(), theirs.detach(), rtol=1e-4, atol=1e-5)
    assert ours.requires_grad == theirs.requires_grad
    if ours.requires_grad:
        given = [torch.autograd.grad(t.sum(), x)[0] for t in (ours, theirs)]
        torch.testing.assert_close(*given, rtol=1e-4, atol=1e-4)


def test_linear_by_the_weight_is_the_layer_in_both_modes():
    packed, _ = pair(lambda: nn.Linear(20, 33))
    x = torch.randn(4, 20)
    for mode in ("exact", "int8"):
        set_mode(packed, mode)
        with torch.no_grad():
            assert equal(F.linear(x, packed.layer.weight, packed.layer.bias), packed(x))


@pytest.mark.parametrize(
    "layer, shape, function",
    [
        (lambda: nn.Conv1d(4, 6, 3), (2, 4, 9), F.conv1d),
        (lambda: nn.Conv1d(4, 6, 1), (2, 4, 9), F.conv1d),
        (lambda: nn.Conv2d(4, 6, 3), (2, 4, 9, 8), F.conv2d),
    ],
)
def test_convolutions_by_the_weight(layer, shape, function):
    packed, hardened = pair(layer)
    x = torch.randn(shape)
    with torch.no_grad():
        close(function(x, packed.layer.weight, packed.layer.bias), hardened(x))
        error = outcome(lambda: F.linear(x[..., 0], packed.layer.weight))
        theirs = outcome(lambda: F.linear(x[..., 0], hardened.layer.weight))
        assert type(error) is type(theirs)


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell])
def test_cells_and_layers_by_the_weights(cell):
    packed, hardened = pair(lambda: cell(20, 33))
    x, h = torch.randn(3, 20), torch.zeros(3, 33)
    function = torch.lstm_cell if cell is nn.LSTMCell else torch.gru_cell
    hx = (h, h) if cell is nn.LSTMCell else h
    results = []
    for model in (packed, hardened):
        layer = model.layer
        weights = layer.weight_ih, layer.weight_hh, layer.bias_ih, layer.bias_hh
        with torch.no_grad():
            results.append(function(x, hx, *weights))
    close(*results)


@pytest.mark.parametrize(
    "attribute",
    [
        *("shape", "dtype", "device", "requires_grad", "is_cuda", "ndim", "layout"),
        *("is_leaf", "grad", "grad_fn", "is_sparse", "is_quantized", "is_nested"),
        *("is_meta", "is_cpu", "itemsize", "nbytes"),
    ],
)
def test_attributes(linear, attribute):
    packed, tensor = linear
    assert getattr(packed, attribute) == getattr(tensor, attribute)


@pytest.mark.parametrize(
    "call",
    [
        *(
            "size()",
            "size(0)",
            "size(-1)",
            "dim()",
            "numel()",
            "nelement()",
            "stride()",
        ),
        *("is_contiguous()", "is_floating_point()", "is_complex()", "type()"),
        *("element_size()", "__len__()", "ndimension()", "get_device()"),
    ],
)
def test_methods(linear, call):
    packed, tensor = (eval(f"w.{call}", {"w": w}) for w in linear)
    assert packed == tensor


WRITES = {
    "fill": lambda w: w.fill_(0),
    "zero": lambda w: w.zero_(),
    "copy": lambda w: w.copy_(torch.zeros(33, 20)),
    "data": lambda w: w.data.zero_(),
    "set data": lambda w: setattr(w, "data", torch.zeros(33, 20)),
    "set item": lambda w: w.__setitem__(0, 1.0),
    "mul": lambda w: w.mul_(2),
    "imul": lambda w: w.__imul__(2),
    "iadd": lambda w: w.__iadd__(2),
    "out": lambda w: torch.add(torch.ones(33, 20), 1, out=w),
    "init": lambda w: nn.init.xavier_uniform_(w),
    "init constant": lambda w: nn.init.constant_(w, 1.0),
    "init normal": lambda w: nn.init.normal_(w),
    "relu": lambda w: torch.relu_(w),
    "relu in place": lambda w: F.relu(w, inplace=True),
    "foreach": lambda w: torch._foreach_mul_([w], 2.0),
    "requires grad": lambda w: setattr(w, "requires_grad", True),
    "grad": lambda w: setattr(w, "grad", torch.ones(33, 20)),
    "memory": lambda w: w.data_ptr(),
    "storage": lambda w: w.untyped_storage(),
    "dropout": lambda w: F.dropout(w, inplace=True),
}


@pytest.mark.parametrize("name", WRITES)
def test_writes_are_refused_in_one_sentence(linear, name):
    packed, _ = linear
    before = packed.dense()
    with (
        torch.no_grad(),
        pytest.raises(
            (AttributeError, TypeError, RuntimeError), match="a packed weight is frozen"
        ) as caught,
    ):
        WRITES[name](packed)
    assert "\n" not in str(caught.value)
    assert equal(packed.dense(), before)


def test_what_freezes_is_accepted(linear):
    packed, _ = linear
    packed.requires_grad = False
    packed.grad = None
    assert packed.requires_grad_(False) is packed
    assert not hasattr(packed, "no_such_thing") and not hasattr(packed, "data")
    assert packed and not list(packed.parameters())


def test_conversions_leave_the_weight(linear):
    packed, tensor = linear
    for convert in (
        lambda w: w.double(),
        lambda w: w.to(torch.float64),
        lambda w: w.type(torch.float64),
        lambda w: w.to(torch.zeros(1, dtype=torch.float64)),
    ):
        assert convert(packed).dtype == torch.float64
        assert equal(convert(packed).dense(), tensor.double())
        assert packed.dtype == torch.float32
    assert packed.half().float().dtype == torch.float32
    assert packed.to("meta").is_meta and packed.cpu().is_cpu and not packed.is_meta


# --- PyTorch's transformer ------------------------------------------------------------

LAYER = dict(d_model=16, nhead=2, dim_feedforward=24, batch_first=True)


def transformer(layers, **options):
    layer = nn.TransformerEncoderLayer(**{**LAYER, **options})
    return nn.TransformerEncoder(layer, layers) if layers else layer


def packed_transformer(bits, layers, rules=(), **options):
    torch.manual_seed(1)
    # Weights as those of trained models: a fused path with other ones is seen.
    model = transformer(layers, **options)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.3)
    prepared = espnet_gq.prepare(
        copy.deepcopy(model), {"bits": bits, "rules": list(rules)}
    ).eval()
    packed = espnet_gq.pack(prepared)
    loaded = load_packed(transformer(layers, **options), packed).eval()
    assert any(isinstance(m, PackedWeight) for m in loaded.modules())
    return loaded, espnet_gq.harden(prepared).eval()


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("layers", [0, 2])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"activation": "gelu"},
        {"norm_first": True},
        {"batch_first": False},
        {"bias": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("grad", ["grad", "no_grad", "inference_mode"])
@pytest.mark.filterwarnings("ignore")
def test_transformer_encoders(bits, layers, options, grad):
    packed, hardened = packed_transformer(bits, layers, **options)
    x = torch.randn(3, 7, 16)
    mask = torch.arange(7)[None] >= torch.tensor([7, 4, 2])[:, None]
    if not options.get("batch_first", True):
        x = x.transpose(0, 1)
    with {"grad": torch.enable_grad, "no_grad": torch.no_grad}.get(
        grad, torch.inference_mode
    )():
        for padding in (None, mask):
            # PyTorch's fused path would need a tensor; the plain one is the reference.
            torch.backends.mha.set_fastpath_enabled(False)
            try:
                theirs = hardened(x, src_key_padding_mask=padding)
            finally:
                torch.backends.mha.set_fastpath_enabled(True)
            ours = packed(x, src_key_padding_mask=padding)
            close(ours, theirs, atol=1e-4, rtol=1e-4)
        set_mode(packed, "int8")
        assert 0 < float((packed(x) - packed_exact(packed, x)).abs().max()) < 0.5


def packed_exact(packed, x):
    set_mode(packed, "exact")
    out = packed(x)
    set_mode(packed, "int8")
    return out


@pytest.mark.parametrize("float_layer", [0, 1])
@pytest.mark.filterwarnings("ignore")
def test_a_transformer_of_which_one_layer_is_float(float_layer):
    rules = [{"pattern": f"layers.{float_layer}.*", "float": True}]
    packed, hardened = packed_transformer(2, 2, rules)
    x = torch.randn(3, 7, 16)
    mask = torch.arange(7)[None] >= torch.tensor([7, 4, 2])[:, None]
    with torch.no_grad():
        theirs = hardened.requires_grad_(True)(x, src_key_padding_mask=mask)
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            theirs = hardened(x, src_key_padding_mask=mask)
        finally:
            torch.backends.mha.set_fastpath_enabled(True)
        ours = packed(x, src_key_padding_mask=mask)
    close(ours[~mask], theirs[~mask], atol=1e-4, rtol=1e-4)


def test_attention_with_a_packed_projection():
    """`multi_head_attention_forward` is given the weight, not the layer."""
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(20, 4, batch_first=True).eval()
    packed, hardened = pair(lambda: nn.Linear(20, 20))
    x = torch.randn(2, 5, 20)
    results = []
    for layer in (packed.layer, hardened.layer):
        attention.out_proj = layer
        for context in (torch.no_grad, torch.enable_grad):
            with context():
                results.append(attention(x, x, x)[0].detach())
    for other in results[1:]:
        close(results[0], other)


def test_tied_embeddings():
    """A softmax that shares the embedding's weight, functionally."""
    packed, hardened = pair(lambda: nn.Embedding(30, 16))
    ids = torch.tensor([[1, 29, 3]])
    with torch.no_grad():
        ours, theirs = (
            F.linear(m(ids), m.layer.weight).log_softmax(-1) for m in (packed, hardened)
        )
    close(ours, theirs)
    assert flat(ours)[0].shape == (1, 3, 30)
