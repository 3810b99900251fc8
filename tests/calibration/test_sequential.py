"""A model's layers in order: its output, resuming, shared and unused layers."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from espnet_gq import GQConfig, harden, prepare
from espnet_gq.calibration.plan import Weight, plan_of
from espnet_gq.calibration.sequential import PASSES, Calibration
from espnet_gq.nn.prepare import quantizable


class Own(nn.Linear):
    """Computes what its float class does."""

    def forward(self, x):
        return F.linear(x, self.weight.to(x.dtype), self.bias)


class Scaled(nn.Linear):
    """Computes something else."""

    def forward(self, x):
        return super().forward(2.0 * x)


class Model(nn.Module):
    """Layers of every kind; one is never called, and one is called at each step."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(8, 16), nn.Linear(8, 16)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(16, 16, 5, padding=2, groups=16),
                nn.BatchNorm1d(16),
                nn.ReLU(),
                nn.Conv1d(16, 16, 1),
            )
            for _ in range(2)
        )
        self.rnn = nn.LSTM(16, 12, batch_first=True)
        self.cell = nn.GRUCell(12, 7)
        self.out = nn.Linear(7, 7)
        self.again = self.out
        self.unused = nn.Linear(4, 4)

    def forward(self, x):
        y = (self.left(x) + self.right(x)).transpose(1, 2)
        for block in self.blocks:
            y = block(y)
        y, _ = self.rnn(y.transpose(1, 2))
        h, steps = None, []
        for t in range(y.shape[1]):
            h = self.cell(y[:, t], h)
            steps.append(self.again(self.out(h)))
        return torch.stack(steps, 1)


class Newer(nn.Module):
    """Layers whose inputs are known, and others."""

    def __init__(self):
        super().__init__()
        self.own, self.scaled = Own(8, 16), Scaled(16, 16)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)
        self.rnn = nn.RNN(16, 16, batch_first=True)
        self.up = nn.ConvTranspose1d(16, 16, 3)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(16, 16))
        self.hooked = nn.utils.spectral_norm(nn.Linear(16, 8))

    def forward(self, x):
        y = self.scaled(torch.tanh(self.own(x)))
        y, _ = self.rnn(self.encoder(y))
        return self.hooked(self.normed(self.up(y.mT).mT))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = Model()
    for _ in range(20):  # statistics of the batch norms
        model(torch.randn(4, 30, 8))
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(1, 20 + i, 8, generator=generator) for i in range(20)]


def calibration(model, data, folder, **options):
    targets = [
        Weight(
            layer, name, tuple(model.get_submodule(layer)._parameters[name].shape), 1
        )
        for layer, names in quantizable(model).items()
        for name in names
    ]
    options = {"bits": 3, "identity": {}, **options}
    bits, identity = options.pop("bits"), options.pop("identity")
    plan = plan_of(GQConfig(bits=bits), targets)
    return Calibration(model, targets, plan, model, data, folder, identity, **options)


def distance(model, other, data):
    with torch.no_grad():
        wrong = sum(float((model(x) - other(x)).square().sum()) for x in data)
        return wrong / sum(float(other(x).square().sum()) for x in data)


@pytest.mark.parametrize("passes", PASSES)
def test_the_output_is_nearer_than_with_the_nearest_centroids(
    model, data, tmp_path, passes
):
    found = copy.deepcopy(model)
    chosen = calibration(found, data, tmp_path, passes=passes).run()
    assert chosen["unused.weight"].how == "nearest"
    assert chosen["cell.weight_hh"].how == "second order"
    assert all(
        one.error < one.nearest_error
        for one in chosen.values()
        if one.error is not None
    )
    config = GQConfig(bits=3, granularity="channel")
    nearest = harden(prepare(copy.deepcopy(model), config))
    unseen = [torch.randn(1, 25, 8) for _ in range(5)]
    assert distance(found, model, unseen) < 0.7 * distance(nearest, model, unseen)
    norm = found.blocks[0][1]
    assert not torch.equal(norm.running_mean, model.blocks[0][1].running_mean)


def test_which_weights_are_chosen_by_their_inputs(data, tmp_path):
    torch.manual_seed(0)
    float_model = Newer().eval().requires_grad_(False)
    found = copy.deepcopy(float_model)
    chosen = calibration(found, data, tmp_path).run()
    how = {name: one.how for name, one in chosen.items()}
    assert {name for name, way in how.items() if way == "second order"} == {
        *("own.weight", "rnn.weight_ih_l0", "rnn.weight_hh_l0"),
        *("encoder.linear1.weight", "encoder.linear2.weight"),
        "encoder.self_attn.in_proj_weight",
    }
    assert {name for name, way in how.items() if way == "nearest"} == {
        *("scaled.weight", "encoder.self_attn.out_proj.weight", "up.weight"),
        *("normed.parametrizations.weight.original1", "hooked.weight_orig"),
    }
    assert torch.backends.mha.get_fastpath_enabled()
    config = GQConfig(bits=3, granularity="channel")
    nearest = harden(prepare(copy.deepcopy(float_model), config))
    unseen = [torch.randn(1, 25, 8) for _ in range(5)]
    assert distance(found, float_model, unseen) < distance(nearest, float_model, unseen)


def test_an_interrupted_run_goes_on_where_it_was(model, data, tmp_path):
    whole, other = copy.deepcopy(model), copy.deepcopy(model)
    lines = []
    calibration(whole, data, tmp_path / "whole", progress=lines.append).run()

    def interrupt(line):
        if "[4/" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibration(other, data, tmp_path / "other", progress=interrupt).run()
    other, later = copy.deepcopy(model), []
    calibration(other, data, tmp_path / "other", progress=later.append).run()
    assert [line for line in later if "[4/" in line] == []
    assert len(later) == len(lines) - 5  # and the statistics in float
    state = whole.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in other.state_dict().items())


@pytest.mark.parametrize("change", [{"identity": {"data": "other"}}, {"bits": 2}])
def test_the_state_of_another_run_is_refused(model, data, tmp_path, change):
    calibration(copy.deepcopy(model), data, tmp_path)
    with pytest.raises(ValueError, match="another model, other data or options"):
        calibration(copy.deepcopy(model), data, tmp_path, **change)
