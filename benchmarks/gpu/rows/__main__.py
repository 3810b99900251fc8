"""Run one row of the check in this process.

    python -m benchmarks.gpu.rows kernels --device cuda --out results.jsonl

Each result is written immediately, so that a row that is stopped keeps its results.
"""

import argparse
import importlib
import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Iterator, List, Optional

from benchmarks.gpu.rows import ROWS, Result, Settings, attempt
from benchmarks.options import new_parser


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = new_parser(__doc__)
    parser.add_argument("row", choices=[row.module for row in ROWS])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="small sizes")
    parser.add_argument("--out", type=Path, required=True, help="file for the results")
    return parser


def main(argv: Optional[List[str]] = None) -> None:
    """Run the row; write one line of JSON per result."""
    args = get_parser().parse_args(argv)
    warnings.simplefilter("ignore")

    def all_results() -> Iterator[Result]:
        module = importlib.import_module(f"benchmarks.gpu.rows.{args.row}")
        yield from module.run(Settings(args.device, args.small))

    with open(args.out, "w", encoding="utf-8") as file:
        for result in attempt(args.row, all_results):
            file.write(json.dumps(asdict(result)) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
