"""Plots of the grid: WER against bits, and against the size of the packed file."""

from pathlib import Path
from typing import Any, List, Optional, Tuple

from experiments.reporting.results import ALL, Key, Record
from experiments.reporting.tables import Place, Tables, place_name, set_name

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
SETTINGS: Any = {
    "svg.hashsalt": "grid",  # derives the ids of SVG elements from their contents
    "svg.fonttype": "none",
    "font.size": 8,
}


def _against_bits(axis: Any, tables: Tables, place: Place, name: str) -> None:
    """Plot WER with its interval against bits."""
    methods = list(COLORS)
    for number, method in enumerate(methods):
        points = []
        for bits in sorted(tables.widths(place)):
            interval = tables.evidence.interval(Key(*place, method, bits), name)
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
                label=tables.methods[method],
            )  # fmt: skip
    _float_lines(axis, tables, place, name)
    axis.set_xticks(tables.widths(place))
    axis.set_xlabel("bits")


def _float_lines(axis: Any, tables: Tables, place: Place, name: str) -> None:
    for method, color, style in FLOAT:
        interval = tables.evidence.interval(Key(*place, method), name)
        if interval is not None:
            label = tables.methods[method]
            axis.axhline(interval.value, color=color, linestyle=style, label=label)


def _against_size(axis: Any, tables: Tables, place: Place) -> None:
    """Plot WER over all sets against the size of the model."""
    for method, color in COLORS.items():
        points = []
        for bits in tables.widths(place):
            key = Key(*place, method, bits)
            interval = tables.evidence.interval(key, ALL)
            if interval is not None:
                record = next(iter(tables.results.cells[key].values()))
                points.append((_kilobytes(record), interval.value))
        if points:
            style = "--" if method.endswith("_ptq") else "-"
            axis.plot(*zip(*points), style, marker="o", markersize=3, color=color)
    _float_lines(axis, tables, place, ALL)
    axis.set_xlabel("kB (packed file, or its tensors' bits)")


def _top(tables: Tables, place: Place, name: str) -> Optional[float]:
    """Return the upper end of the WER axis, chosen for the trained cells."""
    found = [
        tables.evidence.interval(key, name)
        for key in tables.results.cells
        if key[:2] == place and tables.grid.methods[key.method].get("train", True)
    ]
    highest = [interval.high for interval in found if interval is not None]
    return 1.1 * max(highest) if highest and max(highest) > 0 else None


def _kilobytes(record: Record) -> float:
    size = record["size"]
    return (size["packed_bytes"] or size["expected_bytes"]) / 1e3


def plot(tables: Tables, folder: Path) -> List[Tuple[Place, Path]]:
    """Write a plot for every architecture and start that has results.

    Returns:
        (architecture and start, path) of each; empty if matplotlib is missing.
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
        for place in tables.places:
            figure = _figure(pyplot, tables, place)
            if figure is None:
                continue
            path = folder / f"grid_{'_'.join(place)}.svg"
            figure.savefig(path, metadata={"Date": None, "Creator": None})
            pyplot.close(figure)
            drawn.append((place, path))
    return drawn


def _figure(pyplot: Any, tables: Tables, place: Place) -> Optional[Any]:
    if not any(key[:2] == place and key.bits for key in tables.results.cells):
        return None
    count = len(tables.sets) + 1
    figure, axes = pyplot.subplots(1, count, figsize=(3.2 * count, 3.4))
    for axis, name in zip(axes, tables.sets):
        _against_bits(axis, tables, place, name)
        axis.set_title(set_name(name))
    _against_size(axes[-1], tables, place)
    axes[-1].set_title("all sets, by size")
    for axis, name in zip(axes, (*tables.sets, ALL)):
        axis.set_ylim(0, _top(tables, place, name))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("WER, %")
    handles, labels = axes[len(tables.sets) - 1].get_legend_handles_labels()
    figure.suptitle(place_name(place))
    figure.legend(handles, labels, loc="lower center", ncol=6)
    figure.tight_layout(rect=(0, 0.12, 1, 1))
    return figure
