"""Running many cells of the grid in parallel, with one line of output per cell."""

import json
import statistics
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, Dict, List, Optional, Sequence, Tuple

from espnet_gq.files import write_text
from experiments.cells import Cell
from experiments.running.cell import run_cell
from experiments.running.place import StepFailed, Stopped, Workplace


class Progress:
    """Print a line for every finished cell, with the estimated remaining time."""

    def __init__(self, place: Workplace, cells: Sequence[Cell]):
        self.place, self.left, self.total = place, list(cells), len(cells)
        self.seconds: Dict[Tuple[str, bool], List[float]] = {}
        for path in place.results.glob("*.json"):
            try:
                record = json.loads(path.read_text(encoding="utf-8"))
                kind = record["architecture"], bool(record["training"])
                self.seconds.setdefault(kind, []).append(record["seconds"])
            except (ValueError, KeyError):
                continue

    def _expected(self, cell: Cell) -> Optional[float]:
        known = self.seconds.get((cell.architecture, self.place.grid.trains(cell)))
        known = known or [s for values in self.seconds.values() for s in values]
        return statistics.mean(known) if known else None

    def done(self, cell: Cell, words: str, seconds: Optional[float] = None) -> None:
        """Print the line of a cell."""
        self.left.remove(cell)
        if seconds is not None:
            kind = cell.architecture, self.place.grid.trains(cell)
            self.seconds.setdefault(kind, []).append(seconds)
        expected = [self._expected(other) for other in self.left]
        known = [seconds for seconds in expected if seconds is not None]
        rest = "unknown time"
        if len(known) == len(expected):
            minutes = round(sum(known) / self.place.jobs / 60)
            rest = f"{minutes // 60} h {minutes % 60:02d} min"
        number = self.total - len(self.left)
        print(f"[{number}/{self.total}] {cell.name}: {words}; {rest} left", flush=True)


def summary(record: Dict[str, Any]) -> str:
    """Summarize the error rates of a result in one line."""
    rates = [
        f"{name.removeprefix('test_')} {100 * found['errors'] / found['words']:.2f}%"
        for name, found in record["sets"].items()
    ]
    return f"{', '.join(rates)} ({record['seconds']:.0f} s)"


def run(place: Workplace, cells: Sequence[Cell]) -> int:
    """Run the cells that have no result; return the number that failed.

    Cells that failed in an earlier run come last.
    """
    todo = [c for c in cells if not (place.results / f"{c.name}.json").exists()]
    failed_path = {cell: place.results / f"{cell.name}.failed" for cell in todo}
    todo.sort(key=lambda cell: failed_path[cell].exists())
    skipped = len(cells) - len(todo)
    if skipped:
        print(f"{skipped} of {len(cells)} cells have results", flush=True)
    if not todo:
        return 0
    place.prepare_data()
    progress, failures, guard = Progress(place, todo), 0, threading.Lock()

    def one(cell: Cell) -> bool:
        if place.stopping:
            return True
        try:
            record = run_cell(place, cell)
        except Stopped:
            return True
        except Exception as e:  # any failure must leave the other cells running
            reason = str(e) if isinstance(e, StepFailed) else repr(e)
            with guard:
                write_text(failed_path[cell], f"{reason}\n")
                progress.done(cell, f"FAILED: {reason}")
            return False
        with guard:
            failed_path[cell].unlink(missing_ok=True)
            progress.done(cell, summary(record), record["seconds"])
        return True

    with ThreadPoolExecutor(place.jobs) as pool:
        futures = [pool.submit(one, cell) for cell in todo]
        try:
            for future in as_completed(futures):
                failures += not future.result()
        except BaseException:
            place.stop()
            for future in futures:
                future.cancel()
            raise
    return failures
