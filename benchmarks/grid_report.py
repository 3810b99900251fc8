"""RESULTS.md of the grid, from its result files alone."""

import os
import statistics
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

from grid_cells import Cell, Grid
from grid_results import ALL, LEVEL, SAMPLES, Difference, Evidence, Key, Record, Results
from report import table

from espnet_gq.files import write_text

MISSING, NOT_DECLARED = "missing", ""
BASELINES = ("float_longer", "float")
"""What a cell is compared with besides its peers at the same bits."""

Lines = List[str]


class Report:
    """The report.

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

    def _widths(self, place: Tuple[str, str]) -> List[int]:
        found = {key.bits for key in self.keys if key[:2] == place and key.bits}
        return sorted(found, reverse=True)

    def _lacking(self, key: Key) -> str:
        return MISSING if key in self.declared else NOT_DECLARED

    # --- words ------------------------------------------------------------------------

    def words(self) -> Lines:
        """Say where GQ wins, ties and loses, from the tests."""
        lines, verdicts = [], []
        for place in self.places:
            sentences = []
            for method in self._peer_methods():
                sentence, found = self._against(place, method)
                sentences += [sentence] if sentence else []
                trained = self.grid.methods[method].get("train", True)
                verdicts += found if trained and method not in BASELINES else []
            if sentences:
                lines += [f"**{_place(place)}.**", "", *sentences, ""]
        if verdicts:
            counts = [verdicts.count(v) for v in ("better", "tied", "worse")]
            lines.append(
                f"Of {len(verdicts)} comparisons with peers trained for as long at "
                f"the same bits, GQ is better in {counts[0]}, tied in {counts[1]} and "
                f"worse in {counts[2]}. Where there is no difference, one in twenty "
                "still shows as one."
            )
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
        return table(
            ["GQ minus", *(f"{gq.bits} bit{'s' * (gq.bits > 1)}" for gq in gqs)], rows
        )

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
                key = Key(*place, method, bits)
                records = self.results.cells.get(key, {}).values()
                values = [v for v in map(read, records) if v is not None]
                cells.append(format(statistics.fmean(values), form) if values else "")
            if any(cells):
                rows.append([self.methods[method], *cells])
        if not rows:
            return ""
        return table(["method", "32", *map(str, widths)], rows)

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
            records = list(self.results.cells.get(key, {}).values())
            gap = [_loss_gap(r) for r in records if _loss_gap(r) is not None]
            row.append(f"{statistics.fmean(gap):+.4f}" if gap else "")
            rows.append(row)
        if not rows:
            return ""
        header = ["ablation", "bits", *map(_set_name, self.sets)]
        return table([*header, "minus GQ", "loss gap"], rows)

    def starts(self) -> str:
        """Return the float models that the cells begin with."""
        rows = []
        for place in self.places:
            records = self._records(place)
            if not records:
                continue
            first = records[0]
            figures, size = first["start_figures"], first["size"]
            rows.append(
                [
                    _place(place),
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
                        f"{size['packed_bytes'] / 1e3:.1f} kB",
                        f"{float_bytes / size['packed_bytes']:.2f} x",
                    ]
                )
        header = ["bits", "quantized", "packed file", "smaller than float32"]
        return table(header, rows) if rows else ""

    # --- the document -----------------------------------------------------------------

    def _records(self, place: Optional[Tuple[str, str]] = None) -> List[Record]:
        return [
            record
            for record in self.results.records.values()
            if place in (None, (record["architecture"], record["start"]))
        ]

    def what_was_run(self) -> Lines:
        """Return data, training, decoding, machines and versions."""
        records = self._records()
        found = {record["cell"] for record in records}
        missing = [cell.name for cell in self.grid.cells if cell.name not in found]
        sets = records[0]["sets"]
        lines = [
            f"- Cells: {len(self.grid.cells)} declared, {len(records)} with a result, "
            f"{len(missing)} missing.",
            "- Test sets: "
            + "; ".join(
                f"`{name}` ({found['utterances']} utterances, {found['words']} digits, "
                f"data {found['digest']})"
                for name, found in sets.items()
            )
            + ".",
        ]
        lines += [
            f"- `{name}` is left out: not every result has it."
            for name in self.results.left_out
        ]
        for architecture in dict.fromkeys(a for a, _ in self.places):
            mine = [r for r in records if r["architecture"] == architecture]
            for config in _distinct([_recipe(r) for r in mine]):
                lines.append(f"- {architecture}: {config}.")
            steps = _distinct(
                [str(r["training"]["steps"]) for r in mine if r["training"]]
            )
            if steps:
                lines.append(
                    f"- {architecture}: {', '.join(steps)} optimizer steps a cell."
                )
        for title, read in (
            (
                "Data options",
                lambda r: ", ".join(map(str, r["config"]["data"].values())),
            ),
            (
                "Machines",
                lambda r: f"{r['machine']['cpu']}, {r['machine']['threads']} thread",
            ),
            ("Versions", _versions),
            ("Revisions", lambda r: r["commit"] or "unknown"),
            ("Dates", lambda r: r["date"]),
        ):
            lines.append(f"- {title}: {'; '.join(_distinct(map(read, records)))}.")
        return lines

    def commands(self) -> Lines:
        """Return the commands of one cell that trains, or of the first."""
        records = self._records()
        trained = [r for r in records if r["training"] and r["method"] == "gq"]
        shown = (trained or records)[0]
        return [
            f"Those of {shown['cell']}, in the recipe's folder (every result file has "
            "its own):",
            "",
            *(f"    {command}" for command in shown["commands"]),
        ]

    def document(self, command: str, plots: Sequence[Tuple[str, str]]) -> str:
        """Return RESULTS.md.

        Args:
            command: What makes it.
            plots: (title, relative path) of each plot.
        """
        lines = ["# Results", "", f"Made by `{command}`; not written by hand.", ""]
        lines += [_READING.format(samples=SAMPLES, level=100 * LEVEL), ""]
        lines += ["## Where GQ wins, ties and loses", "", *self.words(), ""]
        lines += ["## What was run", "", *self.what_was_run(), "", self.starts(), ""]
        lines += self.commands() + [""]
        for title, path in plots:
            lines += [f"![{title}]({path})", ""]
        for place in self.places:
            lines += [f"## {_place(place)}", ""]
            for name in reversed(self.sets):
                rates = self.error_rates(place, name)
                lines += [f"### WER, {_set_name(name)}", "", rates, ""]
            for name in reversed(self.sets):
                lines += [
                    f"### GQ minus its peers, {_set_name(name)}, points",
                    *("", self.differences(place, name), ""),
                ]
            for title, text in (
                ("Soft-to-hard gap: loss", self.figures(place, _loss_gap, "+.4f")),
                ("Soft-to-hard gap: weights", self.figures(place, _weight_gap, ".4f")),
                ("Seconds a step", self.figures(place, _step_time, ".3f")),
                ("Size", self.sizes(place)),
                ("Ablations of GQ", self.ablation_table(place)),
            ):
                lines += [f"### {title}", "", text, ""] if text else []
        return "\n".join(lines).rstrip() + "\n"


_READING = """\
Word error rates are in percent, on connected digits: they compare methods with one
another on small models, and say nothing of other tasks. Brackets are {level:g}%
bootstrap intervals over speakers and recordings ({samples} samples; few speakers, so
they are if anything too narrow); errors are summed over the seeds (x3: three seeds), so
how much a seed matters is not in them. Differences are paired: same draws, same seeds;
"better" and "worse" where the interval leaves out 0, else "tied". Bits in the heads of
the columns, 32 is float. "{all}" sums the test sets.

The loss gap is the development loss of the hardened model minus that of the forward
pass in training at its last step; the weights' is ||soft - hard|| / ||hard|| at the
last temperature, also of methods whose forward pass is hard. Times are of one thread,
and depend on what else ran.""".replace("{all}", "all sets")


def _key(cell: Cell) -> Key:
    return Key(*(getattr(cell, name) for name in Key._fields))


def _place(place: Tuple[str, str]) -> str:
    return f"{place[0]}, {place[1]} weights"


def _set_name(name: str) -> str:
    return "all sets" if name == ALL else name


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + (" and " if len(words) > 1 else "") + words[-1]


def _distinct(values: Iterable[str]) -> List[str]:
    return sorted(set(values))


def _difference(found: Difference) -> str:
    return (
        f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}] "
        f"{found.p_text.replace(' ', '')} {found.verdict}"
    )


def _loss_gap(record: Record) -> Optional[float]:
    gap = record["gap"] if record["training"] else None
    return None if gap is None else gap["loss_hard"] - gap["loss_trained"]


def _weight_gap(record: Record) -> Optional[float]:
    gap = record["gap"] if record["training"] else None
    return None if gap is None else gap["weights"]


def _step_time(record: Record) -> Optional[float]:
    training = record["training"]
    return None if training is None else training["seconds_a_step"]


def _versions(record: Record) -> str:
    found = record["machine"]["versions"]
    names = [f"{name} {found[name]}" for name in sorted(found) if found[name]]
    return ", ".join([f"Python {record['machine']['python']}", *names])


def _recipe(record: Record) -> str:
    config = record["config"]
    changes = ", ".join(
        f"{k}: {v}" if not isinstance(v, dict) else f"{k}: {_inline(v)}"
        for k, v in config["changes"].items()
    )
    return (
        f"`conf/{config['base']}` with `{changes}`; greedy {config['decoding']} "
        f"decoding; float {config['start_epochs']} epochs"
    )


def _inline(values: Dict) -> str:
    return "{" + ", ".join(f"{k}: {v}" for k, v in values.items()) + "}"


def write(
    grid: Grid, results: Results, output: Path, plots: Optional[Path], command: str
) -> List[Path]:
    """Write RESULTS.md and the plots; returns the files written."""
    report = Report(grid, results)
    drawn: List[Tuple[str, Path]] = []
    if plots is not None:
        import grid_plot

        drawn = grid_plot.plot(report, plots)
    links = [
        (title, Path(os.path.relpath(path, output.parent)).as_posix())
        for title, path in drawn
    ]
    write_text(output, report.document(command, links))
    return [output, *(path for _, path in drawn)]
