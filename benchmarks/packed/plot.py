"""Plot latency and memory of packed inference against bits per weight.

    python -m benchmarks.packed.plot --sizes rnnt100m \\
        --output docs/results/packed_rnnt100m.svg

The input is the JSON file written by `benchmarks.packed.inference`.
"""

import json
import sys
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

from benchmarks import ROOT
from benchmarks.measuring import MIB
from benchmarks.options import check_known, listed, new_parser

FIGURES = ROOT / "benchmarks/results/packed_inference.json"
COLORS = {"int8": "tab:blue", "exact": "tab:orange"}
LINES = {"float32": ("0.3", "--"), "torch int8": ("tab:red", ":")}
TITLES = {"torch int8": "PyTorch dynamic int8"}
ROWS = (
    ("latency", "latency P90, ms", "latency_seconds", "p90", 1e-3),
    ("memory", "added memory, peak, MiB", "added_peak_bytes", "median", MIB),
)
"""Part of the figures, label, field, statistic and unit of each row of panels."""
SETTINGS: Any = {
    "svg.hashsalt": "packed",  # derives the ids of SVG elements from their contents
    "svg.fonttype": "none",
    "font.size": 9,
}


def _draw(
    axis: Any,
    rows: Sequence[Mapping[str, Any]],
    field: str,
    statistic: str,
    unit: float,
) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    def value(row: Mapping[str, Any]) -> float:
        return row[field][statistic] / unit

    for mode, color in COLORS.items():
        points = sorted((r["bits"], value(r)) for r in rows if r["mode"] == mode)
        if points:
            axis.plot(*zip(*points), "o-", color=color, label=f"packed, {mode}")
    for row in rows:
        method = row["method"]
        if method in LINES:
            color, style = LINES[method]
            label = TITLES.get(method, method)
            axis.axhline(value(row), color=color, linestyle=style, label=label)
    axis.set_xticks(sorted({row["bits"] for row in rows if row["bits"]}))
    axis.set_xlabel("bits per weight")
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_locator(NullLocator())
    axis.grid(alpha=0.3)


def plot(
    parts: Mapping[str, Any], path: Path, sizes: Optional[Sequence[str]] = None
) -> Optional[str]:
    """Write a plot of the latency and the memory of each size.

    Args:
        parts: The parts of the figures.
        path: Image to write; its extension determines the format.
        sizes: Sizes to plot, default all. A single size has its panels side by side.

    Returns:
        Why no plot was written; None if one was.
    """
    try:
        import matplotlib
    except ImportError:
        return "matplotlib is not installed: pip install matplotlib"
    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn = [row for row in ROWS if parts.get(row[0], {}).get("sizes")]
    names = sizes or _sizes(parts)
    if not drawn or not names:
        return "the figures contain neither latency nor memory"
    rows, columns = len(drawn), len(names)
    shape = (rows, columns) if columns > 1 else (columns, rows)
    with matplotlib.rc_context(SETTINGS):
        figure, axes = pyplot.subplots(
            *shape, figsize=(4 * shape[1], 3.4 * shape[0]), squeeze=False
        )
        grid = axes if columns > 1 else axes.T
        for line, (part, label, field, statistic, unit) in zip(grid, drawn):
            for axis, name in zip(line, names):
                found = parts[part]["sizes"].get(name)
                if found is None:
                    axis.set_axis_off()
                    continue
                _draw(axis, found["variants"], field, statistic, unit)
                millions = found["parameters"] / 1e6
                title = f"{found['what']}, {millions:.3g} M parameters"
                axis.set_title(title, fontsize="medium")
                axis.set_ylabel(label)
        axes[0][0].legend(fontsize="small")
        figure.tight_layout()
        path.parent.mkdir(parents=True, exist_ok=True)
        dated = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=120, metadata=dated)
        pyplot.close(figure)
    return None


def _sizes(parts: Mapping[str, Any]) -> List[str]:
    """Return the names of the sizes that have figures."""
    found: Dict[str, None] = {}
    for part, *_ in ROWS:
        found.update(dict.fromkeys(parts.get(part, {}).get("sizes", {})))
    return list(found)


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Plot the figures of a file."""
    parser = new_parser(__doc__)
    parser.add_argument("--figures", type=Path, default=FIGURES, help="JSON to read")
    parser.add_argument("--sizes", type=listed(str), help="models; default: all")
    parser.add_argument("--output", type=Path, required=True, help="image to write")
    args = parser.parse_args(cmd)
    try:
        parts = json.loads(args.figures.read_text(encoding="utf-8"))["parts"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        parser.error(f"--figures {args.figures}: no figures of packed inference ({e})")
    if args.sizes:
        check_known(parser, "--sizes", args.sizes, _sizes(parts))
    reason = plot(parts, args.output, args.sizes)
    if reason is not None:
        sys.exit(f"plot: {reason}")
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
