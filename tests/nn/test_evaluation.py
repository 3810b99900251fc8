"""Evaluation is hard, of the present weights, with and without gradients."""

import copy
import pickle
import threading

import pytest
import torch
from torch import nn

import espnet_gq

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(3))
KINDS = {
    "linear": (lambda: nn.Linear(8, 6), X),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, padding=1, groups=2), X[None]),
    "conv2d": (lambda: nn.Conv2d(1, 6, 3, padding_mode="reflect"), X[None, None]),
    "embedding": (lambda: nn.Embedding(9, 8, padding_idx=0), torch.arange(9)),
    "lstm": (lambda: nn.LSTM(8, 5, 2, proj_size=3, bidirectional=True), X[:, None]),
    "gru": (lambda: nn.GRU(8, 5, batch_first=True), X[None]),
    "lstm_cell": (lambda: nn.LSTMCell(8, 5), X),
    "gru_cell": (lambda: nn.GRUCell(8, 5), X),
}
BITS = [1, 3, 5]


def output(module, x):
    out = module(x)
    return out[0] if isinstance(out, tuple) else out


def prepared(kind, bits=3, train=True, seed=0, **conf):
    torch.manual_seed(seed)
    make, x = KINDS[kind]
    module = espnet_gq.prepare(make(), {"bits": bits, **conf})
    if train:
        output(module, x)
    return module.eval(), x


@pytest.mark.parametrize("train", [True, False], ids=["fitted", "never trained"])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("kind", KINDS)
def test_all_ways_to_evaluate_agree(kind, bits, train):
    module, x = prepared(kind, bits, train)
    expected = output(espnet_gq.harden(module), x)
    found = [output(module, x)]
    with torch.no_grad():
        found.append(output(module, x))
    with torch.inference_mode():
        found.append(output(module, x).clone())
    found.append(output(copy.deepcopy(module), x))
    found.append(output(pickle.loads(pickle.dumps(module)), x))
    found.append(output(module, x))
    assert all(torch.equal(out, expected) for out in found)
    assert all(q.fitted is train for q in quantizers(module))


def quantizers(module):
    return [m for m in module.modules() if isinstance(m, espnet_gq.quantizer.Quantizer)]


@pytest.mark.parametrize("what", ["weight", "scale", "codebook", "bias"])
@pytest.mark.parametrize("kind", KINDS)
def test_writes_that_no_version_counts_are_seen(kind, what):
    module, x = prepared(kind)
    before = output(module, x)
    for name, parameter in module.named_parameters():
        if what == "scale" and name.endswith("log_scale"):
            parameter.data.add_(0.3)
        elif what == "codebook" and name.endswith("log_mu"):
            parameter.data.add_(2.0)
        elif what in name and "quantizer" not in name:
            parameter.data.neg_()
    if what == "bias" and kind == "embedding":
        return
    assert not torch.equal(output(module, x), before)
    assert torch.equal(output(module, x), output(espnet_gq.harden(module), x))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_after_inference_mode(kind):
    module, x = prepared(kind)
    with torch.inference_mode():
        output(module, x)
    if "cell" in kind:  # not from a state of zeros
        state = module(x)
        out = module(x, state)
        (out[0] if isinstance(out, tuple) else out).sum().backward()
    else:
        output(module, x).square().sum().backward()
    weights = [p for n, p in module.named_parameters() if "quantizer" not in n]
    assert all(p.grad is not None and p.grad.any() for p in weights)
    module.requires_grad_(False)
    if kind != "embedding":
        leaf = x.clone().requires_grad_()
        output(module, leaf).sum().backward()
        assert leaf.grad.any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_module_made_in_inference_mode_evaluates_outside(kind):
    with torch.inference_mode():
        module, x = prepared(kind, train=False)
        expected = output(module, x).clone()
    with torch.no_grad():
        assert torch.equal(output(module, x), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_an_evaluation_is_that_of_the_hardened_module(kind):
    module, x = prepared(kind)
    hardened = espnet_gq.harden(module)
    for m in (module, hardened):
        output(m, x).square().sum().backward()
    found = dict(module.named_parameters())
    for name, parameter in hardened.named_parameters():
        torch.testing.assert_close(found[name].grad, parameter.grad, msg=name)


def test_transforms_of_torch_func_see_the_quantized_weights():
    module, x = prepared("linear")
    parameters = dict(module.named_parameters())

    def loss(parameters):
        return torch.func.functional_call(module, parameters, (x,)).square().sum()

    gradients = torch.func.grad(loss)(parameters)
    loss(parameters).backward()
    torch.testing.assert_close(gradients["weight"], module.weight.grad)
    half = {n: p * 0.5 if n == "weight" else p for n, p in parameters.items()}
    assert float(loss(half)) != float(loss(parameters))


@pytest.mark.parametrize("train", [True, False], ids=["fitted", "never trained"])
@pytest.mark.parametrize("kind", KINDS)
def test_threads(kind, train):
    module, x = prepared(kind, train=train)
    inputs = [x if kind == "embedding" else x * k for k in range(1, 21)]
    expected = [output(espnet_gq.harden(module), x) for x in inputs]
    wrong = []

    def work():
        for x, y in zip(inputs, expected):
            try:
                if not torch.equal(output(module, x), y):
                    wrong.append("another result")
            except Exception as e:
                wrong.append(repr(e))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_the_default_type_of_the_process_changes_nothing(kind, dtype):
    expected = output(*prepared(kind))
    torch.manual_seed(0)
    make, x = KINDS[kind]
    layer = make()
    torch.set_default_dtype(dtype)
    try:
        module = espnet_gq.prepare(layer, {"bits": 3})
        output(module, x)
        state = [*module.parameters(), *module.buffers()]
        assert {t.dtype for t in state} == {torch.float32}
        packed = espnet_gq.pack(module.eval())
        found = output(module, x), output(espnet_gq.harden(module), x)
        assert {t.dtype for t in espnet_gq.harden(module).parameters()} == {X.dtype}
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found[0], expected) and torch.equal(found[1], expected)
    assert packed["sha256"] == espnet_gq.pack(module)["sha256"]


@pytest.mark.parametrize("kind", KINDS)
def test_tracing_asks_for_the_hardened_module(kind):
    module, x = prepared(kind)
    for trace in (
        lambda m: torch.jit.trace(m, (x,), check_trace=False),
        lambda m: torch.export.export(m, (x,), strict=False),
    ):
        with pytest.raises(RuntimeError, match="espnet_gq.harden"):
            trace(module)
        trace(espnet_gq.harden(module))


def replica(module):
    """Return what nn.DataParallel makes of a module for another device."""
    copies = {}
    for m in module.modules():
        copies[m] = m._replicate_for_data_parallel()
    for m, new in copies.items():
        for name, child in m._modules.items():
            setattr(new, name, copies[child])
        for name, p in m._parameters.items():
            setattr(new, name, None if p is None else p.detach().clone())
        for name, b in m._buffers.items():
            new._buffers[name] = b.clone()
    return copies[module]


def test_replicas_of_data_parallel():
    module, x = prepared("linear")
    assert torch.equal(replica(module)(x), module(x))
    unfitted, _ = prepared("linear", train=False)
    with pytest.raises(ValueError, match="DistributedDataParallel"):
        replica(unfitted.train())(x)
