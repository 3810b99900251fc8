"""Reading the grid's result files, and statistics of their error counts."""

import json
from pathlib import Path
from typing import (
    Any,
    Dict,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

import numpy as np

from espnet_gq.analysis import wer
from experiments.cells import GridError

SAMPLES = 2000
LEVEL = 0.95
ALL = "all"
"""Pseudo-name of the union of the test sets."""

Record = Dict[str, Any]


class Key(NamedTuple):
    """Identifies a cell apart from its seed."""

    architecture: str
    start: str
    method: str
    bits: Optional[int] = None
    ablation: Optional[str] = None


class System(NamedTuple):
    """A cell with some of its seeds, whose errors are added up."""

    key: Key
    seeds: Tuple[Optional[int], ...]


class Difference(NamedTuple):
    """A paired difference in error rate, in points, with its two-sided p value."""

    value: float
    low: float
    high: float
    p: float

    @property
    def verdict(self) -> str:
        """The verdict on the system that is compared with the baseline."""
        return "better" if self.high < 0 else "worse" if self.low > 0 else "tied"

    @property
    def p_text(self) -> str:
        """The p value as text, limited to the resolution of the bootstrap."""
        return f"p = {self.p:.3f}" if self.p >= 2 / SAMPLES else f"p < {2 / SAMPLES:g}"


def read_result(path: Path) -> Record:
    """Read one result file.

    Raises:
        GridError: If it is not a result file.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["benchmark"] != "grid" or record["format"] != 1:
            raise KeyError("benchmark")
        for name in ("cell", "sets", "architecture", "start", "method"):
            record[name]
        record["start_figures"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise GridError(f"{path} is not a result file of the grid ({e!r})") from None
    return record


def units(record: Record, test_set: str) -> wer.Units:
    """Return the errors and words of every recording, for the bootstrap.

    Args:
        record: Contents of a result file.
        test_set: One of its sets, or ALL for the sum over them.
    """
    if test_set == ALL:
        return summed([units(record, name) for name in sorted(record["sets"])])
    found: wer.Units = {}
    for speaker, row in record["sets"][test_set]["units"].items():
        errors = [int(n) for n in row["errors"].split()]
        words = [int(n) for n in row["words"].split()]
        words = words * len(errors) if len(words) == 1 else words
        for index, counts in enumerate(zip(errors, words)):
            found[speaker, f"{index:05d}"] = counts
    return found


def summed(parts: Sequence[wer.Units]) -> wer.Units:
    """Add up the counts of each recording."""
    found: wer.Units = {}
    for part in parts:
        for name, (errors, words) in part.items():
            before = found.get(name, (0, 0))
            found[name] = (before[0] + errors, before[1] + words)
    return found


class Results:
    """All result files of a folder.

    Args:
        folder: Folder of the files CELL.json.

    Raises:
        GridError: If a file is not a result file of the grid, or if two results were
            measured on different test sets.
    """

    def __init__(self, folder: Path):
        paths = sorted(folder.glob("*.json"))
        if not paths:
            raise GridError(f"{folder} holds no result files")
        self.records = {path: read_result(path) for path in paths}
        self.cells: Dict[Key, Dict[Optional[int], Record]] = {}
        for record in self.records.values():
            key = Key(*(record[name] for name in Key._fields))
            self.cells.setdefault(key, {})[record["seed"]] = record
        found = [set(record["sets"]) for record in self.records.values()]
        every = set.union(*found)
        self.sets = sorted(set.intersection(*found), key=_set_order)
        self.left_out = sorted(every - set(self.sets), key=_set_order)
        if not self.sets:
            raise GridError(f"{folder}: the result files have no test set in common")
        self._check_same_data()
        for record in self.records.values():
            record["sets"] = {name: record["sets"][name] for name in self.sets}

    def _check_same_data(self) -> None:
        first: Dict[str, Tuple[str, Path]] = {}
        for path, record in self.records.items():
            for name in self.sets:
                digest = record["sets"][name]["digest"]
                known, other = first.setdefault(name, (digest, path))
                if known != digest:
                    raise GridError(
                        f"{other.name} and {path.name} were measured on different "
                        f"data ({name}); report them from different folders"
                    )

    def system(self, key: Key) -> Optional[System]:
        """Return a cell with all its seeds; None if it has no result."""
        seeds = self.cells.get(key)
        return System(key, tuple(sorted(seeds, key=str))) if seeds else None

    def pair(self, baseline: Key, key: Key) -> Optional[Tuple[System, System]]:
        """Return two cells with the seeds that both have; None if there are none.

        A cell without a seed (not trained) is paired with every seed of the other.
        Models that started from different float models are no pair.
        """
        first, second = self.system(baseline), self.system(key)
        if first is None or second is None:
            return None
        seeds = [set(system.seeds) - {None} for system in (first, second)]
        common = seeds[0] & seeds[1] if all(seeds) else None
        if common is not None:
            if not common:
                return None
            chosen = tuple(sorted(common, key=str))
            first, second = System(baseline, chosen), System(key, chosen)
        starts = [_start(record) for s in (first, second) for record in self.of(s)]
        return (first, second) if len(set(starts)) == 1 else None

    def from_other_starts(self) -> List[str]:
        """Return the cells that did not start from the float model with a result."""
        floats = {
            (r["architecture"], r["start"]): _start(r)
            for r in self.records.values()
            if r["method"] == "float"
        }
        return [
            r["cell"]
            for r in self.records.values()
            if floats.get((r["architecture"], r["start"]), _start(r)) != _start(r)
        ]

    def of(self, system: System) -> List[Record]:
        """Return the records of a system."""
        return [self.cells[system.key][seed] for seed in system.seeds]

    def pooled(self, system: System, test_set: str) -> wer.Units:
        """Return the counts of a system, summed over its seeds."""
        return summed([units(record, test_set) for record in self.of(system)])


def _start(record: Record) -> str:
    """Return what tells float models apart that were trained more than once."""
    return json.dumps(record["start_figures"], sort_keys=True)


def _set_order(name: str) -> Tuple[int, str]:
    known = ["test_clean", "test_noisy", "test_far"]
    return (known.index(name) if name in known else len(known)), name


class Rates:
    """Error rates of many systems on one test set, with common bootstrap draws.

    The intervals equal those of :func:`espnet_gq.analysis.wer.bootstrap` and
    :func:`~espnet_gq.analysis.wer.paired_bootstrap`; all systems share the samples.

    Args:
        systems: Maps names to counts by recording.
    """

    def __init__(self, systems: Mapping[Any, wer.Units]):
        names = list(systems)
        counts = list(systems.values())
        sums = [np.sum(list(found.values()), axis=0) for found in counts]
        self.values = {n: float(100 * s[0] / s[1]) for n, s in zip(names, sums)}
        samples = wer.resample(counts, SAMPLES, 0) if counts else ()
        self.samples: Dict[Any, np.ndarray] = dict(zip(names, samples))

    def interval(self, name: Any) -> wer.Interval:
        """Return the error rate of a system with its interval."""
        return wer.Interval(self.values[name], *_ends(self.samples[name]))

    def difference(self, baseline: Any, name: Any) -> Difference:
        """Return the error rate of a system minus that of the baseline."""
        drawn = self.samples[name] - self.samples[baseline]
        sides = float(np.mean(drawn <= 0)), float(np.mean(drawn >= 0))
        value = self.values[name] - self.values[baseline]
        low, high = _ends(drawn)
        return Difference(value, low, high, min(1.0, 2 * min(sides)))


def _ends(drawn: np.ndarray) -> Tuple[float, float]:
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return float(low), float(high)


class Evidence:
    """The statistics of a report: rates of all systems and differences of all pairs.

    Args:
        results: The result files.
        pairs: Pairs (baseline, key) to compare.
    """

    def __init__(self, results: Results, pairs: Sequence[Tuple[Key, Key]]):
        self.results = results
        systems = {key: results.system(key) for key in results.cells}
        self.systems = {key: s for key, s in systems.items() if s is not None}
        found = {pair: results.pair(*pair) for pair in dict.fromkeys(pairs)}
        self.pairs = {pair: both for pair, both in found.items() if both is not None}
        wanted = list(self.systems.values())
        wanted += [system for both in self.pairs.values() for system in both]
        wanted = list(dict.fromkeys(wanted))
        self.rates = {
            name: Rates({s: results.pooled(s, name) for s in wanted})
            for name in (*results.sets, ALL)
        }

    def interval(self, key: Key, test_set: str) -> Optional[wer.Interval]:
        """Return the error rate of a key over its seeds; None if it has no result."""
        system = self.systems.get(key)
        return None if system is None else self.rates[test_set].interval(system)

    def difference(
        self, baseline: Key, key: Key, test_set: str
    ) -> Optional[Difference]:
        """Return the paired difference of two keys; None without common results."""
        both = self.pairs.get((baseline, key))
        return None if both is None else self.rates[test_set].difference(*both)
