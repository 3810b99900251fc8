"""Tables of quantization without training, beside training at the same widths.

The error rates are those of all test sets together; `Rates` draws the same speakers and
recordings for all methods, so that differences are paired.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence

import numpy as np

from espnet_gq.analysis.tables import markdown
from experiments.cells import Cell, GridError
from experiments.reporting.results import (
    ALL,
    Difference,
    Rates,
    Record,
    read_result,
    units,
)

FLOAT, DATA_FREE, CALIBRATED = "float", "gq", "gq_calibrated"
TRAINED, LONGER = "GQ, trained", "float, trained as long"
LOSSLESS_BITS, HALVED_BITS = 4, 3
"""Widths at which calibration must lose nothing, and less than half of data-free."""


@dataclass(frozen=True)
class Trained:
    """Models of the grid, trained from a float model.

    Attributes:
        cells: Bits -> result of GQ with seed 1, on the test sets of the comparison.
        same: Bits of those that start from the float model of the comparison.
        start: Result of the float model that the others start from.
        longer: Result of that model trained as long, None if there is none.
        notes: What has to be said of them.
    """

    cells: Mapping[int, Record]
    same: Sequence[int] = ()
    start: Optional[Record] = None
    longer: Optional[Record] = None
    notes: Sequence[str] = ()


def read_trained(
    folder: Path, architecture: str, bits: Sequence[int], record: Record
) -> Trained:
    """Read the trained models of an architecture from the grid's results.

    Args:
        folder: The result files of the grid.
        architecture: Its name in the grid.
        bits: The widths to read, as far as they have a result.
        record: What `python -m experiments.post_training` stored.

    Raises:
        GridError: If a result was measured on other data.
    """
    measured = record["float"]

    def read(method: str, width: Optional[int], seed: Optional[int]):
        cell = Cell(architecture, "trained", method, width, None, seed)
        path = folder / f"{cell.name}.json"
        if not path.exists():
            return None
        found = read_result(path)
        sets = {name: found["sets"].get(name) for name in measured["sets"]}
        for name, one in sets.items():
            if one is None or one["digest"] != measured["sets"][name]["digest"]:
                raise GridError(f"{path} was not measured on the same {name}")
        return {**found, "sets": sets}

    start = read(FLOAT, None, None)
    if start is None:
        return Trained({}, notes=[f"{folder} has no float model of {architecture}."])
    own = [record.get("start_figures")]
    if units(start, ALL) == units(measured, ALL):
        own.append(start["start_figures"])
    widths = {width: read("gq", width, 1) for width in bits}
    cells = {width: found for width, found in widths.items() if found is not None}
    same = [width for width, found in cells.items() if found["start_figures"] in own]
    others = [str(width) for width in sorted(cells, reverse=True) if width not in same]
    notes = []
    if others:
        notes.append(
            f"The trained models of {', '.join(others)} bits start from another "
            f"training of the float model, of {_rate(start):.2f}% WER instead of "
            f"{_rate(measured):.2f}%, and are compared with that one."
        )
    strange = [
        str(width)
        for width, found in cells.items()
        if width not in same and found["start_figures"] != start["start_figures"]
    ]
    if strange:
        raise GridError(
            f"{folder}: GQ at {', '.join(strange)} bits starts from neither float "
            f"model of {architecture}; allowed: one of the two"
        )
    return Trained(cells, same, start, read("float_longer", None, 1), notes)


class Comparison:
    """Error rates of all methods and widths, and their differences from float.

    Args:
        record: What `python -m experiments.post_training` stored.
        titles: Method -> title, in the order of the columns.
        trained: The trained models beside them.
    """

    def __init__(self, record: Record, titles: Mapping[str, str], trained: Trained):
        self.titles, self.trained = titles, trained
        systems = {FLOAT: units(record["float"], ALL)}
        for name, cell in record["cells"].items():
            systems[name] = units(cell, ALL)
        for width, found in trained.cells.items():
            systems[f"{TRAINED}-{width}"] = units(found, ALL)
        for name, one in (
            (f"{TRAINED}-float", trained.start),
            (LONGER, trained.longer),
        ):
            if one is not None:
                systems[name] = units(one, ALL)
        self.rates = Rates(systems)
        widths = {int(name.rsplit("-", 1)[1]) for name in record["cells"]}
        self.widths = sorted(widths, reverse=True)

    @property
    def columns(self) -> Dict[str, str]:
        """Method -> title, training last."""
        return {**self.titles, **({TRAINED: TRAINED} if self.trained.cells else {})}

    def difference(self, method: str, bits: int) -> Optional[Difference]:
        """Return a method's error rate minus float's; None if it was not measured."""
        other = method == TRAINED and bits not in self.trained.same
        baseline = f"{TRAINED}-float" if other else FLOAT
        name = f"{method}-{bits}"
        if name not in self.rates.values:
            return None
        return self.rates.difference(baseline, name)

    def rate_table(self) -> str:
        """Return the word error rates with their intervals as Markdown."""
        rows = [["float", *([self._rate(FLOAT)] * len(self.titles))]]
        if self.trained.cells:
            rows[0].append(self._rate(f"{TRAINED}-float"))
        for width in self.widths:
            names = [f"{method}-{width}" for method in self.columns]
            rows.append([str(width), *map(self._rate, names)])
        return markdown(["bits", *self.columns.values()], rows)

    def difference_table(self) -> str:
        """Return the differences from float with their intervals as Markdown."""
        rows = []
        for width in self.widths:
            found = [self.difference(method, width) for method in self.columns]
            rows.append([str(width), *map(_signed, found)])
        return markdown(["bits", *self.columns.values()], rows)

    def _rate(self, name: str) -> str:
        if name not in self.rates.values:
            return ""
        found = self.rates.interval(name)
        return f"{found.value:.2f}% [{found.low:.2f}, {found.high:.2f}]"

    def verdicts(self) -> List[str]:
        """Say whether calibration keeps its promises, as far as the test can tell."""
        lines = []
        loss = self.difference(CALIBRATED, LOSSLESS_BITS)
        if loss is not None:
            verdict = "a significant loss" if loss.low > 0 else "no significant loss"
            lines.append(
                f"Calibrated at {LOSSLESS_BITS} bits: {_signed(loss)} points against "
                f"float, {verdict}."
            )
        loss = self.difference(CALIBRATED, HALVED_BITS)
        free = self.difference(DATA_FREE, HALVED_BITS)
        if loss is not None and free is not None:
            names = (f"{CALIBRATED}-{HALVED_BITS}", f"{DATA_FREE}-{HALVED_BITS}")
            drawn, half = (self.rates.samples[n] for n in names)
            base = self.rates.samples[FLOAT]
            low, high = np.percentile((drawn - base) - (half - base) / 2, [2.5, 97.5])
            excess = Difference(loss.value - free.value / 2, low, high, 1.0)
            verdict = "this test cannot tell"
            if high < 0:
                verdict = "less than half"
            elif low > 0:
                verdict = "more than half"
            ratio = ""
            if free.value > 0:
                ratio = f", {loss.value / free.value:.2f} x that of"
            lines.append(
                f"Loss at {HALVED_BITS} bits: calibrated {_signed(loss)}{ratio} "
                f"data-free {_signed(free)}; calibrated minus half of data-free "
                f"{_signed(excess)}: {verdict}."
            )
        if self.trained.cells and LONGER in self.rates.values:
            longer = self.rates.difference(f"{TRAINED}-float", LONGER)
            lines.append(
                "The trained models had more epochs than the float model; float "
                f"trained as long is at {_signed(longer)} points."
            )
        return [*lines, *self.trained.notes]

    def text(self) -> str:
        """Return the tables and what has to be said of them."""
        parts = [
            "Word error rate, all test sets together [95%]:",
            self.rate_table(),
            "The same minus float's, in points [95%]:",
            self.difference_table(),
            "\n".join(self.verdicts()),
        ]
        return "\n\n".join(parts)


def _rate(record: Record) -> float:
    errors, words = np.sum(list(units(record, ALL).values()), axis=0)
    return float(100 * errors / words)


def _signed(found: Optional[Difference]) -> str:
    if found is None:
        return ""
    return f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"
