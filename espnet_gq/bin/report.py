"""Show each quantized tensor of a checkpoint in a table, and in plots.

Bits, bytes in a packed file, scale, curvature mu, use of its codebook (entropy of the
indices), relative quantization error and excess kurtosis of the weights. Of a float
checkpoint: size and kurtosis of each matrix.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Callable, List, Optional, Sequence, Tuple

from espnet_gq.analysis import plots
from espnet_gq.analysis.report import Checkpoint, Report, TensorReport, report
from espnet_gq.analysis.sensitivity import Sensitivity
from espnet_gq.analysis.tables import markdown
from espnet_gq.bin._common import Parser, execute
from espnet_gq.espnet.inference.counting import parameters_of
from espnet_gq.files import write_json


def get_parser() -> argparse.ArgumentParser:
    """Return the argument parser of this command."""
    parser = Parser("report", __doc__)
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        type=Path,
        help="a float, quantization-aware or packed checkpoint",
    )
    parser.add_argument(
        "--asr_train_config",
        "--train_config",
        type=Path,
        help="config.yaml of the training, which tells parameters from buffers; "
        "default: config.yaml beside the checkpoint, where there is one",
    )
    parser.add_argument(
        "--plots",
        type=Path,
        metavar="DIR",
        help="draw there: weights_*.png, the distribution of the largest tensors; "
        "annealing.png, from the training beside the checkpoint; and sensitivity.png",
    )
    parser.add_argument(
        "--sensitivity",
        type=Path,
        metavar="FILE",
        help="JSON of espnet-gq sensitivity, for sensitivity.png",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the figures there as well"
    )
    return parser


def _number(value: Optional[float], form: str = ".3g") -> str:
    return "-" if value is None else format(value, form)


def _scale(tensor: TensorReport) -> str:
    if tensor.scale is None:
        return "-"
    low, high = tensor.scale
    return _number(low) if low == high else f"{_number(low)}..{_number(high)}"


def _percent(value: Optional[float]) -> str:
    return "-" if value is None else f"{100 * value:.2f}%"


def _use(tensor: TensorReport) -> str:
    return "-" if tensor.use is None else f"{tensor.use:.2f} of {tensor.bits}"


_ALWAYS: Tuple[Tuple[str, Callable[[TensorReport], str]], ...] = (
    ("tensor", lambda t: t.name),
    ("shape", lambda t: "x".join(map(str, t.shape))),
    ("parameters", lambda t: f"{t.parameters:,}"),
    ("bytes", lambda t: f"{t.bytes:,}"),
)
_QUANTIZED: Tuple[Tuple[str, Callable[[TensorReport], str]], ...] = (
    ("bits", lambda t: str(t.bits)),
    ("scale", _scale),
    ("mu", lambda t: _number(t.mu)),
    ("use, bits", _use),
    ("error", lambda t: _percent(t.error)),
)
_KURTOSIS = ("kurtosis", lambda t: _number(t.kurtosis, "z.2f"))


def table(result: Report) -> str:
    """Return the tensors as a Markdown table."""
    quantized = _QUANTIZED if result.format != "float" else ()
    columns = (*_ALWAYS, *quantized, _KURTOSIS)
    rows = [[cell(tensor) for _, cell in columns] for tensor in result.tensors]
    return markdown([title for title, _ in columns], rows)


def totals(result: Report) -> str:
    """Return the figures of the whole checkpoint, one line each."""
    names = ("quantized", "unquantized", "packed")
    quantized = 100 * (1 - result.unquantized_share)
    bits = f" ({quantized:.1f}%) at {result.bits:.2f} effective bits"
    smaller = (
        f", {result.compression:.2f} x smaller than float32 "
        f"({result.float32_bytes:,} bytes)"
    )
    if result.format == "float":
        names, bits, smaller = ("matrices", "others", "values"), "", ""
    what = f"parameters and {result.buffers or 0:,} values in buffers"
    if result.buffers is None:
        what = "parameters and buffers (no config.yaml to tell them apart)"
    listed = sum(t.parameters for t in result.tensors)
    share = result.rest.parameters / max(result.parameters, 1)
    return "\n".join(
        [
            f"{result.checkpoint}: {result.format}, {result.parameters:,} {what}, "
            f"{result.file_bytes:,} bytes",
            f"{names[0]}: {listed:,} parameters in {len(result.tensors)} tensors"
            f"{bits}, {sum(t.bytes for t in result.tensors):,} bytes",
            f"{names[1]}: {result.rest.parameters:,} parameters ({100 * share:.1f}%), "
            f"with buffers {result.rest.tensors} tensors, {result.rest.bytes:,} bytes",
            f"{names[2]}: {result.packed_bytes:,} bytes{smaller}",
        ]
    )


def draw(
    checkpoint: Checkpoint,
    result: Report,
    folder: Path,
    sensitivity: Optional[Sensitivity],
) -> List[str]:
    """Draw all plots; return one line for each that was drawn or could not be.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there is a sensitivity without tensors.
    """
    figures = {
        f"weights_{page}": figure
        for page, figure in enumerate(
            plots.weight_figures(checkpoint, result.tensors), start=1
        )
    }
    lines = []
    try:
        reported = plots.annealing_figures(checkpoint.path.parent)
        figures["annealing"] = plots.annealing_figure(reported)
    except ValueError as e:
        lines.append(f"no plot of the annealing: {e}")
    if sensitivity is not None:
        figures["sensitivity"] = plots.sensitivity_figure(sensitivity)
    for name, figure in figures.items():
        plots.save_figure(figure, folder / f"{name}.png")
    return [f"wrote {folder / name}.png" for name in figures] + lines


def run(args: argparse.Namespace) -> None:
    """Print the table, draw the plots.

    Raises:
        ImportError: If matplotlib is needed and not installed.
        OSError, ValueError: If an input cannot be used.
    """
    if args.sensitivity and not args.plots:
        raise ValueError(
            "--sensitivity is given without --plots; allowed: both, to draw "
            "sensitivity.png"
        )
    if args.plots and args.plots.exists() and not args.plots.is_dir():
        raise ValueError(
            f"--plots is {args.plots}, a file; allowed: a folder, which is made where "
            "there is none"
        )
    sensitivity = args.sensitivity and Sensitivity.read(args.sensitivity)
    checkpoint = Checkpoint.read(args.checkpoint)
    parameters = parameters_of(args.checkpoint, args.asr_train_config)
    result = report(checkpoint, parameters)
    print(table(result))
    print()
    print(totals(result))
    if args.json:
        write_json(args.json, dataclasses.asdict(result))
    if args.plots:
        for line in draw(checkpoint, result, args.plots, sensitivity):
            print(line)


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    execute(get_parser(), run, cmd, errors=(ImportError, OSError, ValueError))


if __name__ == "__main__":
    main()
