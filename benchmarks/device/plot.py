"""Plot peak memory and latency of whole processes against bits per weight.

    python -m benchmarks.device.plot --output docs/results/device_recognition.svg

The input is the JSON file written by `benchmarks.device.recognition`.
"""

import json
import sys
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

from benchmarks import ROOT
from benchmarks.device.variants import TITLES
from benchmarks.measuring import MIB
from benchmarks.options import check_known, listed, new_parser
from benchmarks.packed.plot import SETTINGS

FIGURES = ROOT / "benchmarks/results/device_recognition.json"
COLORS = {"engine": "tab:blue", "espnet packed": "tab:orange"}
LINES = {"torch int8": ("tab:red", ":"), "onnx int8": ("0.3", "--")}
ROWS = (
    ("peak_bytes", "peak memory of the process, MiB", MIB),
    ("p90_seconds", "latency P90, ms", 1e-3),
)
"""Field, label and unit of each row of panels."""


def _draw(
    axis: Any, rows: Sequence[Mapping[str, Any]], field: str, unit: float
) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    def spread(row: Mapping[str, Any]) -> Dict[str, float]:
        return {k: value / unit for k, value in row[field].items()}

    for method, color in COLORS.items():
        points = sorted(
            ((row["bits"], spread(row)) for row in rows if row["method"] == method),
            key=lambda point: point[0],
        )
        if points:
            middle = [one["median"] for _, one in points]
            ends = [
                [one["median"] - one["min"] for _, one in points],
                [one["max"] - one["median"] for _, one in points],
            ]
            bits = [b for b, _ in points]
            axis.errorbar(
                bits, middle, ends, fmt="o-", color=color, label=TITLES[method]
            )
    for row in rows:
        if row["method"] in LINES:
            color, style = LINES[row["method"]]
            label = TITLES[row["method"]]
            axis.axhline(
                spread(row)["median"], color=color, linestyle=style, label=label
            )
    axis.set_xticks(sorted({row["bits"] for row in rows if row["bits"]}))
    axis.set_xlabel("bits per weight")
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_locator(NullLocator())
    axis.grid(alpha=0.3)


def plot(
    figures: Mapping[str, Any], path: Path, sizes: Optional[Sequence[str]] = None
) -> Optional[str]:
    """Write a plot: a column of panels per size.

    Args:
        figures: What `benchmarks.device.recognition` wrote.
        path: Image to write; its extension determines the format.
        sizes: Sizes to plot, default all.

    Returns:
        Why no plot was written; None if one was.
    """
    try:
        import matplotlib
    except ImportError:
        return "matplotlib is not installed: pip install matplotlib"
    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [n for n in sizes or figures["sizes"] if figures["sizes"][n]["variants"]]
    if not names:
        return "no variant was run"
    with matplotlib.rc_context({**SETTINGS, "svg.hashsalt": "device"}):
        figure, axes = pyplot.subplots(
            *(len(ROWS), len(names)), figsize=(4 * len(names), 6.8), squeeze=False
        )
        for line, (field, label, unit) in zip(axes, ROWS):
            for axis, name in zip(line, names):
                found = figures["sizes"][name]
                _draw(axis, found["variants"], field, unit)
                millions = found["parameters"] / 1e6
                axis.set_title(
                    f"{found['what']},\n{millions:.3g} M parameters", fontsize="medium"
                )
                axis.set_ylabel(label)
        axes[0][0].legend(fontsize="small")
        figure.tight_layout()
        path.parent.mkdir(parents=True, exist_ok=True)
        dated = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=120, metadata=dated)
        pyplot.close(figure)
    return None


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Plot the figures of a file."""
    parser = new_parser(__doc__)
    parser.add_argument("--figures", type=Path, default=FIGURES)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--sizes", type=listed(str), help="sizes to plot; default: all")
    args = parser.parse_args(cmd)
    try:
        figures = json.loads(args.figures.read_text(encoding="utf-8"))
        known: List[str] = list(figures["sizes"])
    except (OSError, ValueError, KeyError, TypeError) as e:
        parser.error(f"--figures {args.figures}: no figures of this benchmark ({e})")
    check_known(parser, "--sizes", args.sizes or [], known)
    reason = plot(figures, args.output, args.sizes)
    if reason is not None:
        sys.exit(f"plot: {reason}")
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
