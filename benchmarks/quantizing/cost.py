"""Wall time and peak memory of `espnet-gq quantize`.

    python -m benchmarks.quantizing.cost --parameters 30M 100M 1000M --work DIR
    python -m benchmarks.quantizing.cost --parameters 30M --work DIR --data DATA \\
        --passes layer block

Each model has random weights and is quantized in a process of its own, without data, or
calibrated on DATA. See benchmarks/README.md.
"""

import argparse
import json
import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, List, Optional

import torch

from benchmarks import ROOT, options
from benchmarks.measuring import MIB
from benchmarks.quantizing.models import CASES, Case, write
from benchmarks.quantizing.process import Usage, measure
from benchmarks.report import machine, machine_lines, progress
from espnet_gq.analysis.tables import markdown
from espnet_gq.calibration.sequential import PASSES
from espnet_gq.files import write_json

AIM = 1.5
"""Target of peak memory without data, over the bytes of the float checkpoint."""
IMPORTS = "import time, espnet_gq.bin.quantize, {}; time.sleep(0.5)"
HEADER = (
    *("model", "parameters", "data", "checkpoint MiB", "wall s", "CPU s"),
    *("imports MiB", "peak MiB", "added MiB", "x checkpoint"),
    *("anonymous, added MiB", "x checkpoint"),
)


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = options.new_parser(__doc__)
    add = parser.add_argument
    add("--parameters", nargs="+", choices=CASES, default=["30M", "100M", "1000M"])
    add("--work", type=Path, required=True, help="folder of the checkpoints")
    add("--bits", type=int, default=5, choices=range(1, 9), metavar="1-8")
    add("--data", type=Path, help="calibrate on it; default: quantize without data")
    add("--utterances", type=int, default=60, help="how many to calibrate on")
    add("--passes", nargs="+", choices=PASSES, default=list(PASSES[:1]))
    add("--threads", type=int, default=torch.get_num_threads())
    add("--json", type=Path, help="file for the figures; rows of other models stay")
    return parser


def commands(args: argparse.Namespace, name: str) -> Dict[str, List[str]]:
    """Return the command lines to measure, by what is said of them in the table."""
    files = write(name, args.work)
    base = [sys.executable, "-m", "espnet_gq.bin.quantize", *files.pair]
    base += ["--bits", str(args.bits), "-o", str(args.work / name / "quantized.zip")]
    if args.data is None:
        return {"none": base}
    base += ["--data", str(args.data), "--num-utterances", str(args.utterances)]
    return {
        f"{args.utterances} utterances, --passes {passes}": [*base, "--passes", passes]
        for passes in args.passes
    }


def row_of(
    name: str, data: str, usage: Usage, imports: Usage, args: argparse.Namespace
) -> Dict[str, Any]:
    """Return the figures of a process, also relative to its imports."""
    files = write(name, args.work)
    size = files.checkpoint.stat().st_size
    added = {
        key: getattr(usage, key) - getattr(imports, key)
        for key in ("resident_bytes", "anonymous_bytes")
    }
    return dict(
        model=name,
        what=CASES[name].what,
        parameters=files.parameters,
        data=data,
        bits=args.bits,
        threads=args.threads,
        checkpoint_bytes=size,
        zip_bytes=(args.work / name / "quantized.zip").stat().st_size,
        imports=asdict(imports),
        usage=asdict(usage),
        **{f"added_{key}": value for key, value in added.items()},
        **{f"{key.removesuffix('_bytes')}_ratio": v / size for key, v in added.items()},
    )


def imports_of(case: Case, env: Dict[str, str]) -> Usage:
    """Return what a process takes that only imports what the command does."""
    module = case.task.rpartition(".")[0]
    return measure([sys.executable, "-c", IMPORTS.format(module)], env)


def table(rows: List[Dict[str, Any]]) -> str:
    """Return the figures as Markdown."""

    def mib(value: float) -> str:
        return f"{value / MIB:,.0f}"

    cells = [
        [
            *(f"{row['model']}: {row['what']}", f"{row['parameters']:,}", row["data"]),
            mib(row["checkpoint_bytes"]),
            f"{row['usage']['wall_seconds']:,.0f}",
            f"{row['usage']['cpu_seconds']:,.0f}",
            mib(row["imports"]["resident_bytes"]),
            mib(row["usage"]["resident_bytes"]),
            mib(row["added_resident_bytes"]),
            f"{row['resident_ratio']:.2f}",
            mib(row["added_anonymous_bytes"]),
            f"{row['anonymous_ratio']:.2f}",
        ]
        for row in rows
    ]
    return markdown(HEADER, cells, left=(0, 2))


def aim_line(row: Dict[str, Any]) -> str:
    """Compare a row with the target, and say what the process was doing at the peak."""
    usage = row["usage"]
    return (
        f"{row['model']}, data {row['data']}: {row['resident_ratio']:.2f} x the "
        f"checkpoint (target: {AIM}); peak after {usage['at_peak']}; anonymous "
        f"peak after {usage['anonymous_at_peak']}; end after "
        f"{usage['wall_seconds']:.0f} s"
    )


def main(argv: Optional[List[str]] = None) -> None:
    """Measure, print and write."""
    args = get_parser().parse_args(argv)
    args.work = args.work.absolute()
    env = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), env.get("PYTHONPATH", "")])
    found: Dict[str, Any] = dict(benchmark="quantizing_cost", rows=[])
    if args.json is not None and args.json.exists():
        found = json.loads(args.json.read_text(encoding="utf-8"))
    for name in args.parameters:
        for data, command in commands(args, name).items():
            imports = imports_of(CASES[name], env)
            shutil.rmtree(args.work / name / "quantized.calibration", True)
            progress(f"{name}: quantizing, data {data}")
            row = row_of(name, data, measure(command, env), imports, args)
            row["machine"] = machine("cpu")
            row["command"] = options.command("--json", "--work", "--data")
            key = (row["model"], row["data"], row["bits"])
            found["rows"] = [
                other
                for other in found["rows"]
                if (other["model"], other["data"], other["bits"]) != key
            ] + [row]
            if args.json is not None:
                write_json(args.json, found)
            print(aim_line(row), flush=True)
    print("\n".join(machine_lines(found["rows"][-1]["machine"])))
    print(f"\n{table(found['rows'])}")


if __name__ == "__main__":
    main()
