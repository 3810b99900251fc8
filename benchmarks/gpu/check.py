"""Run, within minutes, every check that needs a GPU.

    make gpu-check
    python -m benchmarks.gpu.check --device cpu     small sizes: tests the check itself

Prints one table and writes JSON. See benchmarks/gpu/README.md.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

from benchmarks import ROOT
from benchmarks.gpu.rows import CPU_FACTOR, FAIL, ROWS, Row
from benchmarks.gpu.table import counted, lines_of
from benchmarks.options import check_device, command, new_parser
from benchmarks.report import machine, progress
from espnet_gq.files import write_json


def _stop(process: subprocess.Popen) -> None:
    """Kill a row's process and the processes that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def run_row(row: Row, args: argparse.Namespace, limit: float) -> Dict[str, Any]:
    """Run a row in a new process; return its record.

    Args:
        row: The row to run.
        args: The command line.
        limit: Remaining time in seconds.
    """
    own = row.seconds * (CPU_FACTOR if args.device == "cpu" else 1)
    limit = min(own, limit)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        out, log = Path(folder, "results.jsonl"), Path(folder, "log.txt")
        words = [sys.executable, "-m", "benchmarks.gpu.rows", row.module]
        words += ["--device", args.device, "--out", str(out)]
        words += ["--small"] * args.small
        with open(log, "w") as file:
            process = subprocess.Popen(
                words, cwd=ROOT, stdout=file, stderr=file, start_new_session=True
            )
            try:
                code: Optional[int] = process.wait(limit)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                _stop(process)
        lines = out.read_text().splitlines() if out.exists() else []
        text = log.read_text(errors="replace")
    results = [json.loads(line) for line in lines]
    if code != 0:
        last = (text.strip().splitlines() or ["no message"])[-1][:200]
        what = f"stopped after {limit:.0f} s" if code is None else f"exit status {code}"
        case = "row completes"
        results.append(dict(case=case, status=FAIL, note=f"{what}: {last}"))
    if args.verbose:
        print(text, file=sys.stderr)
    return dict(
        row=row.module,
        what=row.what,
        seconds=round(time.monotonic() - start, 1),
        results=results,
    )


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--device", choices=("cuda", "cpu"), default="cuda", help="default: cuda")
    add("--rows", nargs="+", choices=[r.module for r in ROWS], help="run only these")
    add("--minutes", type=float, help="total time limit (default: 8, on a CPU 30)")
    add("--small", action="store_true", help="use small sizes on a GPU, too")
    add("--json", type=Path, help="file for the results")
    add("--verbose", action="store_true", help="show what the rows print")
    return parser


def main(argv: Optional[List[str]] = None) -> int:
    """Run the rows and print the table; return 1 if any check failed, else 0."""
    parser = get_parser()
    args = parser.parse_args(argv)
    check_device(parser, args.device)
    args.small |= args.device == "cpu"
    if args.minutes is None:
        args.minutes = 30 if args.device == "cpu" else 8
    if not args.minutes > 0:
        parser.error(f"--minutes {args.minutes:g}; allowed: above 0")
    record: Dict[str, Any] = dict(
        benchmark="gpu_check",
        device=args.device,
        small=args.small,
        command=command("--json"),
        machine=machine(args.device),
        rows=[],
    )
    end = time.monotonic() + 60 * args.minutes
    for row in ROWS:
        if args.rows and row.module not in args.rows:
            continue
        left = end - time.monotonic()
        if left < 5:
            note = f"not run: the limit of {args.minutes:g} minutes was reached"
            found = dict(row=row.module, what=row.what, seconds=0.0, results=[])
            found["results"] = [dict(case=row.what, status=FAIL, note=note)]
        else:
            progress(f"{row.module}: {row.what}")
            found = run_row(row, args, left)
        record["rows"].append(found)
        if args.json:
            write_json(args.json, record)
    print("\n".join(lines_of(record)))
    return 1 if counted(record)[FAIL] else 0


if __name__ == "__main__":
    sys.exit(main())
