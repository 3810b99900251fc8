"""Weights of recurrent layers lie in one buffer as cuDNN has them."""

import copy
import warnings
import weakref

import pytest
import torch
from torch import nn

from espnet_gq.nn.flat_weights import flattened, layout

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"),
    ),
]
KINDS = {
    "lstm": (nn.LSTM, {}),
    "lstm_two_layers_bidirectional": (
        nn.LSTM,
        {"num_layers": 2, "bidirectional": True},
    ),
    "lstm_projected": (
        nn.LSTM,
        {"num_layers": 2, "bidirectional": True, "proj_size": 4},
    ),
    "lstm_projected_no_bias": (nn.LSTM, {"proj_size": 4, "bias": False}),
    "lstm_no_bias": (nn.LSTM, {"num_layers": 2, "bias": False}),
    "gru": (nn.GRU, {"num_layers": 2}),
    "gru_bidirectional": (nn.GRU, {"bidirectional": True}),
}


def build(kind, device="cpu", dtype=torch.float64):
    cls, options = KINDS[kind]
    torch.manual_seed(0)
    return cls(5, 6, batch_first=True, **options).to(device, dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_layout(kind):
    layer = build(kind)
    weights = [torch.randn_like(w) for w in layer._flat_weights]
    flat = flattened(weights, layer)
    names = layer._flat_weights_names
    expected = 0
    # All matrices, layer by layer and direction by direction, before all biases.
    for start in ("weight", "bias"):
        for name, weight, view in zip(names, weights, flat):
            if name.startswith(start):
                assert view.storage_offset() == expected, name
                expected += view.numel()
            assert torch.equal(view, weight) and view.shape == weight.shape
            assert view.is_contiguous() and not view._is_view()
    if not layer.bias:
        directions = layer.num_layers * (1 + layer.bidirectional)
        expected += directions * 2 * 4 * 6
    storage = flat[0].untyped_storage()
    assert storage.nbytes() == expected * 8
    assert all(v.untyped_storage().data_ptr() == storage.data_ptr() for v in flat)
    if not layer.bias:
        rest = torch.empty(0, dtype=torch.float64).set_(storage)
        assert rest[sum(w.numel() for w in weights) :].count_nonzero() == 0


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_are_exact(kind, device):
    layer = build(kind, device)
    other = copy.deepcopy(layer)
    x = torch.randn(3, 7, 5, dtype=torch.float64, device=device)
    scale = [1.0 + i for i in range(len(layer._flat_weights))]
    results = []
    for module, flatten in ((layer, False), (other, True)):
        leaves = [p.detach().requires_grad_() for p in module._flat_weights]
        weights = [s * p for s, p in zip(scale, leaves)]
        module._flat_weights = flattened(weights, module) if flatten else weights
        out = module(x)[0]
        out.square().sum().backward()
        results.append((out.detach(), [p.grad for p in leaves]))
    tolerance = dict(rtol=0, atol=0) if device == "cpu" else dict(rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(results[0], results[1], **tolerance)


def test_inputs_are_not_kept():
    layer = build("lstm")
    weights = [(2.0 * p) for p in layer._flat_weights]
    held = [weakref.ref(w) for w in weights]
    flat = flattened(weights, layer)
    del weights
    assert all(reference() is None for reference in held)
    sum(v.sum() for v in flat).backward()
    assert all(torch.all(p.grad == 2.0) for p in layer.parameters())


def test_a_weight_without_gradient_is_left_without():
    layer = build("gru")
    weights = [p.detach() for p in layer._flat_weights]
    assert not any(v.requires_grad for v in flattened(weights, layer))
    weights[1] = weights[1].clone().requires_grad_()
    flat = flattened(weights, layer)
    flat[1].sum().backward()
    assert torch.all(weights[1].grad == 1.0)


def test_mistakes_name_what_is_wrong():
    layer = build("lstm")
    weights = list(layer._flat_weights)
    with pytest.raises(ValueError, match="3 weights for a layer that has 4; allowed"):
        flattened(weights[:3], layer)
    with pytest.raises(ValueError, match="torch.float32 on cpu, torch.float64 on cpu"):
        flattened([weights[0].float(), *weights[1:]], layer)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_cuda_neither_copies_nor_warns(kind, dtype):
    layer = build(kind, "cuda", dtype)
    layer._flat_weights = flattened([w.clone() for w in layer._flat_weights], layer)
    x = torch.randn(3, 7, 5, dtype=dtype, device="cuda")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(x)[0].sum().backward()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
@pytest.mark.parametrize("kind", KINDS)
def test_cuda_layout_is_the_one_written_down(kind):
    layer = build(kind, "cuda", torch.float32)
    flat = flattened([w.clone() for w in layer._flat_weights], layer)
    shapes = [tuple(w.shape) for w in flat]
    offsets = tuple(v.storage_offset() for v in flat)
    assert offsets == layout(shapes, layer).offsets
