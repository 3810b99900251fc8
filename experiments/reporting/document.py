"""RESULTS.md of the grid and the long tables, from its result files alone."""

import os
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple

from espnet_gq.files import write_text
from experiments.cells import Grid
from experiments.reporting import plot
from experiments.reporting.results import ALL, LEVEL, SAMPLES, Record, Results
from experiments.reporting.tables import (
    Place,
    Tables,
    loss,
    loss_gap,
    place_name,
    set_name,
    step_time,
    weight_gap,
)
from experiments.reporting.verdict import Lines, Verdict

_READING = """\
Word error rates are in percent, on connected digits: they compare methods with one
another on small models and say nothing about other tasks. Brackets are {level:g}%
bootstrap intervals over speakers and recordings ({samples} samples; with so few
speakers they are, if anything, too narrow). "x3" sums three seeds; a rate without it
comes from one seed, and how much another seed would change it is not in its interval.
Differences are paired (same draws, same seeds) and in points: "better" and "worse"
where the interval excludes 0, else "tied". All baselines train from the same float
model with the same data, steps and scales; Lloyd-Max's penalty stands in for that of
S8BQAT, which is not known to us. Columns are bits, 32 is float."""

_DETAILS = """\
The development loss is that of the hardened model; the loss gap is that loss minus the
loss of the training's forward pass at its last step; the gap of the weights is
||soft - hard|| / ||hard|| at the last temperature, also for methods whose forward pass
is hard. Times are of one thread and depend on what else ran on the machine."""


class Report:
    """The documents.

    Args:
        grid: The declaration: titles, order, and what is missing.
        results: The result files.
    """

    def __init__(self, grid: Grid, results: Results):
        self.tables = Tables(grid, results)
        self.verdict = Verdict(self.tables)

    # --- RESULTS.md -------------------------------------------------------------------

    def document(
        self, command: str, details: str, plots: Sequence[Tuple[Place, str]]
    ) -> str:
        """Return RESULTS.md.

        Args:
            command: What makes it.
            details: What prints the long tables.
            plots: Architecture and start, and relative path, of each plot.
        """
        pictures = dict(plots)
        lines = ["# Results", ""]
        lines += [f"Made by `{command}`; not written by hand."]
        lines += [f"`{details}` prints what is left out here: single test sets, paired"]
        lines += ["differences, seeds, losses, times, sizes, ablations, commands.", ""]
        lines += [_READING.format(samples=SAMPLES, level=100 * LEVEL), ""]
        lines += ["## Verdict", "", *self.verdict.lines(), ""]
        for place in self.tables.places:
            name = place_name(place)
            lines += [f"## {name}, WER on all sets", ""]
            lines += [self.tables.error_rates(place, ALL), ""]
            if place in pictures:
                lines += [f"![{name}]({pictures[place]})", ""]
        lines += ["## What is missing", "", *self.verdict.missing(), ""]
        lines += ["## What was run", "", *self.what_was_run()]
        return "\n".join(lines) + "\n"

    def what_was_run(self) -> Lines:
        """Return data, training, decoding, machines and versions."""
        records = self.tables.records()
        sets = [
            f"`{name}` ({found['utterances']} utterances, {found['words']} digits)"
            for name, found in records[0]["sets"].items()
        ]
        lines = [f"- Test sets: {', '.join(sets)}."]
        lines += [
            f"- `{name}` is left out: not every result has it."
            for name in self.tables.results.left_out
        ]
        for architecture in dict.fromkeys(a for a, _ in self.tables.places):
            mine = [r for r in records if r["architecture"] == architecture]
            steps = _distinct(
                str(r["training"]["steps"]) for r in mine if r["training"]
            )
            words = "; ".join(_distinct(map(_recipe, mine)))
            lines.append(
                f"- {architecture}: {words}; {' or '.join(steps) or 'no'} optimizer "
                "steps per cell."
            )
        where = [_described(records, n)[0] for n in ("Machines", "Versions", "Dates")]
        return [*lines, f"- {'; '.join(where)}."]

    # --- the long tables --------------------------------------------------------------

    def details(self, places: Sequence[Place]) -> str:
        """Return every table of some architectures and starts."""
        records = self.tables.records()
        lines = [_DETAILS, "", self.tables.starts(), "", *self.commands(), ""]
        lines += [f"- {words}." for words in _described(records, *_DESCRIBED)] + [""]
        for place in places:
            lines += [f"## {place_name(place)}", "", *self._tables_of(place)]
        return "\n".join(lines).rstrip() + "\n"

    def _tables_of(self, place: Place) -> Lines:
        tables, lines = self.tables, []
        for name in reversed(tables.sets):
            rates = tables.error_rates(place, name)
            lines += [f"### WER, {set_name(name)}", "", rates, ""]
        for name in reversed(tables.sets):
            differences = tables.differences(place, name)
            lines += [f"### GQ minus others, {set_name(name)}, points"]
            lines += ["", differences, ""]
        for title, text in (
            ("WER of each seed, all sets", tables.by_seed(place)),
            ("Development loss, hardened", tables.figures(place, loss, ".3f")),
            ("Soft-to-hard gap: loss", tables.figures(place, loss_gap, "+.4f")),
            ("Soft-to-hard gap: weights", tables.figures(place, weight_gap, ".4f")),
            ("Seconds per step", tables.figures(place, step_time, ".3f")),
            ("Size", tables.sizes(place)),
            ("Ablations of GQ", tables.ablation_table(place)),
        ):
            lines += [f"### {title}", "", text, ""] if text else []
        return lines

    def commands(self) -> Lines:
        """Return the commands of one cell that trains, or of the first."""
        records = self.tables.records()
        trained = [r for r in records if r["training"] and r["method"] == "gq"]
        shown = (trained or records)[0]
        return [
            f"The commands of {shown['cell']} as they were run, at revision "
            f"{shown['commit']} and in the recipe's folder; every result file has its "
            "own:",
            "",
            *(f"    {command}" for command in shown["commands"]),
        ]


def _distinct(values: Iterable[str]) -> List[str]:
    return sorted(set(values))


def _described(records: Sequence[Record], *names: str) -> Lines:
    """Return what the records have of some keys of _DESCRIBED."""
    found = {name: _distinct(map(_DESCRIBED[name], records)) for name in names}
    return [f"{name}: {', '.join(values)}" for name, values in found.items()]


def _versions(record: Record) -> str:
    found = record["machine"]["versions"]
    names = [f"{name} {found[name]}" for name in sorted(found) if found[name]]
    return ", ".join([f"Python {record['machine']['python']}", *names])


def _digests(record: Record) -> str:
    sets = record["sets"].items()
    return ", ".join(f"{name} {found['digest']}" for name, found in sets)


_DESCRIBED: Dict[str, Callable[[Record], str]] = {
    "Data options": lambda r: ", ".join(map(str, r["config"]["data"].values())),
    "Data": _digests,
    "Machines": lambda r: f"{r['machine']['cpu']}, {r['machine']['threads']} thread",
    "Versions": _versions,
    "Revisions": lambda r: r["commit"] or "unknown",
    "Dates": lambda r: r["date"],
}


def _recipe(record: Record) -> str:
    config = record["config"]
    return (
        f"`conf/{config['base']}` with `{_inline(config['changes'])[1:-1]}`; greedy "
        f"{config['decoding']} decoding; float {config['start_epochs']} epochs"
    )


def _inline(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    return "{" + ", ".join(f"{k}: {_inline(v)}" for k, v in value.items()) + "}"


def write(
    report: Report,
    output: Path,
    plots: Optional[Path],
    command: str,
    details: str,
) -> List[Path]:
    """Write RESULTS.md and the plots; returns the files written."""
    drawn = [] if plots is None else plot.plot(report.tables, plots)
    links = [
        (place, Path(os.path.relpath(path, output.parent)).as_posix())
        for place, path in drawn
    ]
    write_text(output, report.document(command, details, links))
    return [output, *(path for _, path in drawn)]
