"""When codebooks are fitted, and that copies and averages have them."""

import copy
import logging

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import espnet_gq
from espnet_gq.nn.prepare import quantized_weights
from espnet_gq.nn.training import progress
from espnet_gq.quantizer.methods import METHODS

X = torch.randn(64, 16, generator=torch.Generator().manual_seed(2))


def net(bits=8, seed=0, **conf):
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    conf = {"annealing": {"steps": 60}, **conf}
    return espnet_gq.prepare(module, {"bits": bits, **conf})


def floats(seed=7):
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(20.0)
    return module


LOADS = {
    "float state": lambda m, s: m.load_state_dict(s, strict=False),
    "assigned": lambda m, s: m.load_state_dict(s, strict=False, assign=True),
    # What ESPnet's --init_param does: completed by the model's own values.
    "completed": lambda m, s: m.load_state_dict({**m.state_dict(), **s}),
}
LOOKS = {
    "nothing": lambda m: None,
    "evaluation": lambda m: m.eval()(X),
    "training pass": lambda m: m.train()(X),
    "pass without gradient": lambda m: torch.no_grad()(m.train())(X),
    "hardened": lambda m: espnet_gq.harden(m),
    "packed": lambda m: espnet_gq.pack(m),
    "figures": lambda m: progress(m),
}


@pytest.mark.parametrize("method", ["gq", "uniform", "free"])
@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("look", LOOKS)
def test_a_float_checkpoint_may_come_after_a_forward_pass(look, load, method):
    source = floats()
    expected = net(method=method)
    LOADS[load](expected, source.state_dict())
    expected.train()(X)
    module = net(method=method)
    LOOKS[look](module)
    state = {k: v.clone() for k, v in source.state_dict().items()}
    LOADS[load](module, state)
    module.train()(X)
    for (name, _, a), (_, _, b) in zip(*map(quantized_weights, (module, expected))):
        assert a.fitted and torch.equal(a.log_scale, b.log_scale), name
    assert torch.equal(module.eval()(X), expected.eval()(X))
    loss = (module(X) - source(X)).square().mean() / source(X).square().mean()
    assert loss < 1e-3


def test_a_checkpoint_with_quantizers_keeps_its_codebooks():
    module = train(net(4))
    kept = [q.log_scale.clone() for _, _, q in quantized_weights(module)]
    other = net(4, seed=1)
    other.load_state_dict(module.state_dict())
    again = copy.deepcopy(module)
    again.load_state_dict(again.state_dict())
    for m in (other, again):
        m.train()(X)
        found = [q.log_scale for _, _, q in quantized_weights(m)]
        assert all(map(torch.equal, found, kept))


@pytest.mark.parametrize("own", [True, False], ids=["advance", "forward pass"])
@pytest.mark.parametrize("method", METHODS)
def test_a_warm_up_ends_with_codebooks_of_its_end(method, own):
    bits = 2
    conf = {"annealing": {"steps": 20, "warmup_steps": 5}, "method": method}
    module = net(bits, **conf)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    for step in range(5):
        assert not any(q.fitted for _, _, q in quantized_weights(module))
        optimizer.zero_grad()
        module(X).square().sum().mul(1e-3).backward()
        module.eval()(X)  # evaluation is hard, and fits nothing for good
        module.train()
        optimizer.step()
        if own:
            espnet_gq.advance(module)
        else:
            for _, _, quantizer in quantized_weights(module):
                quantizer.advance()
    expected = net(bits, method=method)
    state = {k: v for k, v in module.state_dict().items() if "_quantizer." not in k}
    expected.load_state_dict(state, strict=False)
    assert torch.equal(module(X), expected(X))


def train(module, steps=60, averaged=None, lr=1e-2):
    target = X @ torch.randn(16, 4, generator=torch.Generator().manual_seed(4))
    optimizer = torch.optim.Adam(module.parameters(), lr=lr)
    module.train()
    for _ in range(steps):
        loss = (module(X) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        espnet_gq.advance(module)
        if averaged is not None:
            averaged.update_parameters(module)
    return module


@pytest.mark.parametrize("used_before", [True, False])
@pytest.mark.parametrize("buffers", [True, False])
@pytest.mark.parametrize("average", ["mean", "ema"])
def test_an_averaged_model_has_the_averaged_codebooks(average, buffers, used_before):
    module = net(4)
    if used_before:
        module(X)
    function = get_ema_multi_avg_fn(0.5) if average == "ema" else None
    averaged = AveragedModel(module, multi_avg_fn=function, use_buffers=buffers)
    train(module, averaged=averaged)
    target = X @ torch.randn(16, 4, generator=torch.Generator().manual_seed(4))

    def loss(m):
        return float((m.eval()(X) - target).square().mean())

    for _, _, quantizer in quantized_weights(averaged.module):
        assert quantizer.fitted
    fitted_anew = copy.deepcopy(averaged.module)
    for _, weight, quantizer in quantized_weights(fitted_anew):
        quantizer.fit(weight)
    assert loss(averaged.module) != loss(fitted_anew)
    if average == "ema":
        assert loss(averaged.module) < 1.5 * loss(module) + 0.05


def test_a_mean_with_a_quantizer_that_was_not_fitted_is_fitted_anew():
    fitted, other = train(net(4)), net(4, seed=0)
    mean = {k: (v + other.state_dict()[k]) / 2 for k, v in fitted.state_dict().items()}
    module = net(4)
    module.load_state_dict(mean)
    assert not any(q.fitted for _, _, q in quantized_weights(module))


def test_copies_have_the_state():
    module = train(net(4), steps=7)
    for other in (copy.deepcopy(module), net(4)):
        other.load_state_dict(module.state_dict())
        for _, _, quantizer in quantized_weights(other):
            assert (quantizer.step, quantizer.total_steps) == (7, 60)
            assert quantizer.fitted


def test_a_module_made_without_memory():
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(16, 4))
    espnet_gq.prepare(module, {"bits": 4, "annealing": {"steps": 9}})
    module.to_empty(device="cpu")
    quantizer = module[0].weight_quantizer
    assert (quantizer.fitted, quantizer.step, quantizer.total_steps) == (False, 0, 9)
    source = nn.Linear(16, 4)
    state = {f"0.{k}": v for k, v in source.state_dict().items()}
    module.load_state_dict(state, strict=False)
    module(X).sum().backward()
    assert quantizer.fitted and (module.eval()(X) - source(X)).abs().max() < 0.2


# ---- zeros ----
LEARN = [(m, b) for m in METHODS for b in (1, 2, 4)]
LEARN = [c for c in LEARN if c not in (("lsq", 1), ("ternary", 4)) and c[0] != "dkm"]


@pytest.mark.parametrize("rows", ["all", "half"])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("method, bits", LEARN)
def test_weights_of_zeros_learn(method, bits, granularity, rows):
    torch.manual_seed(0)
    layer = nn.Linear(16, 4, bias=False)
    with torch.no_grad():
        layer.weight[slice(None) if rows == "all" else slice(0, 2)] = 0.0
    conf = {"granularity": granularity, "annealing": {"steps": 300}}
    module = espnet_gq.prepare(
        nn.Sequential(layer), {"bits": bits, "method": method, **conf}
    )
    target = 0.3 * X @ torch.randn(16, 4, generator=torch.Generator().manual_seed(4))
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        loss = (module(X) - target).square().mean()
        loss.backward()
        optimizer.step()
        espnet_gq.advance(module)
    assert torch.isfinite(loss)
    rest = (module.eval()(X) - target).square().mean(0) / target.square().mean(0)
    assert rest[:2].max() < 0.9


def test_a_recurrent_layer_of_zeros_learns():
    lstm = nn.LSTM(4, 8)
    nn.init.zeros_(lstm.weight_hh_l0)
    conf = {"bits": 2, "granularity": "gate", "annealing": {"steps": 9}}
    module = espnet_gq.prepare(lstm, conf)
    module(torch.randn(5, 2, 4))[0].sum().backward()
    assert (module.weight_hh_l0_quantizer.scale() > 0.01).all()
    assert module.weight_hh_l0.grad.abs().sum() > 0


def test_a_padding_row_stays_next_to_nothing():
    embedding = espnet_gq.prepare(
        nn.Embedding(5, 8, padding_idx=2), {"bits": 2, "granularity": "channel"}
    )
    with torch.no_grad():
        embedding.weight[4] = 0.0
    embedding(torch.arange(5)).sum().backward()
    size = embedding.eval()(torch.arange(5)).abs().amax(1)
    assert size[2] < 1e-20 and size[4] > 1e-2


def test_dkm_says_that_equal_weights_stay_equal(caplog):
    layer = nn.Linear(8, 4)
    nn.init.zeros_(layer.weight)
    module = espnet_gq.prepare(layer, {"bits": 2, "method": "dkm"})
    with caplog.at_level(logging.WARNING):
        loss = module(torch.randn(2, 8)).sum()
    assert "k-means keeps equal weights equal" in caplog.text
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())


def test_evaluation_before_training_says_so_once(caplog):
    module = net(4).eval()
    with caplog.at_level(logging.WARNING):
        module(X)
        module(X)
    assert caplog.text.count("without trained parameters") == 2  # tensors
