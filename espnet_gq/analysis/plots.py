"""Plots of a checkpoint: its weights and centroids, annealing, sensitivity.

Every `..._figure` returns a matplotlib Figure and leaves pyplot's state alone, so that
it works under any display backend. Only `_figure` imports matplotlib.
"""

import math
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

import torch

from espnet_gq.analysis.report import Checkpoint, TensorReport
from espnet_gq.analysis.sensitivity import Sensitivity
from espnet_gq.files import atomic_write

PANELS = (4, 3)
"""Rows and columns of panels on a page of weights."""
PAGES = 2
MANY_LEVELS = 32
"""Panels with more centroids mark them at the lower edge only."""
ANNEALING = {
    "gq_temperature": "inverse temperature",
    "gq_settled": "share of settled weights",
    "gq_soft_hard_gap": "soft-to-hard gap",
}
SENSITIVE_TENSORS = 40
DPI = 120


def save_figure(figure, path: Path) -> None:
    """Write a figure as PNG, atomically."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)


def _figure(rows: int, columns: int, width: float, height: float):
    """Return a figure in inches and its axes, shape (rows, columns).

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as e:
        raise ImportError(
            f"plots need matplotlib, which cannot be imported ({e}); install it with: "
            "pip install matplotlib"
        ) from None
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def weight_figures(checkpoint: Checkpoint, tensors: Sequence[TensorReport]) -> List:
    """Draw the distribution of the largest tensors, one panel each, in pages.

    Weights of a quantized tensor are in units of their scale, so that all share one
    codebook; red marks are its centroids. For a packed file the number of weights per
    centroid is drawn. The ordinate is logarithmic, to make the tails visible: a
    Gaussian is a parabola, a Laplace distribution a tent.

    Args:
        checkpoint: The checkpoint with the weights to draw.
        tensors: The tensors to choose from; at most PAGES pages of the largest.
    """
    rows, columns = PANELS
    per_page = rows * columns
    filled = (t for t in tensors if t.parameters)
    largest = sorted(filled, key=lambda t: -t.parameters)[: PAGES * per_page]
    figures = []
    for start in range(0, len(largest), per_page):
        page = largest[start : start + per_page]
        used = math.ceil(len(page) / columns)
        figure, axes = _figure(used, columns, 4.2 * columns, 2.8 * used)
        for axis, tensor in zip(axes.flat, page):
            _panel(axis, checkpoint, tensor)
        for axis in list(axes.flat)[len(page) :]:
            axis.set_axis_off()
        figure.supylabel("number of weights", fontsize="small")
        figures.append(figure)
    return figures


def _panel(axis, checkpoint: Checkpoint, tensor: TensorReport) -> None:
    axis.set_yscale("log")
    quantizer = checkpoint.quantizers.get(tensor.name)
    if quantizer is None:
        _histogram(axis, checkpoint.state[tensor.name].float())
        title = f"{tensor.name}\n" + " x ".join(map(str, tensor.shape))
    else:
        centroids = quantizer.codebook.tolist()
        if checkpoint.format == "packed":
            counts = checkpoint.usage(tensor.name).tolist()
            points = [(c, n) for c, n in zip(centroids, counts) if n]
            axis.vlines(*zip(*((c, 0.5, n) for c, n in points)), lw=1.5)
        else:
            _histogram(axis, checkpoint.normalised(tensor.name))
        few = len(centroids) <= MANY_LEVELS
        axis.vlines(
            centroids,
            0.0,
            1.0 if few and checkpoint.format != "packed" else 0.06,
            transform=axis.get_xaxis_transform(),
            color="tab:red",
            lw=0.6,
            label="centroids",
        )
        title = f"{tensor.name}\n{tensor.bits} bits, {tensor.use:.2f} used"
        if tensor.mu is not None:
            title += f", mu {tensor.mu:.3g}"
        axis.set_xlabel("weight / scale, centroids in red", fontsize="x-small")
    if tensor.kurtosis is not None:
        title += f", kurtosis {tensor.kurtosis:z.2f}"
    axis.set_title(title, fontsize="x-small")
    axis.tick_params(labelsize="x-small")


def _histogram(axis, values: torch.Tensor, bins: int = 150) -> None:
    limit = float(values.abs().max()) or 1.0
    counts = torch.histc(values, bins, -limit, limit)
    edges = torch.linspace(-limit, limit, bins + 1)
    axis.stairs(counts.numpy(), edges.numpy(), fill=True, baseline=0.5, alpha=0.7)


def annealing_figures(folder: Path) -> Dict[str, List[Tuple[int, float]]]:
    """Read the figures of the annealing that the training in a folder has reported.

    ESPnet's `checkpoint.pth` holds those of all epochs. Where it is missing, or cannot
    be read safely (as with ESPnet 202511), the TensorBoard events of the validations
    are read instead.

    Returns:
        Figure -> (epoch, value) in the order of the epochs; figures as in ANNEALING.

    Raises:
        ValueError: If there are none.
    """
    found = _from_checkpoint(folder / "checkpoint.pth")
    found = found or _from_tensorboard(folder / "tensorboard" / "valid")
    if not found:
        raise ValueError(
            f"neither checkpoint.pth nor tensorboard/ in {folder} has figures of it"
        )
    return found


def _from_checkpoint(path: Path) -> Dict[str, List[Tuple[int, float]]]:
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        epochs = sorted(saved["reporter"]["stats"].items())
        reported = [(epoch, stats.get("valid", {})) for epoch, stats in epochs]
        found = {
            key: [(epoch, float(v[key])) for epoch, v in reported if key in v]
            for key in ANNEALING
        }
    except Exception:  # what torch.load raises is not documented
        return {}
    return {key: values for key, values in found.items() if values}


def _from_tensorboard(folder: Path) -> Dict[str, List[Tuple[int, float]]]:
    if not folder.is_dir():
        return {}
    try:
        from tensorboard.backend.event_processing import event_accumulator
    except ImportError:
        return {}
    events = event_accumulator.EventAccumulator(
        str(folder), size_guidance={event_accumulator.SCALARS: 0}
    )
    events.Reload()
    return {
        key: [(epoch, e.value) for epoch, e in enumerate(events.Scalars(key), 1)]
        for key in ANNEALING
        if key in events.Tags()["scalars"]
    }


def annealing_figure(figures: Dict[str, List[Tuple[int, float]]]):
    """Draw the figures of `annealing_figures` against the epoch."""
    figure, axes = _figure(1, len(figures), 3.8 * len(figures), 3.2)
    for axis, (key, values) in zip(axes.flat, figures.items()):
        axis.plot(*zip(*values), "o-", markersize=3)
        axis.set_title(ANNEALING[key], fontsize="medium")
        axis.set_xlabel("epoch")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    return figure


def sensitivity_figure(sensitivity: Sensitivity):
    """Draw the growth of the loss with each tensor quantized alone.

    One line per tensor, one dot per bit width; the most sensitive first, at most
    SENSITIVE_TENSORS. The abscissa is linear up to a thousandth of the largest growth
    and logarithmic from there.

    Raises:
        ValueError: If no tensor has been measured.
    """
    losses = {
        tensor.name: {bits: cost.loss for bits, cost in tensor.costs.items()}
        for tensor in sensitivity.tensors
        if tensor.costs
    }
    if not losses:
        raise ValueError("the file of sensitivities holds no measured tensor")
    names = sorted(losses, key=lambda n: -max(losses[n].values()))[:SENSITIVE_TENSORS]
    figure, axes = _figure(1, 1, 9.0, 1.4 + 0.2 * len(names))
    axis = axes[0][0]
    widths = sorted({bits for name in names for bits in losses[name]})
    for i, bits in enumerate(widths):
        found = [(y, losses[n]) for y, n in enumerate(names) if bits in losses[n]]
        points = [(loss[bits], y) for y, loss in found]
        shade = str(0.8 * i / max(len(widths) - 1, 1))
        axis.plot(*zip(*points), "o", color=shade, markersize=4, label=str(bits))
    largest = max(abs(loss) for name in names for loss in losses[name].values())
    axis.set_xscale("symlog", linthresh=1e-3 * largest or 1.0)
    axis.axvline(0.0, color="0.7", lw=0.8)
    axis.set_yticks(range(len(names)), names, fontsize="x-small")
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xlabel(
        f"growth of the loss (of the float model: {sensitivity.base_loss:.4g})"
    )
    axis.grid(axis="y", alpha=0.3)
    axis.legend(title="bits", fontsize="small")
    return figure
