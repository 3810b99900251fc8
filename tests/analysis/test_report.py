import datetime
import math

import numpy as np
import pytest
import torch
from torch import nn

import espnet_gq
from espnet_gq.analysis import plots
from espnet_gq.analysis.report import Checkpoint, entropy, excess_kurtosis, report
from espnet_gq.analysis.sensitivity import Cost, Sensitivity, TensorCosts
from espnet_gq.packing import harden_state_dict, pack_state_dict, save

CONF = {
    "bits": 5,
    "rules": [
        {"pattern": "3", "bits": 2},
        {"pattern": "5", "bits": 1, "granularity": "tensor"},
        {"pattern": "6", "float": True},
    ],
}


@pytest.fixture
def qat(tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(
        *(nn.Conv1d(7, 33, 5), nn.BatchNorm1d(33), nn.Flatten()),
        *(nn.Linear(198, 13), nn.ReLU(), nn.Linear(13, 11), nn.Linear(11, 3)),
    )
    espnet_gq.prepare(module, CONF)
    module(torch.randn(4, 7, 10))
    save(module.state_dict(), tmp_path / "qat.pth")
    return tmp_path / "qat.pth"


def figures(path):
    return report(Checkpoint.read(path))


def packed(qat):
    path = qat.with_name("packed.pth")
    save(pack_state_dict(torch.load(qat)), path)
    return path


def test_rows_of_a_qat_checkpoint(qat):
    state = torch.load(qat)
    hardened = harden_state_dict(state)
    result = figures(qat)
    assert [(t.name, t.shape, t.bits) for t in result.tensors] == [
        ("0.weight", (33, 7, 5), 5),
        ("3.weight", (13, 198), 2),
        ("5.weight", (11, 13), 1),
    ]
    for row in result.tensors:
        w, q = (s[row.name].double().numpy() for s in (state, hardened))
        scale = state[f"{row.name}_quantizer.log_scale"].exp()
        assert row.parameters == w.size
        error = np.linalg.norm(w - q) / np.linalg.norm(w)
        assert row.error == pytest.approx(error, rel=1e-6) and error > 0.01
        assert row.scale == pytest.approx((float(scale.min()), float(scale.max())))
        if scale.numel() == 1:  # one codebook: one value per index
            p = np.unique(q, return_counts=True)[1] / q.size
            assert row.use == pytest.approx(-(p * np.log2(p)).sum())
        assert 0 < row.use <= row.bits
        m2, m4 = (((w - w.mean()) ** k).mean() for k in (2, 4))
        assert row.kurtosis == pytest.approx(m4 / m2**2 - 3)
    one_scale, scales, one_bit = result.tensors
    assert one_scale.scale[0] == one_scale.scale[1]
    assert scales.scale[0] < scales.scale[1]
    assert one_scale.mu == pytest.approx(
        float(state["0.weight_quantizer.log_mu"].clamp(-7, 9).exp())
    )
    assert one_bit.mu is None


def test_totals_are_those_of_the_packed_file(qat):
    result = figures(qat)
    content = pack_state_dict(torch.load(qat))
    counter = 8  # num_batches_tracked
    assert result.packed_bytes == content["data"].numel()
    rows = sum(row.bytes for row in result.tensors)
    assert result.packed_bytes == rows + result.rest.bytes
    sizes = [33 * 35, 13 * 198, 11 * 13]
    assert result.parameters == sum(sizes) + 33 + 2 * 33 + 13 + 11 + 33 + 3
    assert result.rest.parameters == result.parameters - sum(sizes)
    assert result.rest.bytes == 4 * (result.rest.parameters + 2 * 33) + counter
    assert result.float32_bytes == 4 * (result.parameters + 2 * 33) + counter
    assert result.compression == result.float32_bytes / result.packed_bytes
    bits = (5 * sizes[0] + 2 * sizes[1] + sizes[2]) / sum(sizes)
    assert result.bits == pytest.approx(bits)
    assert result.unquantized_share == pytest.approx(
        result.rest.parameters / result.parameters
    )


def test_a_packed_file_has_the_same_rows_without_errors(qat):
    trained, result = figures(qat), figures(packed(qat))
    assert (trained.format, result.format) == ("qat", "packed")
    for a, b in zip(trained.tensors, result.tensors):
        assert (a.name, a.shape, a.bits, a.bytes) == (b.name, b.shape, b.bits, b.bytes)
        assert (a.scale, a.mu, a.use) == (b.scale, b.mu, b.use)
        assert b.error is None and b.kurtosis is None
    for key in ("parameters", "bits", "packed_bytes", "float32_bytes", "rest"):
        assert getattr(trained, key) == getattr(result, key), key


def test_a_float_checkpoint_lists_its_matrices(tmp_path):
    state = {
        "a.weight": torch.randn(4, 5, 3).half(),
        "a.bias": torch.zeros(4),
        "b.weight": torch.full((2, 2), 7.0),
        "steps": torch.zeros(2, 2, dtype=torch.int64),
    }
    save(state, tmp_path / "float.pth")
    result = figures(tmp_path / "float.pth")
    rows = {t.name: t for t in result.tensors}
    assert list(rows) == ["a.weight", "b.weight"]
    assert (rows["a.weight"].bytes, rows["b.weight"].bytes) == (120, 16)
    assert rows["a.weight"].kurtosis is not None and rows["b.weight"].kurtosis is None
    assert {t.bits for t in result.tensors} == {None}
    assert (result.format, result.bits, result.unquantized_share) == ("float", 32, 1)
    assert result.packed_bytes == 120 + 16 + 16 + 32
    assert result.float32_bytes == 240 + 16 + 16 + 32


def test_a_codebook_that_is_not_a_mu_law_curve(tmp_path):
    codebook = torch.tensor([-1.0, 0.0, 0.5, 1.0])
    index = torch.tensor([[0, 1, 2, 3], [3, 3, 3, 3]])
    scale = torch.tensor([[2.0], [0.5]])
    state = {
        "weight": scale * codebook[index] * 1.01,
        "weight_quantizer.log_scale": scale.log().view(2),
        "weight_quantizer.codebook": codebook,
        "weight_quantizer.saved_state": torch.tensor([2.0, 1.0, 0.0, 0.0]),
    }
    save(state, tmp_path / "peer.pth")
    result = figures(tmp_path / "peer.pth")
    assert (result.parameters, result.rest.tensors) == (8, 0)
    (row,) = result.tensors
    assert row.mu is None and row.scale == pytest.approx((0.5, 2.0))
    assert row.error == pytest.approx(0.01 / 1.01, rel=1e-4)
    shares = [1 / 8, 1 / 8, 1 / 8, 5 / 8]
    assert row.use == pytest.approx(-sum(p * math.log2(p) for p in shares))
    assert row.bytes == pack_state_dict(state)["data"].numel() == 4 + 4 * (2 + 4)


def test_entropy():
    assert entropy(torch.tensor([3, 3, 3, 3])) == 2
    assert entropy(torch.tensor([0, 7, 0])) == 0


def test_excess_kurtosis_of_known_distributions():
    uniform = torch.linspace(-1, 1, 100001)
    assert excess_kurtosis(uniform) == pytest.approx(-1.2, abs=1e-3)
    torch.manual_seed(0)
    laplace = torch.distributions.Laplace(5.0, 0.1).sample((400000,))
    assert excess_kurtosis(laplace) == pytest.approx(3.0, abs=0.2)
    assert excess_kurtosis(torch.ones(4)) is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["qat", "float"])
def test_weights_that_are_not_finite_are_named(qat, name, value):
    state = torch.load(qat)
    if name == "float":
        state = harden_state_dict(state)
    state["3.weight"][0, 0] = value
    save(state, qat)
    with pytest.raises(ValueError, match="3.weight has values that are NaN or infin"):
        figures(qat)


@pytest.mark.parametrize(
    "key",
    ["3.weight", "3.weight_quantizer.log_scale", "3.weight_quantizer.log_mu"],
)
def test_a_tensor_that_is_missing_is_named(qat, key):
    state = torch.load(qat)
    del state[key]
    save(state, qat)
    with pytest.raises(ValueError, match=f"{qat}: .*{key}"):
        figures(qat)


def test_an_empty_checkpoint(tmp_path):
    save({}, tmp_path / "empty.pth")
    with pytest.raises(ValueError, match="holds no tensor"):
        figures(tmp_path / "empty.pth")


def panels(path):
    checkpoint = Checkpoint.read(path)
    return plots.weight_figures(checkpoint, report(checkpoint).tensors)


def marks(axis):
    """Abscissas of the marked centroids."""
    (lines,) = [c for c in axis.collections if c.get_label() == "centroids"]
    return [segment[0][0] for segment in lines.get_segments()]


def test_weights_are_drawn_with_their_centroids(qat):
    (figure,) = panels(qat)
    state = torch.load(qat)
    largest, second, third = figure.axes[:3]
    assert largest.get_title().startswith("3.weight\n2 bits")
    assert len(marks(largest)) == 4 and len(marks(third)) == 2
    assert marks(third) == [-1, 1]
    (histogram,) = second.patches  # in units of w / s
    counts, edges, _ = histogram.get_data()
    assert counts.sum() == state["0.weight"].numel()
    scale = state["0.weight_quantizer.log_scale"].exp()
    assert edges[-1] == pytest.approx(float(state["0.weight"].abs().max() / scale))


def test_packed_weights_are_drawn_as_counts(qat):
    (figure,) = panels(packed(qat))
    axis = figure.axes[1]
    assert axis.get_title().startswith("0.weight\n5 bits") and not axis.patches
    counts = [c for c in axis.collections if c.get_label() != "centroids"][0]
    heights = [segment[1][1] for segment in counts.get_segments()]
    assert sum(heights) == 33 * 35 and len(heights) <= 32


def test_only_the_largest_tensors_are_drawn(tmp_path):
    state = {f"l{i}.weight": torch.randn(2, 3 + i) for i in range(40)}
    state["empty.weight"] = torch.zeros(0, 3)
    save(state, tmp_path / "float.pth")
    pages = panels(tmp_path / "float.pth")
    titles = [axis.get_title() for page in pages for axis in page.axes]
    assert len(pages) == plots.PAGES
    assert [t.split(".")[0] for t in titles[:2]] == ["l39", "l38"]
    assert len(titles) == plots.PAGES * math.prod(plots.PANELS)


STATS = {
    epoch: {
        "train": {"gq_temperature": 1.0},
        "valid": {"gq_temperature": 3.0 * epoch, "gq_settled": epoch / 4, "acc": 0.1},
    }
    for epoch in (1, 2)
}
REPORTED = {
    "gq_temperature": [(1, 3.0), (2, 6.0)],
    "gq_settled": [(1, 0.25), (2, 0.5)],
}


def save_checkpoint(folder, **more):
    torch.save(
        {"model": {}, "reporter": {"stats": STATS, "epoch": 2}, **more},
        folder / "checkpoint.pth",
    )


def test_annealing_of_the_checkpoint(tmp_path):
    save_checkpoint(tmp_path)
    found = plots.annealing_figures(tmp_path)
    assert found == REPORTED
    figure = plots.annealing_figure(found)
    drawn = [axis.lines[0].get_xydata().tolist() for axis in figure.axes]
    assert drawn == [[[1, 3], [2, 6]], [[1, 0.25], [2, 0.5]]]


def test_annealing_of_tensorboard_where_the_checkpoint_is_unsafe(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    save_checkpoint(tmp_path, time=datetime.timedelta(1))  # as in ESPnet 202511
    with pytest.raises(ValueError, match=f"in {tmp_path} has figures"):
        plots.annealing_figures(tmp_path)
    with SummaryWriter(str(tmp_path / "tensorboard" / "valid")) as writer:
        for epoch, stats in STATS.items():
            for key, value in stats["valid"].items():
                writer.add_scalar(key, value, 79 * epoch)
    assert plots.annealing_figures(tmp_path) == REPORTED


def test_no_annealing_was_reported(tmp_path):
    stats = {1: {"valid": {"acc": 0.5}}}
    torch.save({"reporter": {"stats": stats}}, tmp_path / "checkpoint.pth")
    with pytest.raises(ValueError, match="neither checkpoint.pth nor tensorboard"):
        plots.annealing_figures(tmp_path)


def sensitivity(losses):
    return Sensitivity(
        task="asr",
        model="",
        data={},
        bits=[2, 8],
        base_loss=2.5,
        utterances=1,
        unquantized={"numel": 0, "bytes": 0},
        unmeasured=0,
        tensors=[
            TensorCosts(name, (2, 3), {b: Cost(x, x, 4, 1) for b, x in costs.items()})
            for name, costs in losses.items()
        ],
    )


def test_sensitivity_is_drawn_by_layer():
    losses = {"a": {8: 0.0, 2: 0.1}, "b": {8: -0.01, 2: 0.9}, "c": {8: 0.02}, "d": {}}
    (axis,) = plots.sensitivity_figure(sensitivity(losses)).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["b", "a", "c"]
    drawn = {line.get_label(): line.get_xydata().tolist() for line in axis.lines[:2]}
    assert drawn == {
        "2": [[0.9, 0], [0.1, 1]],
        "8": [[-0.01, 0], [0.0, 1], [0.02, 2]],
    }


def test_the_most_sensitive_tensors_are_drawn():
    many = {f"t{i}": {2: 0.01 * i} for i in range(60)}
    (axis,) = plots.sensitivity_figure(sensitivity(many)).axes
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert len(names) == plots.SENSITIVE_TENSORS and names[:2] == ["t59", "t58"]


def test_no_tensor_was_measured():
    with pytest.raises(ValueError, match="no measured tensor"):
        plots.sensitivity_figure(sensitivity({"a": {}}))
