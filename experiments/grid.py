"""The accuracy grid: GQ and its baselines on several models, starts, bits and seeds.

    python -m experiments.grid list  [--work DIR]
    python -m experiments.grid run --work DIR [--cells PATTERN] [--limit N] [--jobs N]
    python -m experiments.grid report --output RESULTS.md --plots docs/results
    python -m experiments.grid tables [--places "conformer-*"]
    python -m experiments.grid check --cell NAME --work OTHER_DIR

grid.yaml declares the cells. `run` prepares data and float models once, then trains,
decodes and scores every cell that has no result file in DIR/results yet. It may be
interrupted at any time: the same command resumes the run, and an interrupted training
after its last finished epoch. If a cell fails, the reason is written to CELL.failed,
and the next `run` tries the cell again, after all others. See experiments/README.md.
"""

import argparse
import shlex
import signal
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import List, Optional, Sequence

from benchmarks.options import new_parser
from experiments.cells import DECLARATION, Grid, GridError
from experiments.reporting import document
from experiments.reporting.document import Report
from experiments.reporting.results import ALL, Rates, Results, read_result, units
from experiments.running.place import StepFailed, Workplace
from experiments.running.queue import run, summary

RESULTS = Path(__file__).with_name("results")


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = new_parser(__doc__)
    parser.add_argument(
        "--grid", type=Path, default=DECLARATION, help="declaration of the grid (YAML)"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="print the cells and their states")
    listing.add_argument("--work", type=Path, help="folder of a run")
    running = commands.add_parser("run", help="run the cells that have no result")
    running.add_argument("--limit", type=positive, help="maximum number of cells")
    reporting = commands.add_parser("report", help="write RESULTS.md and the plots")
    reporting.add_argument("--output", type=Path, required=True, help="RESULTS.md")
    reporting.add_argument("--plots", type=Path, help="folder of the plots")
    printing = commands.add_parser("tables", help="print every table of the results")
    checking = commands.add_parser(
        "check", help="run a cell again and compare it with its stored result"
    )
    checking.add_argument("--cell", required=True, help="name of the cell")
    for command in (reporting, printing, checking):
        command.add_argument(
            "--results", type=Path, default=RESULTS, help="folder of stored results"
        )
    cells = 'names of cells, such as "conformer-trained-gq-*"; default: all'
    places = 'architecture and start, such as "conformer-*"; default: all'
    for command, option, what in (
        (listing, "--cells", cells),
        (running, "--cells", cells),
        (printing, "--places", places),
    ):
        command.add_argument(
            option, nargs="+", default=["*"], metavar="PATTERN", help=what
        )
    for command in (running, checking):
        command.add_argument(
            "--work", type=Path, required=True, help="folder of the run"
        )
        command.add_argument("--data", type=Path, help="folder of the recordings")
        command.add_argument(
            "--jobs", type=positive, default=1, help="parallel cells, one thread each"
        )
    return parser


def positive(text: str) -> int:
    """Parse an integer of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}; allowed: 1 or more")
    return number


def list_cells(args: argparse.Namespace, grid: Grid) -> None:
    """Print every cell, and its state if a folder is given."""
    for cell in grid.matching(args.cells):
        state = ""
        if args.work is not None:
            found = args.work / "results" / cell.name
            for suffix, word in ((".json", "done"), (".failed", "failed")):
                if found.with_name(found.name + suffix).exists():
                    state = state or f"  {word}"
        print(f"{cell.name}{state}")


def run_cells(args: argparse.Namespace, grid: Grid) -> int:
    """Run cells; return the exit status."""
    cells = grid.matching(args.cells)
    place = Workplace(args.work, grid, args.data, args.jobs)
    if args.limit is not None:
        cells = [c for c in cells if not (place.results / f"{c.name}.json").exists()]
        cells = cells[: args.limit]
    failures = run(place, cells)
    if failures:
        print(f"{failures} cells failed: see {place.results}/*.failed", flush=True)
    return 1 if failures else 0


def write_report(args: argparse.Namespace, grid: Grid) -> None:
    """Write RESULTS.md and the plots."""
    report = Report(grid, Results(args.results))
    base = ["python", "-m", "experiments.grid"]
    stored = [] if args.results == RESULTS else ["--results", args.results]
    plots = [] if args.plots is None else ["--plots", args.plots]
    command = [*base, "report", *stored, "--output", args.output, *plots]
    texts = [shlex.join(map(str, c)) for c in (command, [*base, "tables", *stored])]
    files = document.write(report, args.output, args.plots, *texts)
    print("\n".join(f"wrote {path}" for path in files))


def print_tables(args: argparse.Namespace, grid: Grid) -> None:
    """Print every table."""
    report = Report(grid, Results(args.results))
    names = {"-".join(place): place for place in report.tables.places}
    found = [name for name in names if any(fnmatchcase(name, p) for p in args.places)]
    if not found:
        raise GridError(
            f"--places {' '.join(args.places)}; allowed: patterns that match one of "
            f"{', '.join(names)}"
        )
    print(report.details([names[name] for name in found]), end="")


def check(args: argparse.Namespace, grid: Grid) -> int:
    """Run a cell again and compare it with its stored result.

    Returns:
        0 if every WER lies within the interval of the stored one, else 1.
    """
    stored_path = args.results / f"{args.cell}.json"
    stored = read_result(stored_path)
    cells = [cell for cell in grid.cells if cell.name == args.cell]
    if not cells:
        raise GridError(f"{grid.path} declares no cell {args.cell}")
    if (args.work / "results").resolve() == args.results.resolve():
        raise GridError(
            f"--work {args.work} holds the stored result; give another folder"
        )
    place = Workplace(args.work, grid, args.data, args.jobs)
    if run(place, cells):
        return 1
    again = read_result(place.results / stored_path.name)
    print(f"stored: {summary(stored)}\nagain:  {summary(again)}")
    if stored["config"] != again["config"]:
        print("The declaration of the cell has changed since it was stored.")
    return 0 if all(compare(stored, again)) else 1


def compare(stored: dict, again: dict) -> List[bool]:
    """Compare two results: is each WER within the interval of the stored one?"""
    inside = []
    for name in (*(n for n in stored["sets"] if n in again["sets"]), ALL):
        rates = Rates({"stored": units(stored, name)})
        interval = rates.interval("stored")
        words = sum(n for _, n in units(stored, name).values())
        # Without errors the interval has no width; the 95% bound is then 3 errors.
        high = interval.high if interval.value else 100 * 3 / words
        value = Rates({"again": units(again, name)}).values["again"]
        inside.append(interval.low <= value <= high)
        print(
            f"{name}: {value:.2f}% is {'inside' if inside[-1] else 'OUTSIDE'} "
            f"[{interval.low:.2f}, {high:.2f}], stored {interval.value:.2f}%"
        )
    return inside


def _interrupt(*_) -> None:
    raise KeyboardInterrupt


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Run a subcommand."""
    args = get_parser().parse_args(cmd)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        grid = Grid(args.grid)
        if args.command == "list":
            list_cells(args, grid)
        elif args.command == "run":
            sys.exit(run_cells(args, grid))
        elif args.command == "report":
            write_report(args, grid)
        elif args.command == "tables":
            print_tables(args, grid)
        else:
            sys.exit(check(args, grid))
    except (GridError, StepFailed) as e:
        sys.exit(f"grid: {e}")
    except KeyboardInterrupt:
        print("interrupted: run the same command to resume", flush=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
