"""Plots of the grid: WER against bits, and against the size of the packed file."""

from pathlib import Path
from typing import Any, List, Optional, Tuple

from grid_results import ALL, Key

COLORS = {
    "gq": "#d62728",
    "uniform": "#1f77b4",
    "lsq": "#2ca02c",
    "lloyd_max": "#9467bd",
    "dkm": "#8c564b",
    "free": "#e377c2",
    "ternary": "#ff7f0e",
    "gq_ptq": "#d62728",
    "uniform_ptq": "#1f77b4",
}
FLOAT = (("float", "0.6", ":"), ("float_longer", "0.2", "--"))
SETTINGS = {
    "svg.hashsalt": "grid",  # names of the parts of a file follow from its contents
    "svg.fonttype": "none",
    "font.size": 8,
}


def _label(name: str) -> str:
    return "all sets" if name == ALL else name


def _against_bits(axis: Any, report: Any, place: Tuple[str, str], name: str) -> None:
    """Draw WER with its interval against bits."""
    methods = list(COLORS)
    for number, method in enumerate(methods):
        points = []
        for bits in sorted(report._widths(place)):
            interval = report.evidence.interval(Key(*place, method, bits), name)
            if interval is not None:
                shift = 0.06 * (number - len(methods) / 2)
                points.append((bits + shift, *interval))
        if points:
            x, value, low, high = zip(*points)
            errors = [
                [max(v - e, 0.0) for v, e in zip(value, low)],
                [max(e - v, 0.0) for v, e in zip(value, high)],
            ]
            style = "--" if method.endswith("_ptq") else "-"
            axis.errorbar(
                x, value, errors, marker="o", markersize=3, linewidth=1, capsize=2,
                elinewidth=0.6, linestyle=style, color=COLORS[method],
                label=report.methods[method],
            )  # fmt: skip
    _float_lines(axis, report, place, name)
    axis.set_xticks(report._widths(place))
    axis.set_xlabel("bits")


def _float_lines(axis: Any, report: Any, place: Tuple[str, str], name: str) -> None:
    for method, color, style in FLOAT:
        interval = report.evidence.interval(Key(*place, method), name)
        if interval is not None:
            label = report.methods[method]
            axis.axhline(interval.value, color=color, linestyle=style, label=label)


def _against_size(axis: Any, report: Any, place: Tuple[str, str]) -> None:
    """Draw WER of all sets against the size of the model."""
    for method, color in COLORS.items():
        points = []
        for bits in report._widths(place):
            key = Key(*place, method, bits)
            interval = report.evidence.interval(key, ALL)
            if interval is not None:
                record = next(iter(report.results.cells[key].values()))
                points.append((_kilobytes(record), interval.value))
        if points:
            style = "--" if method.endswith("_ptq") else "-"
            axis.plot(*zip(*points), style, marker="o", markersize=3, color=color)
    _float_lines(axis, report, place, ALL)
    axis.set_xlabel("kB (packed file, or its tensors' bits)")


def _top(report: Any, place: Tuple[str, str], name: str) -> Optional[float]:
    """Return where the axis ends: above what was trained, whatever else fails."""
    found = [
        report.evidence.interval(key, name)
        for key in report.results.cells
        if key[:2] == place and report.grid.methods[key.method].get("train", True)
    ]
    highest = [interval.high for interval in found if interval is not None]
    return 1.1 * max(highest) if highest and max(highest) > 0 else None


def _kilobytes(record: Any) -> float:
    size = record["size"]
    return (size["packed_bytes"] or size["expected_bytes"]) / 1e3


def plot(report: Any, folder: Path) -> List[Tuple[str, Path]]:
    """Write a plot for every architecture and start that has results.

    Returns:
        (title, path) of each; empty, with a sentence, where matplotlib is missing.
    """
    try:
        import matplotlib
    except ImportError:
        print("no plots: matplotlib is not installed (pip install matplotlib)")
        return []
    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    with matplotlib.rc_context(SETTINGS):
        for place in report.places:
            figure = _figure(pyplot, report, place)
            if figure is None:
                continue
            path = folder / f"grid_{'_'.join(place)}.svg"
            figure.savefig(path, metadata={"Date": None, "Creator": None})
            pyplot.close(figure)
            drawn.append((f"{place[0]}, {place[1]} weights", path))
    return drawn


def _figure(pyplot: Any, report: Any, place: Tuple[str, str]) -> Optional[Any]:
    if not any(key[:2] == place and key.bits for key in report.results.cells):
        return None
    count = len(report.sets) + 1
    figure, axes = pyplot.subplots(1, count, figsize=(3.2 * count, 3.4))
    for axis, name in zip(axes, report.sets):
        _against_bits(axis, report, place, name)
        axis.set_title(_label(name))
    _against_size(axes[-1], report, place)
    axes[-1].set_title("all sets, by size")
    for axis, name in zip(axes, (*report.sets, ALL)):
        axis.set_ylim(0, _top(report, place, name))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("WER, %")
    handles, labels = axes[len(report.sets) - 1].get_legend_handles_labels()
    figure.suptitle(f"{place[0]}, {place[1]} weights")
    figure.legend(handles, labels, loc="lower center", ncol=6)
    figure.tight_layout(rect=(0, 0.12, 1, 1))
    return figure
