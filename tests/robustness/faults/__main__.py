"""Inject faults into every change that commands make to their files.

Each case runs a command of the project repeatedly in a new process. In each run, the
n-th change below the command's folder (a file opened for writing, a write, fsync,
rename, unlink, link or mkdir) meets a fault:

    kill   SIGKILL before the change
    torn   SIGKILL in the middle of a write, or right after any other change
    full   no space left from this change on (ENOSPC)
    error  this change fails once (EIO)
    disk   the folder is a file system of limited size (needs permission to mount)

Afterwards every existing file must be intact: a version that also occurs in a run
without faults. Running the command again must produce the results of a run without
faults.

    python -m tests.robustness.faults --json faults.json
    python -m tests.robustness.faults --cases train,pack --points 20
"""

import argparse
import json
import random
import shutil
import sys
import time
from pathlib import Path
from typing import Any, Dict, Optional

from benchmarks.options import command, new_parser
from tests.robustness.faults.runner import (
    FAULTS,
    Case,
    Injector,
    Outcome,
    Runner,
    can_mount,
    restart_with_library,
)


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = new_parser(__doc__)
    parser.add_argument("--cases", help="comma-separated names; default: all")
    parser.add_argument("--faults", default=",".join(FAULTS), help="of these")
    parser.add_argument(
        "--points", type=int, default=0, help="at most so many of each; 0: every one"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice of points")
    parser.add_argument(
        "--json",
        type=Path,
        help="write the figures after every case; other cases of a file that is there "
        "are kept, each with the command and machine that made it",
    )
    return parser


def main() -> None:
    """Run the cases, print one line per kind of fault and write the figures."""
    args = get_parser().parse_args()
    work = restart_with_library()
    from tests.robustness.faults.cases import all_cases

    injector = Injector(work)
    kinds = args.faults.split(",")
    if "disk" in kinds and not can_mount(work):
        kinds.remove("disk")
        print("no right to mount: without disk", file=sys.stderr)
    cases = all_cases(work)
    names = args.cases.split(",") if args.cases else list(cases)
    unknown = [name for name in names if name not in cases]
    if unknown:
        sys.exit(f"--cases {unknown[0]}: allowed: {', '.join(cases)}")
    draw = random.Random(args.seed)
    results = kept_cases(args.json, cases)
    failed = False
    for name in names:
        begun = time.monotonic()
        runner = Runner(cases[name], work, injector)
        result: Dict[str, Any] = {"changes": len(runner.changes), "problems": []}
        for fault in kinds:
            outcome = Outcome()
            for at in runner.points(fault, args.points, draw):
                runner.meet(fault, at, outcome)
            shown = {k: v for k, v in vars(outcome).items() if k != "problems"}
            result[fault] = shown
            result["problems"] += outcome.problems
            print(
                f"{name:12} {fault:6} {outcome.points:5} points, survived "
                f"{outcome.survived}, data lost {outcome.data_lost}",
                flush=True,
            )
            for problem in outcome.problems[:10]:
                print(f"    {problem}")
        result["runs_again"] = len(runner.resumed)
        shutil.rmtree(runner.folder)
        failed |= bool(result["problems"])
        results[name] = {**result, **made_by(time.monotonic() - begun)}
        if args.json:
            write(args.json, {name: results[name] for name in cases if name in results})
    figures = "in all: {points} points, survived {survived}, lost {data_lost}"
    print(figures.format(**total(results)))
    sys.exit(failed)


def kept_cases(path: Optional[Path], cases: Dict[str, Case]) -> Dict[str, Any]:
    """Return the results in a file for cases that still exist."""
    if path is None or not path.exists():
        return {}
    kept = json.loads(path.read_text(encoding="utf-8"))["cases"]
    return {name: result for name, result in kept.items() if name in cases}


def made_by(seconds: float) -> Dict[str, Any]:
    """Return the command and machine that produced the result of a case."""
    from benchmarks.report import machine

    return {
        "command": command("--json"),
        "machine": machine("cpu"),
        "seconds": round(seconds),
    }


def total(results: Dict[str, Any]) -> Dict[str, int]:
    """Return the points of all cases and faults, added up."""
    outcomes = [r[fault] for r in results.values() for fault in FAULTS if fault in r]
    keys = ("points", "survived", "data_lost")
    return {key: sum(outcome[key] for outcome in outcomes) for key in keys}


def write(path: Path, results: Dict[str, Any]) -> None:
    """Write the figures."""
    from espnet_gq.files import write_json

    write_json(path, {"benchmark": "faults", "total": total(results), "cases": results})


if __name__ == "__main__":
    main()
