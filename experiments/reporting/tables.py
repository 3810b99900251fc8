"""What the grid found, in words and tables, from its result files alone."""

import statistics
from typing import Container, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

from grid_cells import Cell, Grid
from grid_results import ALL, Difference, Evidence, Key, Record, Results, units
from report import table

MISSING, NOT_DECLARED = "missing", ""
BASELINES = ("float_longer", "float")
"""What a cell is compared with besides its peers at the same bits."""

Lines = List[str]


class Tables:
    """What the result files say, in words and tables.

    Args:
        grid: The declaration: titles, order, and what is missing.
        results: The result files.
    """

    def __init__(self, grid: Grid, results: Results):
        self.grid, self.results = grid, results
        self.methods, self.ablations = grid.titles()
        declared = [_key(cell) for cell in grid.cells]
        self.declared = dict.fromkeys(declared)
        self.keys = list(dict.fromkeys([*declared, *sorted(results.cells, key=str)]))
        self.places = list(dict.fromkeys((k.architecture, k.start) for k in self.keys))
        self.sets = [*results.sets, ALL]
        pairs = [(peer, gq) for gq in self._gq() for peer in self._peers(gq)]
        pairs += [(k._replace(ablation=None), k) for k in self.keys if k.ablation]
        self.evidence = Evidence(results, pairs)

    # --- keys -------------------------------------------------------------------------

    def _gq(self, place: Optional[Tuple[str, str]] = None) -> List[Key]:
        """Return the keys of GQ as it is, most bits first."""
        found = [
            key
            for key in self.keys
            if key.method == "gq" and key.ablation is None and place in (None, key[:2])
        ]
        return sorted(found, key=lambda key: -key.bits)

    def _peers(self, gq: Key) -> Iterator[Key]:
        """Yield what a GQ key is compared with."""
        for method in (*BASELINES, *self.methods):
            if method in BASELINES:
                yield gq._replace(method=method, bits=None)
            elif method not in ("gq", *BASELINES):
                yield gq._replace(method=method)

    def _peer_methods(self) -> List[str]:
        others = [m for m in self.methods if m not in ("gq", *BASELINES)]
        return [*BASELINES, *others]

    def _trained_peers(self) -> List[str]:
        """Return the methods that train for as long at the same bits."""
        others = [m for m in self._peer_methods() if m not in BASELINES]
        return [m for m in others if self.grid.methods[m].get("train", True)]

    def _widths(self, place: Tuple[str, str]) -> List[int]:
        found = {key.bits for key in self.keys if key[:2] == place and key.bits}
        return sorted(found, reverse=True)

    def _lacking(self, key: Key) -> str:
        return MISSING if key in self.declared else NOT_DECLARED

    # --- results ----------------------------------------------------------------------

    def records(self, place: Optional[Tuple[str, str]] = None) -> List[Record]:
        """Return the results, of one architecture and start or of all."""
        return [
            record
            for record in self.results.records.values()
            if place in (None, (record["architecture"], record["start"]))
        ]

    def _seeds(self, key: Key, only: Optional[Container] = None) -> List[Record]:
        """Return the results of a key, of all seeds or of some."""
        found = self.results.cells.get(key, {})
        return [found[seed] for seed in found if only is None or seed in only]

    # --- words ------------------------------------------------------------------------

    def words(self) -> Lines:
        """Say where GQ wins, ties and loses, from the tests."""
        lines, verdicts = [], []
        for place in self.places:
            sentences = []
            for method in self._peer_methods():
                sentence, found = self._against(place, method)
                sentences += [sentence] if sentence else []
                verdicts += found if method in self._trained_peers() else []
            if sentences:
                lines += [f"**{place_name(place)}.**", "", *sentences, ""]
        if verdicts:
            counts = [verdicts.count(v) for v in ("better", "tied", "worse")]
            lines.append(
                f"Of {len(verdicts)} comparisons with peers trained for as long at "
                f"the same bits, GQ is better in {counts[0]}, tied in {counts[1]} and "
                f"worse in {counts[2]}. Where there is no difference, one in twenty "
                "still shows as one."
            )
            lines += ["", self._on_single_sets()]
        return lines or ["No comparison can be made yet."]

    def _against(self, place: Tuple[str, str], method: str) -> Tuple[str, List[str]]:
        found: Dict[str, List[str]] = {"better": [], "tied": [], "worse": []}
        for gq in self._gq(place):
            bits = None if method in BASELINES else gq.bits
            peer = gq._replace(method=method, bits=bits)
            difference = self.evidence.difference(peer, gq, ALL)
            if difference is None:
                continue
            words = f"{gq.bits}"
            if difference.verdict != "tied":
                words += f" ({difference.value:+.2f} points, {difference.p_text})"
            found[difference.verdict].append(words)
        parts = [
            f"{verdict} at {_listed(words)} bits"
            for verdict, words in found.items()
            if words
        ]
        verdicts = [v for v, words in found.items() for _ in words]
        if not parts:
            return "", []
        return f"- Against {self.methods[method]}: {'; '.join(parts)}.", verdicts

    def _on_single_sets(self) -> str:
        """Count the comparisons with trained peers set by set, and name the losses."""
        counts = {"better": 0, "tied": 0, "worse": 0}
        losses = []
        for gq in self._gq():
            for method in self._trained_peers():
                for name in self.results.sets:
                    peer = gq._replace(method=method)
                    found = self.evidence.difference(peer, gq, name)
                    if found is None:
                        continue
                    counts[found.verdict] += 1
                    if found.verdict == "worse":
                        losses.append(
                            f"{gq.architecture}, {gq.start}, {_bits(gq)}, {name}, "
                            f"{self.methods[method]}: {found.value:+.2f} points, "
                            f"{found.p_text}"
                        )
        words = (
            f"Test set by test set, of {sum(counts.values())} such comparisons: better "
            f"in {counts['better']}, tied in {counts['tied']}, worse in "
            f"{counts['worse']}"
        )
        return words + (f" ({'; '.join(losses)})." if losses else ".")

    # --- tables -----------------------------------------------------------------------

    def error_rates(self, place: Tuple[str, str], test_set: str) -> str:
        """Return WER by method and bits."""
        widths = self._widths(place)
        rows = []
        for method in self.methods:
            keys = [Key(*place, method, bits) for bits in (None, *widths)]
            cells = [self._rate(key, test_set) for key in keys]
            if any(cells):
                rows.append([self.methods[method], *cells])
        return table(["method", "32", *map(str, widths)], rows)

    def _rate(self, key: Key, test_set: str) -> str:
        interval = self.evidence.interval(key, test_set)
        if interval is None:
            return self._lacking(key)
        seeds = len(self.results.cells[key])
        return (
            f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"
            f"{f' x{seeds}' if seeds > 1 else ''}"
        )

    def differences(self, place: Tuple[str, str], test_set: str) -> str:
        """Return GQ minus every peer."""
        gqs = self._gq(place)
        rows = []
        for method in self._peer_methods():
            cells = []
            for gq in gqs:
                bits = None if method in BASELINES else gq.bits
                peer = gq._replace(method=method, bits=bits)
                difference = self.evidence.difference(peer, gq, test_set)
                declared = gq in self.declared and peer in self.declared
                lacking = MISSING if declared else NOT_DECLARED
                cells.append(_difference(difference) if difference else lacking)
            if any(cells):
                rows.append([self.methods[method], *cells])
        return table(["GQ minus", *map(_bits, gqs)], rows)

    def figures(self, place: Tuple[str, str], read, form: str) -> str:
        """Return a table of a figure of the result files, the mean over seeds.

        Args:
            place: Architecture and start.
            read: Function from a record to the figure, or None.
            form: How the figure is printed.
        """
        widths = self._widths(place)
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
        return table(["method", "32", *map(str, widths)], rows)

    def by_seed(self, place: Tuple[str, str]) -> str:
        """Return the WER of each seed, of what has several, and their deviation."""
        chosen = [
            key
            for key in self.keys
            if key[:2] == place and len(self.results.cells.get(key, {})) > 1
        ]
        seeds = sorted({s for key in chosen for s in self.results.cells[key]})
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
        return table([*header, "deviation"], rows)

    def ablation_table(self, place: Tuple[str, str]) -> str:
        """Return the ablations beside GQ as it is."""
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
        return table(header, rows)

    def starts(self) -> str:
        """Return the float models that the cells begin with."""
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
        header = ["start", "parameters", "kurtosis, trained", "kurtosis here"]
        return table([*header, "largest output difference"], rows)

    def sizes(self, place: Tuple[str, str]) -> str:
        """Return the packed files of GQ."""
        rows = []
        for key in self._gq(place):
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
        return table(header, rows) if rows else ""


def _key(cell: Cell) -> Key:
    return Key(*(getattr(cell, name) for name in Key._fields))


def place_name(place: Tuple[str, str]) -> str:
    """Return architecture and start in words."""
    return f"{place[0]}, {place[1]} weights"


def set_name(name: str) -> str:
    """Return the name of a test set, or of all, in words."""
    return "all sets" if name == ALL else name


def _bits(key: Key) -> str:
    return f"{key.bits} bit{'s' * (key.bits > 1)}"


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + (" and " if len(words) > 1 else "") + words[-1]


def _rate_of(record: Record) -> float:
    """Return the WER of a result on all sets, in percent."""
    errors, words = map(sum, zip(*units(record, ALL).values()))
    return 100 * errors / words


def _mean(values: Iterable[Optional[float]], form: str) -> str:
    """Return the mean of those that are there, as text, or nothing."""
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
    """Return the development loss, hardened minus as in training."""
    gap = record["gap"] if record["training"] else None
    return None if gap is None else gap["loss_hard"] - gap["loss_trained"]


def weight_gap(record: Record) -> Optional[float]:
    """Return ||soft - hard|| / ||hard|| after training."""
    gap = record["gap"] if record["training"] else None
    return None if gap is None else gap["weights"]


def step_time(record: Record) -> Optional[float]:
    """Return seconds a step, the median over epochs."""
    training = record["training"]
    return None if training is None else training["seconds_a_step"]


def _kilobytes(size: Optional[int]) -> str:
    return "" if size is None else f"{size / 1e3:.1f} kB"
