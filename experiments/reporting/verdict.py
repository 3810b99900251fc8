"""Summary of the comparisons (better, tied, worse) and list of missing cells."""

from typing import Dict, Iterator, List, Sequence, Tuple

from experiments.cells import Cell
from experiments.reporting.results import ALL
from experiments.reporting.tables import (
    Place,
    Tables,
    bits_of,
    key_of,
    other_than,
    place_name,
)

VERDICTS = ("better", "tied", "worse")
Lines = List[str]


class Verdict:
    """Text summary of the tables.

    Args:
        tables: The tables.
    """

    def __init__(self, tables: Tables):
        self.tables = tables
        self.titles = tables.methods

    def lines(self) -> Lines:
        """Compare GQ with float and with the baselines, for each model and in total."""
        lines = [line for place in self.tables.places for line in self._place(place)]
        if not lines:
            return ["There are no results to compare yet."]
        return [*lines, "", *self._counted()]

    def _place(self, place: Place) -> Lines:
        lines = []
        floats = self._by_verdict(place, "float_longer")
        parts = [f"{v} at {_listed(floats[v])} bits" for v in VERDICTS if floats[v]]
        if parts:
            lines.append(f"  - float, trained as long: {'; '.join(parts)}")
        for verdict in VERDICTS:
            against = []
            for method in self.tables.baselines:
                bits = self._by_verdict(place, method)[verdict]
                if bits:
                    against.append(f"{self.titles[method]} at {_listed(bits)}")
            if against:
                words = "; ".join(against)
                lines.append(f"  - baselines at the same bits, {verdict}: {words}")
        return [f"- **{place_name(place)}**, GQ compared with", *lines] if lines else []

    def _by_verdict(self, place: Place, method: str) -> Dict[str, Lines]:
        """Group the bits of GQ by verdict; significant differences are quoted."""
        bits: Dict[str, Lines] = {verdict: [] for verdict in VERDICTS}
        for gq in self.tables.gq(place):
            pair = other_than(gq, method), gq
            difference = self.tables.evidence.difference(*pair, ALL)
            if difference is None:
                continue
            seeds = len(self.tables.evidence.pairs[pair][1].seeds)
            words = f"{gq.bits}{f' x{seeds}' if seeds > 1 else ''}"
            if difference.verdict != "tied":
                words += f" ({difference.value:+.2f}, {difference.p_text})"
            bits[difference.verdict].append(words)
        return bits

    def _counted(self) -> Lines:
        """Count the comparisons with baselines, over all sets and on single sets."""
        tables = self.tables
        pairs = [
            (other_than(gq, method), gq)
            for gq in tables.gq()
            for method in tables.baselines
        ]
        known = [pair for pair in pairs if pair in tables.evidence.pairs]
        if not known:
            return ["There are no baselines to compare with yet."]
        single = sum(len(tables.evidence.pairs[pair][1].seeds) == 1 for pair in known)
        together = [tables.evidence.difference(*pair, ALL) for pair in known]
        counts = _counts([d.verdict for d in together if d is not None])
        apart, losses = [], []
        for other, gq in known:
            for name in tables.results.sets:
                found = tables.evidence.difference(other, gq, name)
                if found is None:
                    continue
                apart.append(found.verdict)
                if found.verdict == "worse":
                    losses.append(
                        f"{place_name((gq.architecture, gq.start))}, {bits_of(gq)}, "
                        f"{name}, {self.titles[other.method]}: {found.value:+.2f} "
                        f"points, {found.p_text}"
                    )
        return [
            f"Of {len(known)} comparisons with baselines ({single} with one seed), GQ "
            f"is {counts}.",
            f"Of {len(apart)} comparisons on single test sets, GQ is {_counts(apart)}"
            + (f" ({'; '.join(losses)})." if losses else "."),
            "About one comparison in twenty is expected to differ by chance.",
        ]

    # --- what is missing --------------------------------------------------------------

    def missing(self) -> Lines:
        """List the cells without a result, one line per architecture and start."""
        tables = self.tables
        there = {record["cell"] for record in tables.records()}
        missing = [cell for cell in tables.grid.cells if cell.name not in there]
        total = len(tables.grid.cells)
        lines = [
            f"Of {total} declared cells, {total - len(missing)} have a result and "
            f"{len(missing)} are missing" + (":" if missing else "."),
            "",
        ]
        for place in tables.places:
            cells = [c for c in missing if (c.architecture, c.start) == place]
            if cells:
                words = "; ".join(self._grouped(cells))
                lines += [f"- {place_name(place)} ({len(cells)}): {words}."]
        return lines

    def _grouped(self, cells: Sequence[Cell]) -> Iterator[str]:
        """Yield the missing bits and seeds of each method or ablation."""
        groups: Dict[str, Dict[Tuple, List[str]]] = {}
        for key in dict.fromkeys(map(key_of, cells)):
            seeds = tuple(c.seed for c in cells if key_of(c) == key and c.seed)
            title = self.titles[key.method]
            if key.ablation:
                title = f"{title} with {self.tables.ablations[key.ablation]}"
            bits = [str(key.bits)] if key.bits else []
            groups.setdefault(title, {}).setdefault(seeds, []).extend(bits)
        for title, found in groups.items():
            parts = [_where(bits, seeds) for seeds, bits in found.items()]
            yield f"{title}{' ' * any(parts)}{', '.join(parts)}"


def _where(bits: Sequence[str], seeds: Sequence[int]) -> str:
    words = [f"at {_listed(bits)}"] if bits else []
    if seeds:
        several = "s" * (len(seeds) > 1)
        words.append(f"(seed{several} {_listed([str(s) for s in seeds])})")
    return " ".join(words)


def _counts(verdicts: Sequence[str]) -> str:
    better, tied, worse = (verdicts.count(v) for v in VERDICTS)
    return f"better in {better}, tied in {tied} and worse in {worse}"


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + (" and " if len(words) > 1 else "") + words[-1]
