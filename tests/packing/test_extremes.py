"""Weights as they should not be: fitted, trained, hardened, packed and run.

Every width, one scale and a scale a channel, soft and hard forward pass, float32 and,
at the defaults, the half-precision types.
"""

import hashlib
import math

import pytest
import torch
from torch import nn

import espnet_gq
from espnet_gq.nn.finite import NotFiniteError
from espnet_gq.nn.training import fit_quantizers, progress
from espnet_gq.packing import (
    harden_state_dict,
    load_packed,
    pack_state_dict,
    unpack_state_dict,
)
from espnet_gq.packing.checkpoint import PackedFormatError
from espnet_gq.quantizer.function import LOG_SCALES
from espnet_gq.quantizer.methods import METHODS

ORDINARY = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
WEIGHTS = {
    "ordinary": ORDINARY,
    "zero": torch.zeros(8, 6),
    "minus zero": -torch.zeros(8, 6),
    "constant": torch.full((8, 6), 0.3),
    "negative constant": torch.full((8, 6), -0.3),
    "one": torch.full((1, 1), 0.7),
    "one zero": torch.zeros(1, 1),
    "no rows": torch.zeros(0, 6),
    "no columns": torch.zeros(6, 0),
    "1e-30": ORDINARY * 1e-30,
    "1e30": ORDINARY * 1e30,
    "subnormal": ORDINARY * 1e-40,
    "least": torch.full((8, 6), 1e-45),
    "a zero row": torch.cat([ORDINARY[:7], torch.zeros(1, 6)]),
    "a huge row": torch.cat([ORDINARY[:7], ORDINARY[7:] * 1e30]),
    "rows from 1e-40 to 1e30": ORDINARY * torch.logspace(-40, 30, 8)[:, None],
}
WIDTHS = {"lsq": range(2, 9), "ternary": (1, 2)}


def layer(weight, dtype, **conf):
    """Return a prepared layer; None where the type has no such numbers."""
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        linear.weight.copy_(weight)
    linear = linear.to(dtype)
    if not linear.weight.isfinite().all():
        return None
    conf = {"annealing": {"steps": 10}, **conf}
    return espnet_gq.prepare(nn.Sequential(linear), conf).to(dtype)


def finite(*tensors):
    return all(t.isfinite().all() for t in tensors)


def train_a_step(module, dtype):
    used = module[0].weight_in_use()
    assert used.dtype == dtype and used.shape == module[0].weight.shape
    assert finite(used)
    used.float().sum().backward()
    parameters = list(module.parameters())
    assert finite(*(p.grad for p in parameters if p.grad is not None))
    if nn.utils.clip_grad_norm_(parameters, 5.0).isfinite():  # else ESPnet skips it
        torch.optim.Adam(parameters, lr=1e-3, eps=1e-3).step()
    espnet_gq.advance(module)
    assert finite(*parameters, module[0].weight_in_use())


def check_life(weight, dtype, **conf):
    """Fit, train a step, evaluate, harden, pack, unpack and run; all has to agree."""
    module = layer(weight, dtype, **conf)
    if module is None:
        return False
    train_a_step(module, dtype)
    module.eval()
    hard = module[0].weight_in_use()
    assert finite(hard)
    assert all(map(math.isfinite, vars(progress(module)).values()))
    scales = module[0].weight_quantizer.log_scale.numel()
    rows = hard.reshape(scales, hard.numel() // scales)
    assert all(row.unique().numel() <= 2 ** conf["bits"] for row in rows)
    assert torch.equal(espnet_gq.harden(module)[0].weight, hard)
    state = unpack_state_dict(packed := espnet_gq.pack(module))
    # A packed weight is float32: 16 bits are its rounding.
    assert torch.equal(state["0.weight"].to(dtype), hard)
    other = nn.Sequential(nn.Linear(weight.shape[1], weight.shape[0]))
    x = torch.randn(3, weight.shape[1], generator=torch.Generator().manual_seed(1))
    expected = nn.functional.linear(x, state["0.weight"], state["0.bias"].float())
    found = load_packed(other, packed).float()(x)
    least = 1e-5 * float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=least)
    return True


@pytest.mark.parametrize("name", WEIGHTS)
def test_gq_lives_through_it(name):
    weight, float32 = WEIGHTS[name], torch.float32
    for bits in range(1, 9):
        soft = {"bits": bits, "granularity": "tensor", "forward": "soft"}
        hard = {"bits": bits, "granularity": "channel", "forward": "hard"}
        assert check_life(weight, float32, **soft)
        assert check_life(weight, float32, **hard)
        check_life(weight, torch.float16, bits=bits)
        assert check_life(weight, torch.bfloat16, bits=bits)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "gq"])
def test_other_methods_live_through_it(method):
    for weight in WEIGHTS.values():
        conf = {"method": method}
        for bits in {1, 2, 5} & set(WIDTHS.get(method, range(1, 9))):
            for conf["granularity"] in ("tensor", "channel"):
                assert check_life(weight, torch.float32, bits=bits, **conf)
        for dtype in (torch.float16, torch.bfloat16):
            check_life(weight, dtype, bits=2, method=method)


def test_half_precision_keeps_scale_and_step(tmp_path):
    module = layer(ORDINARY * 1e-6, torch.float16, bits=5, annealing={"steps": 10**6})
    module[0].weight_in_use()
    quantizer = module[0].weight_quantizer
    quantizer.step = 123457
    state = {k: v.clone() for k, v in module.half().state_dict().items()}
    assert state["0.weight"].dtype == torch.float16
    assert state["0.weight_quantizer.log_scale"].dtype == torch.float32
    other = layer(ORDINARY, torch.float16, bits=5, annealing={"steps": 10**6})
    other.load_state_dict(state)
    assert other[0].weight_quantizer.step == 123457
    assert torch.equal(other[0].weight_quantizer.log_scale, quantizer.log_scale)
    assert quantizer.double().log_scale.dtype == torch.float64


@pytest.mark.parametrize("value", [500.0, -500.0])
def test_a_scale_that_ran_away_stays_a_number(value):
    module = layer(ORDINARY, torch.float32, bits=5)
    module[0].weight_in_use()
    with torch.no_grad():
        module[0].weight_quantizer.log_scale.fill_(value)
    hard = module.eval()[0].weight_in_use()
    state = unpack_state_dict(espnet_gq.pack(module))
    assert finite(hard) and torch.equal(state["0.weight"], hard)
    low, high = LOG_SCALES  # what another reader needs not know of
    assert low <= float(state["0.weight_quantizer.log_scale"]) <= high


# ---- NaN and infinity ---------------------------------------------------------------
TENSORS = [
    *("0.weight", "0.bias", "0.weight_quantizer.log_scale"),
    *("0.weight_quantizer.log_mu", "1.running_mean"),
]


def fitted():
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    espnet_gq.prepare(module, {"bits": 5})
    module(torch.ones(2, 4))
    return module


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", TENSORS)
def test_what_is_not_finite_is_named(name, value):
    module = fitted()
    module.state_dict()[name].view(-1)[0] = value
    state = module.state_dict()
    for refused in (
        lambda: espnet_gq.harden(module),
        lambda: espnet_gq.pack(module),
        lambda: pack_state_dict(state),
        lambda: harden_state_dict(state),
    ):
        with pytest.raises(NotFiniteError) as error:
            refused()
        expected = f"NaN or infinite values in {name}; allowed: finite weights"
        assert str(error.value) == expected


def test_fitting_names_the_weight():
    module = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    espnet_gq.prepare(module, {"bits": 5})
    with torch.no_grad():
        module[1].weight[0, 0] = math.nan
    with pytest.raises(NotFiniteError, match=r"values in 1\.weight; allowed"):
        fit_quantizers(module)


def test_loading_names_the_tensor():
    state = fitted().state_dict()
    state["0.bias"].fill_(1.5)
    packed = pack_state_dict(state)
    data = packed["data"].numpy()
    at = data.tobytes().index(torch.full((3,), 1.5).numpy().tobytes())
    data[at : at + 4] = list(torch.tensor([math.nan]).numpy().tobytes())
    with pytest.raises(PackedFormatError):  # the checksum
        unpack_state_dict(packed)
    packed["sha256"] = sha256(packed)
    with pytest.raises(PackedFormatError, match="'0.bias': it holds NaN"):
        unpack_state_dict(packed)


def sha256(packed):
    header, data = (packed[key].numpy().tobytes() for key in ("header", "data"))
    return hashlib.sha256(header + data).hexdigest()
