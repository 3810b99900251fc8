"""Allocation compared with exhaustive search, and the resulting configuration."""

import dataclasses
import itertools

import numpy as np
import pytest
from scipy.optimize import linprog

from espnet_gq.analysis.allocation import (
    allocate,
    allocation_of,
    gq_confs,
    merge,
    minimise,
    monotone_costs,
)
from espnet_gq.analysis.sensitivity import Cost, Sensitivity, TensorCosts, packed_bytes
from espnet_gq.nn import GQConfig

BITS = (1, 2, 4, 8)


def tensor(name, numel, costs):
    return TensorCosts(
        name,
        (numel,),
        {
            b: Cost(
                loss=c, second_order=2 * c, bytes=packed_bytes(numel, b, 1), scales=1
            )
            for b, c in costs.items()
        },
    )


def sensitivity(tensors, **changes):
    record = Sensitivity(
        task="asr",
        model="0" * 64,
        data={"sha256": "0" * 64, "batch_size": 1},
        bits=list(BITS),
        base_loss=1.0,
        utterances=3,
        unquantized={"numel": 10, "bytes": 1000},
        unmeasured=0,
        tensors=tensors,
    )
    return dataclasses.replace(record, **changes)


@pytest.fixture
def small():
    rng = np.random.default_rng(5)
    names = ["encoder.embed.weight", "encoder.lin.weight", "decoder.out.weight"]
    names += ["ctc.ctc_lo.weight", "joint_network.lin_out.weight"]
    return sensitivity(
        [
            tensor(name, 8 * int(rng.integers(1, 40)), dict(zip(BITS, costs)))
            for name in names
            for costs in [sorted(rng.exponential(size=4), reverse=True)]
        ]
    )


def every_choice(record, by):
    for bits in itertools.product(BITS, repeat=len(record.tensors)):
        yield allocation_of(record, bits, by)


@pytest.mark.parametrize("seed", range(40))
def test_no_choice_is_better(seed):
    rng = np.random.default_rng(seed)
    tables = []
    for rows in rng.integers(1, 6, size=6):
        weights = rng.integers(1, 50, size=rows) * (10 if seed % 2 else 1)
        values = rng.exponential(size=rows) * 10.0 ** -(seed % 9)
        tables.append(np.stack([weights, values], 1).astype(float))
    least = sum(t[:, 0].min() for t in tables)
    most = sum(t[:, 0].max() for t in tables)
    budget = float(np.rint(rng.uniform(least, most)))
    rows = minimise(tables, budget)
    weight, value = sum(t[r] for t, r in zip(tables, rows))
    assert weight <= budget
    sums = (sum(choice) for choice in itertools.product(*tables))
    best = min(v for w, v in sums if w <= budget)
    assert value == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("budget", [2.0, 3.0, 4.5, 5.0])
def test_many_tensors_are_within_a_step_of_the_linear_relaxation(budget, capfd):
    """The relaxation is a lower bound that splits at most one tensor between widths."""
    rng = np.random.default_rng(0)
    tables = []
    for _ in range(300):
        numel = 16 * int(rng.integers(5, 60000))
        cost = rng.lognormal(-4, 2) * 4.0 ** -np.arange(1, 9)
        cost = np.maximum.accumulate((cost * rng.uniform(0.5, 2, 8))[::-1])[::-1]
        tables.append(np.stack([numel * np.arange(1.0, 9.0), cost], 1))
    limit = budget * sum(t[0, 0] for t in tables)
    weight, value = sum(t[r] for t, r in zip(tables, minimise(tables, limit)))
    flat, owner = np.concatenate(tables), np.repeat(np.arange(300), 8)
    bound = linprog(
        flat[:, 1],
        A_ub=flat[None, :, 0] / limit,
        b_ub=[1.0],
        A_eq=(owner == np.arange(300)[:, None]).astype(float),
        b_eq=np.ones(300),
    )
    assert weight <= limit
    assert bound.fun * (1 - 1e-6) <= value <= bound.fun * 1.001
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("by", ["loss", "second_order"])
def test_budgets_are_kept_and_used_well(small, by):
    choices = list(every_choice(small, by))
    for budget in (1.3, 2.0, 4.2, 8.0):
        chosen = allocate(small, by, effective_bits=budget)
        assert chosen.effective_bits <= budget
        allowed = (c.cost for c in choices if c.effective_bits <= budget)
        assert chosen.cost <= min(allowed) * (1 + 1e-9)
    for budget in (1300, 1500, 1700):
        chosen = allocate(small, by, max_size=budget)
        assert chosen.file_bytes <= budget
        allowed = (c.cost for c in choices if c.file_bytes <= budget)
        assert chosen.cost <= min(allowed) * (1 + 1e-9)
    for budget in (1.0, 2.0, 6.0):
        chosen = allocate(small, by, max_loss=2 * budget)
        assert chosen.cost <= 2 * budget * (1 + 1e-8)
        sizes = (c.file_bytes for c in choices if c.cost <= 2 * budget)
        assert chosen.file_bytes == min(sizes)


def test_a_gain_is_a_cost_and_fewer_bits_are_never_cheaper():
    noisy = tensor("encoder.w", 8, {8: -0.1, 4: 0.3, 2: 0.2, 1: -0.5})
    assert monotone_costs(noisy, "loss") == {8: 0.1, 4: 0.3, 2: 0.3, 1: 0.5}
    record = sensitivity([noisy])
    assert allocate(record, "loss", effective_bits=4).bits == {"encoder.w": 2}
    assert allocate(record, "loss", max_loss=0.1).bits == {"encoder.w": 8}


def channels(costs):
    """Return a tensor of 100 channels that has one scale per channel below 4 bits."""
    scales = {b: 100 if b < 4 else 1 for b in costs}
    return TensorCosts(
        "encoder.w",
        (100, 9),
        {
            b: Cost(c, c, packed_bytes(900, b, scales[b]), scales[b])
            for b, c in costs.items()
        },
    )


def test_narrow_widths_that_take_more_bytes_are_left_out():
    record = sensitivity([channels({3: 0.5, 4: 0.1})])
    assert allocate(record, max_loss=1.0).bits == {"encoder.w": 4}
    assert allocate(record, effective_bits=3.5).bits == {"encoder.w": 3}


def test_one_scale_per_channel_can_be_worth_more_than_a_bit():
    tensor = channels({2: 0.1, 3: 0.2, 4: 0.5, 5: 0.3})
    assert monotone_costs(tensor) == {5: 0.3, 4: 0.5, 3: 0.2, 2: 0.2}
    assert allocate(sensitivity([tensor]), effective_bits=5).bits == {"encoder.w": 2}


@pytest.mark.parametrize(
    "budget, least",
    [
        ({"effective_bits": 0.9}, "1"),
        ({"max_size": 900}, None),
        ({"max_loss": 1e-9}, None),
    ],
)
def test_an_impossible_budget_names_the_least_possible_one(small, budget, least):
    with pytest.raises(ValueError) as error:
        allocate(small, **budget)
    ((key, _),) = budget.items()
    found = str(error.value).split("allowed: ")[1].split()[0]
    assert str(error.value).startswith(key) and least in (None, found)
    allocate(small, **{key: float(found)})
    with pytest.raises(ValueError):
        allocate(small, **{key: 0.999 * float(found)})


def test_an_unfinished_file_and_a_tensor_without_widths_are_refused(small):
    with pytest.raises(ValueError, match="5 of 12 tensors are measured"):
        allocate(dataclasses.replace(small, unmeasured=7), effective_bits=4)
    broken = [*small.tensors, tensor("encoder.z", 8, {})]
    with pytest.raises(ValueError, match="encoder.z has no bit width"):
        allocate(sensitivity(broken), effective_bits=4)
    with pytest.raises(ValueError, match="2 budgets"):
        allocate(small, effective_bits=4, max_loss=1)


NAMES = {
    "encoder.embed.weight": 8,
    "encoder.encoders.0.w_1.weight": 4,
    "encoder.encoders.10.w_1.weight": 4,
    "encoder.rnn[0].weight_hh_l0": 1,
    "encoder.rnn[0].weight_hh_l0_reverse": 4,
    "decoder.embed.0.weight": 4,
    "ctc.ctc_lo.weight": 5,
    "joint_network.lin_out.weight": 6,
}


@pytest.mark.parametrize("default_bits", [None, 3])
def test_the_configuration_gives_every_tensor_its_width(default_bits):
    confs = gq_confs(NAMES, default_bits)
    assert set(confs) == {"encoder_conf", "decoder_conf", "model_conf"}
    for name, bits in NAMES.items():
        part, _, inside = name.partition(".")
        conf = f"{part}_conf"
        if conf not in confs:
            conf, inside = "model_conf", name
        layer, _, weight = inside.rpartition(".")
        config = GQConfig.from_dict(confs[conf]["gq_conf"])
        assert config.quantizer_options(layer, weight)["bits"] == bits
    if default_bits is None:
        encoder = confs["encoder_conf"]["gq_conf"]
        assert encoder["bits"] == 4 and len(encoder["rules"]) == 2
        assert confs["decoder_conf"] == {"gq_conf": {"bits": 4}}


BASE = {
    "encoder": "gq_conformer",
    "encoder_conf": {
        "output_size": 16,
        "gq_conf": {"bits": 5, "every": 2, "rules": [{"pattern": "*", "bits": 1}]},
    },
    "decoder": "gq_transformer",
    "decoder_conf": {"gq_conf": {"rules": [{"pattern": "embed.0", "float": True}]}},
    "model": "gq_espnet",
    "model_conf": {"ctc_weight": 0.3, "gq_conf": None},
    "max_epoch": 3,
}


def test_merging_replaces_bits_and_rules_and_nothing_else():
    merged = merge(BASE, gq_confs(NAMES))
    gq_conf = merged["encoder_conf"].pop("gq_conf")
    assert gq_conf == {"every": 2, **gq_confs(NAMES)["encoder_conf"]["gq_conf"]}
    assert merged["encoder_conf"] == {"output_size": 16}
    assert merged["decoder_conf"] == {"gq_conf": {"bits": 4}}
    assert merged["model_conf"]["ctc_weight"] == 0.3
    assert merged["max_epoch"] == 3 and list(merged)[:2] == list(BASE)[:2]
    assert BASE["encoder_conf"]["gq_conf"]["bits"] == 5


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"encoder": "conformer"}, "encoder is 'conformer'.*such as gq_conformer"),
        ({"model": None}, "model is None.*such as gq_espnet"),
        ({"encoder_conf": "small"}, "encoder_conf is 'small'; allowed: a mapping"),
        ({"encoder_conf": {"gq_conf": {"bit": 5}}}, "unknown key 'bit'"),
        ({"encoder_conf": {"gq_conf": 5}}, "gq_conf is 5; allowed: a mapping"),
    ],
)
def test_a_base_that_takes_no_gq_conf_is_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        merge({**BASE, **changes}, gq_confs(NAMES))


def test_the_second_transducer_task_names_only_its_decoder():
    base = {"encoder_conf": {"body_conf": []}, "decoder": "gq_rnn"}
    merged = merge(base, gq_confs(NAMES), "asr_transducer")
    assert merged["model_conf"] == gq_confs(NAMES)["model_conf"]
    with pytest.raises(ValueError, match="such as gq_rnn"):
        merge({**base, "decoder": "rnn"}, gq_confs(NAMES), "asr_transducer")
