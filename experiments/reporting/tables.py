"""The tables of the grid, generated from its result files alone."""

import statistics
from typing import Callable, Container, Iterable, Iterator, List, Optional, Tuple

from espnet_gq.analysis.tables import markdown
from experiments.cells import Cell, Grid
from experiments.reporting.results import (
    ALL,
    Difference,
    Evidence,
    Key,
    Record,
    Results,
    units,
)

MISSING, NOT_DECLARED = "missing", ""
FLOATS = ("float_longer", "float")
"""The float models that GQ is compared with: trained for as long, and its start."""

Place = Tuple[str, str]
"""Architecture and start."""
Read = Callable[[Record], Optional[float]]


class Tables:
    """Tables of the results.

    Args:
        grid: The declaration, which gives titles, order and missing cells.
        results: The result files.
    """

    def __init__(self, grid: Grid, results: Results):
        self.grid, self.results = grid, results
        self.methods, self.ablations = grid.titles()
        declared = [key_of(cell) for cell in grid.cells]
        self.declared = dict.fromkeys(declared)
        self.keys = list(dict.fromkeys([*declared, *sorted(results.cells, key=str)]))
        self.places = list(dict.fromkeys((k.architecture, k.start) for k in self.keys))
        self.sets = [*results.sets, ALL]
        pairs = [(other, gq) for gq in self.gq() for other in self._others(gq)]
        pairs += [(k._replace(ablation=None), k) for k in self.keys if k.ablation]
        self.evidence = Evidence(results, pairs)

    # --- keys -------------------------------------------------------------------------

    def gq(self, place: Optional[Place] = None) -> List[Key]:
        """Return the keys of GQ without ablations, most bits first."""
        found = [
            key
            for key in self.keys
            if key.method == "gq" and key.ablation is None and place in (None, key[:2])
        ]
        return sorted(found, key=lambda key: -(key.bits or 0))

    def _others(self, gq: Key) -> Iterator[Key]:
        """Yield the keys that a GQ key is compared with."""
        for method in self.compared:
            yield other_than(gq, method)

    @property
    def compared(self) -> List[str]:
        """The methods that GQ is compared with, float first."""
        return [*FLOATS, *(m for m in self.methods if m not in ("gq", *FLOATS))]

    @property
    def baselines(self) -> List[str]:
        """The methods that train for as long and with the same bits as GQ."""
        others = [m for m in self.compared if m not in FLOATS]
        return [m for m in others if self.grid.methods[m].get("train", True)]

    def widths(self, place: Place) -> List[int]:
        """Return the bit widths of an architecture and start, largest first."""
        found = {key.bits for key in self.keys if key[:2] == place and key.bits}
        return sorted(found, reverse=True)

    def _lacking(self, key: Key) -> str:
        return MISSING if key in self.declared else NOT_DECLARED

    # --- results ----------------------------------------------------------------------

    def records(self, place: Optional[Place] = None) -> List[Record]:
        """Return the results of one architecture and start, or all."""
        return [
            record
            for record in self.results.records.values()
            if place in (None, (record["architecture"], record["start"]))
        ]

    def _seeds(self, key: Key, only: Optional[Container] = None) -> List[Record]:
        """Return the results of a key, for all seeds or some."""
        found = self.results.cells.get(key, {})
        return [found[seed] for seed in found if only is None or seed in only]

    # --- tables -----------------------------------------------------------------------

    def error_rates(self, place: Place, test_set: str) -> str:
        """Tabulate WER by method and bits."""
        widths = self.widths(place)
        rows = []
        for method in self.methods:
            keys = [Key(*place, method, bits) for bits in (None, *widths)]
            cells = [self._rate(key, test_set) for key in keys]
            if any(cells):
                rows.append([self.methods[method], *cells])
        return markdown(["method", "32", *map(str, widths)], rows)

    def _rate(self, key: Key, test_set: str) -> str:
        interval = self.evidence.interval(key, test_set)
        if interval is None:
            return self._lacking(key)
        seeds = len(self.results.cells[key])
        return (
            f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"
            f"{f' x{seeds}' if seeds > 1 else ''}"
        )

    def differences(self, place: Place, test_set: str) -> str:
        """Tabulate GQ minus the methods it is compared with."""
        gqs = self.gq(place)
        rows = []
        for method in self.compared:
            cells = []
            for gq in gqs:
                other = other_than(gq, method)
                difference = self.evidence.difference(other, gq, test_set)
                declared = gq in self.declared and other in self.declared
                lacking = MISSING if declared else NOT_DECLARED
                cells.append(_difference(difference) if difference else lacking)
            if any(cells):
                rows.append([self.methods[method], *cells])
        return markdown(["GQ minus", *map(bits_of, gqs)], rows)

    def figures(self, place: Place, read: Read, form: str) -> str:
        """Tabulate a figure of the result files, averaged over seeds.

        Args:
            place: Architecture and start.
            read: Function from a record to the figure, or None.
            form: Format specification of the figure.
        """
        widths = self.widths(place)
        rows = []
        for method in self.methods:
            cells = []
            for bits in (None, *widths):
                records = self._seeds(Key(*place, method, bits))
                cells.append(_mean(map(read, records), form))
            if any(cells):
                rows.append([self.methods[method], *cells])
        if not rows:
            return ""
        return markdown(["method", "32", *map(str, widths)], rows)

    def by_seed(self, place: Place) -> str:
        """Tabulate WER by seed and its standard deviation, for repeated cells."""
        chosen = [
            key
            for key in self.keys
            if key[:2] == place and len(self.results.cells.get(key, {})) > 1
        ]
        seeds = sorted({s or 0 for key in chosen for s in self.results.cells[key]})
        rows = []
        for key in chosen:
            rates = {s: _rate_of(r) for s, r in self.results.cells[key].items()}
            title = self.ablations[key.ablation] if key.ablation else ""
            row = [self.methods[key.method], title, str(key.bits or 32)]
            row += [f"{rates[s]:.2f}" if s in rates else "" for s in seeds]
            rows.append([*row, f"{statistics.stdev(rates.values()):.2f}"])
        if not rows:
            return ""
        header = ["method", "ablation", "bits", *(f"seed {s}" for s in seeds)]
        return markdown([*header, "deviation"], rows)

    def ablation_table(self, place: Place) -> str:
        """Tabulate the ablations and their differences from GQ."""
        rows = []
        for key in self.keys:
            if key[:2] != place or not key.ablation:
                continue
            base = key._replace(ablation=None)
            row = [self.ablations[key.ablation], str(key.bits)]
            for test_set in self.sets:
                row.append(self._rate(key, test_set))
            difference = self.evidence.difference(base, key, ALL)
            lacking = self._lacking(key)
            row.append(_difference(difference) if difference else lacking)
            records = self._seeds(key)
            row.append(_mean(map(loss, records), ".3f"))
            same = self.results.cells.get(key, {})
            row.append(_mean([loss(r) for r in self._seeds(base, same)], ".3f"))
            row.append(_mean(map(loss_gap, records), "+.4f"))
            row.append(
                _kilobytes(records[0]["size"]["packed_bytes"]) if records else ""
            )
            rows.append(row)
        if not rows:
            return ""
        header = ["ablation", "bits", *map(set_name, self.sets)]
        header += ["minus GQ", "development loss", "GQ's", "loss gap", "packed"]
        return markdown(header, rows)

    def starts(self) -> str:
        """Tabulate the float models from which the cells start."""
        rows = []
        for place in self.places:
            records = self.records(place)
            if not records:
                continue
            first = records[0]
            figures, size = first["start_figures"], first["size"]
            rows.append(
                [
                    place_name(place),
                    f"{size['parameters']:,}",
                    f"{figures['kurtosis_before']:.2f}",
                    f"{figures['kurtosis']:.2f}",
                    f"{figures['largest_difference']:.1g}",
                ]
            )
        header = ["start", "parameters", "kurtosis, trained", "kurtosis, start"]
        return markdown([*header, "largest output difference"], rows)

    def sizes(self, place: Place) -> str:
        """Tabulate the packed files of GQ."""
        rows = []
        for key in self.gq(place):
            for record in list(self.results.cells.get(key, {}).values())[:1]:
                size = record["size"]
                if size["packed_bytes"] is None:
                    continue
                float_bytes = 4 * size["parameters"]
                rows.append(
                    [
                        str(key.bits),
                        f"{100 * size['quantized_share']:.1f}%",
                        _kilobytes(size["packed_bytes"]),
                        f"{float_bytes / size['packed_bytes']:.2f} x",
                    ]
                )
        header = ["bits", "quantized", "packed file", "smaller than float32"]
        return markdown(header, rows) if rows else ""


def key_of(cell: Cell) -> Key:
    """Return the key of a cell."""
    return Key(*(getattr(cell, name) for name in Key._fields))


def other_than(gq: Key, method: str) -> Key:
    """Return the key of another method that corresponds to a GQ key."""
    return gq._replace(method=method, bits=None if method in FLOATS else gq.bits)


def place_name(place: Place) -> str:
    """Format an architecture and start, for example "rnnt, trained weights"."""
    return f"{place[0]}, {place[1]} weights"


def set_name(name: str) -> str:
    """Format the name of a test set."""
    return "all sets" if name == ALL else name


def bits_of(key: Key) -> str:
    """Format the bit width of a key, for example "5 bits"."""
    return f"{key.bits} bit{'' if key.bits == 1 else 's'}"


def _rate_of(record: Record) -> float:
    """Return the WER of a result over all sets, in percent."""
    errors, words = map(sum, zip(*units(record, ALL).values()))
    return 100 * errors / words


def _mean(values: Iterable[Optional[float]], form: str) -> str:
    """Format the mean of the values other than None; empty if there are none."""
    there = [value for value in values if value is not None]
    return format(statistics.fmean(there), form) if there else ""


def _difference(found: Difference) -> str:
    return (
        f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}] "
        f"{found.p_text.replace(' ', '')} {found.verdict}"
    )


def loss(record: Record) -> Optional[float]:
    """Return the development loss of the hardened model after training."""
    gap = record["gap"] if record["training"] else None
    return None if gap is None else gap["loss_hard"]


def loss_gap(record: Record) -> Optional[float]:
    """Return the development loss after hardening minus that before."""
    gap = record["gap"] if record["training"] else None
    return None if gap is None else gap["loss_hard"] - gap["loss_trained"]


def weight_gap(record: Record) -> Optional[float]:
    """Return ||soft - hard|| / ||hard|| after training."""
    gap = record["gap"] if record["training"] else None
    return None if gap is None else gap["weights"]


def step_time(record: Record) -> Optional[float]:
    """Return the seconds per step, the median over epochs."""
    training = record["training"]
    return None if training is None else training["seconds_a_step"]


def _kilobytes(size: Optional[int]) -> str:
    return "" if size is None else f"{size / 1e3:.1f} kB"
