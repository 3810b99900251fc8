"""Sensitivities of small models without ESPnet, compared with direct computation."""

import copy
import io
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import espnet_gq
from espnet_gq.analysis.sensitivity import (
    Sensitivity,
    fisher_diagonal,
    mean_loss,
    measure,
    packed_bytes,
    unquantized_size,
)

BITS = [1, 3, 4, 8]


class Model(nn.Module):
    """An LSTM between a convolution and a linear layer that stays float."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(5, 6, 3, padding=1)
        self.rnn = nn.LSTM(6, 7, batch_first=True, bidirectional=True)
        self.norm = nn.LayerNorm(14)
        self.out = nn.Linear(14, 4)

    def forward(self, x):
        x = F.dropout(self.conv(x.mT).mT, 0.1)  # active in evaluation, as in ESPnet
        return self.out(self.norm(self.rnn(x)[0])).log_softmax(-1)


NAMES = ["conv.weight", "rnn.weight_ih_l0", "rnn.weight_hh_l0_reverse"]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model().eval()


@pytest.fixture
def utterances():
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(1, 9, 5, generator=generator),
            torch.randint(4, (1, 9), generator=generator),
        )
        for _ in range(5)
    ]


def batched(utterances, size):
    return [
        tuple(torch.cat(parts) for parts in zip(*utterances[i : i + size]))
        for i in range(0, len(utterances), size)
    ]


def loss_of(model):
    def loss(batch):
        speech, labels = batch
        nll = F.nll_loss(model(speech).flatten(0, 1), labels.flatten(), reduction="sum")
        return nll / len(speech), len(speech)

    return loss


def costs_of(model, utterances, names=NAMES, bits=BITS, size=2):
    batches, loss = batched(utterances, size), loss_of(model)
    base = mean_loss(loss, batches)
    return list(measure(model, names, bits, base, loss, batches, utterances)), base


def test_the_mean_is_over_utterances_not_batches(utterances):
    """The last batch is smaller."""
    linear = nn.Linear(5, 4)
    whole = mean_loss(loss_of(linear_only(linear)), batched(utterances, 5))
    assert mean_loss(loss_of(linear_only(linear)), batched(utterances, 2)) == (
        pytest.approx(whole, rel=1e-6)
    )


def linear_only(linear):
    return lambda speech: linear(speech).log_softmax(-1)


def test_one_tensor_at_a_time_is_quantized(model, utterances):
    before = copy.deepcopy(model.state_dict())
    found, base = costs_of(model, utterances)
    assert [t.name for t in found] == NAMES
    for tensor in found:
        for bits, cost in tensor.costs.items():
            rules = [{"pattern": tensor.name, "bits": bits}]
            rules.append({"pattern": "*", "float": True})
            alone = espnet_gq.prepare(copy.deepcopy(model), {"rules": rules})
            alone = espnet_gq.harden(alone).eval()
            expected = mean_loss(loss_of(alone), batched(utterances, 2)) - base
            assert cost.loss == pytest.approx(expected, abs=1e-6)
            assert cost.scales == (tensor.shape[0] if bits < 4 else 1)
    assert abs(found[1].costs[1].loss) > 10 * abs(found[1].costs[8].loss) > 0
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    assert mean_loss(loss_of(model), batched(utterances, 2)) == base


def test_layers_that_share_a_weight_are_quantized_one_by_one(utterances):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5))
    model[1].weight = model[0].weight
    seen = []

    def loss(batch):
        seen.append(model[0].weight is model[1].weight)
        return loss_of(lambda x: model(x).log_softmax(-1))(batch)

    list(measure(model, ["0.weight"], [2], 0.0, loss, utterances[:1], utterances[:1]))
    assert seen == [True, False] and model[0].weight is model[1].weight


def test_the_same_run_gives_the_same_figures(model, utterances):
    torch.manual_seed(1)
    found = costs_of(model, utterances)
    torch.manual_seed(2)
    assert costs_of(model, utterances) == found


def test_fisher_information_is_the_mean_of_squared_gradients(utterances):
    torch.manual_seed(0)
    linear = nn.Linear(5, 4)
    loss = loss_of(linear_only(linear))
    found = fisher_diagonal({"weight": linear.weight}, loss, utterances)["weight"]
    expected = torch.zeros(4, 5)
    for speech, labels in utterances:
        error = linear(speech).softmax(-1) - F.one_hot(labels, 4)
        expected += (error.mT @ speech)[0].square() / len(utterances)
    torch.testing.assert_close(found, expected)


def test_the_estimate_is_its_equation_and_near_the_measured_cost():
    """The labels are drawn from the model itself, as the expansion assumes."""
    torch.manual_seed(0)
    linear = nn.Linear(5, 4)
    speech = torch.randn(4000, 1, 5)
    labels = torch.distributions.Categorical(logits=linear(speech)).sample()
    utterances = [(s[None], n[None]) for s, n in zip(speech, labels)]
    loss, batches = loss_of(linear_only(linear)), [(speech, labels)]
    base = mean_loss(loss, batches)
    (found,) = measure(linear, ["weight"], [4, 8], base, loss, batches, utterances)
    fisher = fisher_diagonal({"weight": linear.weight}, loss, utterances)["weight"]
    for bits, cost in found.costs.items():
        quantizer = espnet_gq.GeneralQuantizer(bits, channels=4)
        quantizer.fit(linear.weight)
        error = quantizer.quantize(linear.weight.detach()) - linear.weight.detach()
        expected = 0.5 * (fisher * error.square()).sum()
        assert cost.second_order == pytest.approx(float(expected), rel=1e-5)
    cost = found.costs[4]
    assert 0.2 < cost.second_order / cost.loss < 5


def test_a_weight_that_the_loss_does_not_use_costs_nothing(utterances):
    model = nn.ModuleDict({"used": nn.Linear(5, 4), "unused": nn.Linear(2, 2)})
    loss = loss_of(linear_only(model["used"]))
    base = mean_loss(loss, utterances)
    (found,) = measure(model, ["unused.weight"], [1], base, loss, *[utterances] * 2)
    assert found.costs[1].loss == found.costs[1].second_order == 0


def test_a_width_without_a_finite_loss_is_left_out(utterances):
    linear = nn.Linear(5, 4)

    def loss(batch):
        value, number = loss_of(linear_only(linear))(batch)
        one_bit = linear.weight.abs().unique().numel() <= 4  # one scale per row
        return (value / 0 if one_bit else value), number

    base = mean_loss(loss, utterances)
    (found,) = measure(linear, ["weight"], [1, 4, 8], base, loss, *[utterances] * 2)
    assert list(found.costs) == [8, 4]


def test_a_weight_that_is_not_finite_is_named(model, utterances):
    with torch.no_grad():
        model.conv.weight[0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="^conv.weight: the weights hold NaN"):
        costs_of(model, utterances)


@pytest.mark.parametrize("bits", range(1, 9))
def test_sizes_are_those_of_a_packed_file(model, bits):
    names = NAMES + ["rnn.weight_hh_l0", "rnn.weight_ih_l0_reverse"]
    rest = unquantized_size(model, names, BITS)
    rules = [{"pattern": "out", "float": True}]
    prepared = espnet_gq.prepare(copy.deepcopy(model), {"bits": bits, "rules": rules})
    packed = espnet_gq.pack(prepared)
    tensors = sum(
        packed_bytes(w.numel(), bits, len(w) if bits < 4 else 1)
        for w in map(model.get_parameter, names)
    )
    floats = [p for n, p in model.named_parameters() if n not in names]
    assert rest["numel"] == sum(p.numel() for p in floats)
    assert packed["data"].numel() == tensors + 4 * rest["numel"]
    file = io.BytesIO()
    torch.save(packed, file)
    assert abs(file.getbuffer().nbytes - rest["bytes"] - tensors) < 100


@pytest.fixture
def record(model, utterances):
    tensors, base = costs_of(model, utterances)
    return Sensitivity(
        task="asr",
        model="ab" * 32,
        data={"files": ["a,speech,sound"], "sha256": "cd" * 32, "batch_size": 2},
        bits=BITS,
        base_loss=base,
        utterances=5,
        unquantized=unquantized_size(model, NAMES, BITS),
        unmeasured=0,
        tensors=tensors,
    )


def test_a_file_is_read_as_it_was_written(record, tmp_path):
    record.write(tmp_path / "s.json")
    assert Sensitivity.read(tmp_path / "s.json") == record
    content = json.loads((tmp_path / "s.json").read_text())
    assert content["format"] == "espnet_gq.sensitivity" and content["version"] == 1
    first = content["tensors"][0]
    assert [first[key] for key in ("name", "shape", "numel")] == [
        *("conv.weight", [6, 5, 3], 90)
    ]
    assert set(first["costs"]["4"]) == {"loss", "second_order", "bytes", "scales"}


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"format": "other"}, "holds no sensitivities"),
        ({"version": 2}, "version 2"),
        ({"base_loss": None}, "is damaged"),
        ({"base_loss": float("nan")}, "not a finite number"),
        ({"tensors": [{"name": "a"}]}, "is damaged"),
        ({"tensors": 3}, "is damaged"),
        ({"unquantized": {}}, "is damaged"),
        ({"more": 1}, "is damaged"),
    ],
)
def test_a_file_of_another_kind_is_refused(record, tmp_path, change, sentence):
    path = tmp_path / "s.json"
    record.write(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=sentence) as error:
        Sensitivity.read(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]"])
def test_what_is_not_json_is_refused(tmp_path, content):
    (tmp_path / "s.json").write_bytes(content)
    with pytest.raises(ValueError, match="s.json (is not JSON|holds no)"):
        Sensitivity.read(tmp_path / "s.json")
