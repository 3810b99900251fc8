"""Latency and memory against the bits of a weight."""

from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

COLORS = {"int8": "tab:blue", "exact": "tab:orange"}
LINES = {"float32": ("0.3", "--"), "torch int8": ("tab:red", ":")}
ROWS = (
    ("latency", "latency P90, ms", "latency_seconds", "p90", 1e-3),
    ("memory", "memory added at most, MiB", "added_peak_bytes", "median", 2**20),
)


def _value(row: Dict[str, Any], field: str, statistic: str, unit: float) -> float:
    return row[field][statistic] / unit


def _draw(axis, rows: List[Dict[str, Any]], figure: Tuple[str, str, float]) -> None:
    for mode, color in COLORS.items():
        points = sorted(
            (row["bits"], _value(row, *figure)) for row in rows if row["mode"] == mode
        )
        if points:
            axis.plot(*zip(*points), "o-", color=color, label=f"packed, {mode}")
    for row in rows:
        if row["method"] in LINES:
            color, style = LINES[row["method"]]
            value = _value(row, *figure)
            axis.axhline(value, color=color, linestyle=style, label=row["method"])
    axis.set_xticks(sorted({row["bits"] for row in rows if row["bits"]}))
    axis.set_xlabel("bits a weight")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)


def plot(parts: Dict[str, Any], path: Path) -> Optional[str]:
    """Write a plot of the latency and the memory of each size.

    Returns:
        Why there is none, None where it was written.
    """
    try:
        import matplotlib
    except ImportError:
        return "matplotlib is not installed: pip install matplotlib"
    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn = [row for row in ROWS if parts.get(row[0], {}).get("sizes")]
    if not drawn:
        return "there are no figures of latency or memory"
    sizes = list(dict.fromkeys(s for part, *_ in drawn for s in parts[part]["sizes"]))
    shape = dict(figsize=(4 * len(sizes), 3.4 * len(drawn)), squeeze=False)
    figure, axes = pyplot.subplots(len(drawn), len(sizes), **shape)
    for line, (part, label, *field) in zip(axes, drawn):
        for axis, name in zip(line, sizes):
            found = parts[part]["sizes"].get(name)
            if found is None:
                axis.set_axis_off()
                continue
            _draw(axis, found["variants"], tuple(field))
            axis.set_title(f"{name} ({found['parameters'] / 1e6:.3g} M)")
            axis.set_ylabel(label)
    axes[0][0].legend(fontsize="small")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return None
