"""Compare models in one table: bits, quantized share, file size, WER with interval.

The first --system is the baseline: file sizes and word error rates of the others are
also given relative to it. Intervals come from a bootstrap over speakers and, within
them, recordings (data/DSET/utt2recordings) or utterances.
"""

import argparse
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from espnet_gq.analysis.tables import markdown
from espnet_gq.analysis.wer import bootstrap, paired_bootstrap
from espnet_gq.bin._common import Parser, execute
from espnet_gq.espnet.inference.counting import describe_model
from espnet_gq.files import write_json
from espnet_gq.recipe.scoring import load_units


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser("compare", __doc__)
    parser.add_argument("test_sets", nargs="+", metavar="DSET", help="test sets")
    parser.add_argument(
        "--system",
        nargs=3,
        action="append",
        required=True,
        metavar=("NAME", "MODEL_FILE", "DECODE_DIR"),
        help="a model's name, its checkpoint and the folder with its DSET/text; "
        "repeated for every model",
    )
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--samples", type=int, default=2000, help="of the bootstrap")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    return parser


def measure(args: argparse.Namespace) -> List[Dict[str, Any]]:
    """Return one record per system."""
    records: List[Dict[str, Any]] = []
    baseline_units: Dict[str, Any] = {}
    for name, model_file, decode_dir in args.system:
        size = describe_model(Path(model_file))
        record: Dict[str, Any] = {
            "model": name,
            "format": size.format,
            "bits": size.bits,
            "quantized_share": size.quantized_share,
            "num_params": size.num_params,
            "file_bytes": size.file_bytes,
            "wer": {},
            "wer_difference": {},
        }
        for dset in args.test_sets:
            units = load_units(args.data / dset, Path(decode_dir) / dset)
            record["wer"][dset] = bootstrap(units, args.samples, seed=args.seed)
            if records:
                record["wer_difference"][dset] = paired_bootstrap(
                    baseline_units[dset], units, args.samples, seed=args.seed
                )
            else:
                baseline_units[dset] = units
        records.append(record)
    return records


def table(records: List[Dict[str, Any]], test_sets: Sequence[str]) -> str:
    """Return the records as a Markdown table, with the differences below it."""
    header = ["model", "bits", "quantized", "file", "smaller"]
    header += [f"WER {dset} [95 %]" for dset in test_sets]
    rows = []
    for record in records:
        row = [
            record["model"],
            f"{record['bits']:.3g}",
            f"{100 * record['quantized_share']:.1f} %",
            f"{record['file_bytes'] / 1e6:.3f} MB",
            f"{records[0]['file_bytes'] / record['file_bytes']:.2f} x",
        ]
        for dset in test_sets:
            wer = record["wer"][dset]
            row.append(f"{wer.value:.2f} % [{wer.low:.2f}, {wer.high:.2f}]")
        rows.append(row)
    lines = [markdown(header, rows)]
    for record in records[1:]:
        for dset, diff in record["wer_difference"].items():
            lines.append(
                f"{record['model']} minus {records[0]['model']}, {dset}: "
                f"{diff.value:+.2f} points of WER [{diff.low:+.2f}, {diff.high:+.2f}]"
            )
    return "\n".join(lines)


def run(args: argparse.Namespace) -> None:
    """Measure, print the table, write the figures.

    Raises:
        OSError, ValueError: If an input cannot be used.
    """
    records = measure(args)
    print(table(records, args.test_sets))
    if args.json:
        for record in records:
            for key in ("wer", "wer_difference"):
                record[key] = {d: i._asdict() for d, i in record[key].items()}
        write_json(args.json, records)


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    execute(get_parser(), run, cmd)


if __name__ == "__main__":
    main()
