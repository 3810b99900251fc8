"""RESULTS.md of the grid, from its result files alone."""

import os
from pathlib import Path
from typing import Dict, Iterable, List, Optional, Sequence, Tuple

from grid_cells import Grid
from grid_results import LEVEL, SAMPLES, Record, Results
from grid_tables import (
    Lines,
    Tables,
    loss,
    loss_gap,
    place_name,
    set_name,
    step_time,
    weight_gap,
)

from espnet_gq.files import write_text

_READING = """\
Word error rates are in percent, on connected digits: they compare methods with one
another on small models, and say nothing of other tasks. Brackets are {level:g}%
bootstrap intervals over speakers and recordings ({samples} samples; few speakers, so
they are if anything too narrow); errors are summed over the seeds (x3: three seeds), so
how much a seed matters is not in them: see "WER of each seed". Differences are paired:
same draws, same seeds; "better" and "worse" where the interval leaves out 0, else
"tied". Bits in the heads of the columns, 32 is float. "{all}" sums the test sets.

The S8BQAT-like penalty is ours, since theirs is not known to us; how strong it is
counts.

The development loss is that of the hardened model; the loss gap is it minus that of
the forward pass in training at its last step; the weights' is ||soft - hard|| /
||hard|| at the last temperature, also of methods whose forward pass is hard. Times are
of one thread, and depend on what else ran.""".replace("{all}", "all sets")


class Report(Tables):
    """The document.

    Args: see `Tables`.
    """

    def what_was_run(self) -> Lines:
        """Return data, training, decoding, machines and versions."""
        records = self.records()
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
        records = self.records()
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
            lines += [f"## {place_name(place)}", ""]
            for name in reversed(self.sets):
                rates = self.error_rates(place, name)
                lines += [f"### WER, {set_name(name)}", "", rates, ""]
            for name in reversed(self.sets):
                lines += [
                    f"### GQ minus its peers, {set_name(name)}, points",
                    *("", self.differences(place, name), ""),
                ]
            for title, text in (
                ("WER of each seed, all sets", self.by_seed(place)),
                ("Development loss, hardened", self.figures(place, loss, ".3f")),
                ("Soft-to-hard gap: loss", self.figures(place, loss_gap, "+.4f")),
                ("Soft-to-hard gap: weights", self.figures(place, weight_gap, ".4f")),
                ("Seconds a step", self.figures(place, step_time, ".3f")),
                ("Size", self.sizes(place)),
                ("Ablations of GQ", self.ablation_table(place)),
            ):
                lines += [f"### {title}", "", text, ""] if text else []
        return "\n".join(lines).rstrip() + "\n"


def _distinct(values: Iterable[str]) -> List[str]:
    return sorted(set(values))


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
