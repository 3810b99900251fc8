"""Running one cell of the grid: training, measuring, result file."""

import datetime
import json
import os
import re
import shlex
import shutil
import statistics
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Optional

import yaml

from benchmarks import ROOT
from benchmarks.espnet_models import Config, quantized
from espnet_gq.files import write_text
from experiments.cells import Architecture, Cell, GQConfs
from experiments.running.allocation import allocation
from experiments.running.place import StepFailed, Workplace

STEP_TIME = re.compile(r"\d+epoch results: .*?\btrain_time=([0-9.e+-]+)")
STEPS = re.compile(r"\d+epoch results: .*?\btotal_count=(\d+)")


def write_result(path: Path, record: Dict[str, Any]) -> None:
    """Write a result file with one line per key."""
    lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in record.items()]
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def commit() -> Optional[str]:
    """Return the project's git revision; None outside a checkout."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() or None


def run_cell(place: Workplace, cell: Cell) -> Dict[str, Any]:
    """Train and measure a cell, and write its result file; return the result.

    Raises:
        StepFailed: If a command fails.
    """
    given = place.grid.architectures[cell.architecture]
    start = place.start(cell.architecture, cell.start)
    started = time.perf_counter()
    folder = place.recipe / "exp" / cell.name
    record = dict(benchmark="grid", format=1, cell=cell.name, **vars(cell))
    commands: List[str] = []
    trained = place.grid.trains(cell)
    gq_confs = _gq_confs(place, cell)
    if trained:
        config = place.grid.cell_config(cell, gq_confs)
    else:
        config = _untrained(place, cell, gq_confs)
    same = place.write_config(cell.name, config)
    if not same:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    if trained:
        checkpoint = _train(place, cell, given, start, commands)
    else:
        shutil.copyfile(place.conf / f"{cell.name}.yaml", folder / "config.yaml")
        checkpoint = _finished(place, cell) if place.grid.recalibrates(cell) else start
    measuring = place.script(
        "evaluate",
        *("--config", f"exp/{cell.name}/config.yaml"),
        *("--checkpoint", os.path.relpath(checkpoint, place.recipe)),
        *("--decoding", given.decoding, "--folder", f"exp/{cell.name}"),
        *("--test_sets", *place.grid.test_sets),
        *(["--recalibrate"] if place.grid.recalibrates(cell) else []),
    )
    place.call(measuring, place.logs / f"{cell.name}.measure.log")
    commands.append(shlex.join(["python", *measuring[1:]]))
    figures = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    record["config"] = _declared(place, cell, given, gq_confs)
    record["commands"] = commands
    record["start_figures"] = json.loads(start.with_suffix(".json").read_text())
    record["training"] = _training_figures(folder) if trained else None
    record.update(figures)
    record["jobs"] = place.jobs
    record["commit"] = commit()
    record["date"] = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
    record["seconds"] = round(time.perf_counter() - started, 1)
    write_result(place.results / f"{cell.name}.json", record)
    _tidy(folder)
    return record


def _train(
    place: Workplace, cell: Cell, given: Architecture, start: Path, commands: List[str]
) -> Path:
    """Train a cell, or resume its training; return the path of the checkpoint."""
    options = ("--pretrained_model", os.path.relpath(start, place.recipe))
    command = place.training(cell.name, cell.architecture, *options)
    checkpoint = f"exp/{cell.name}/{given.epochs['cell']}epoch.pth"
    if not (place.recipe / checkpoint).exists():
        place.call(command, place.logs / f"{cell.name}.log")
    commands.append("OMP_NUM_THREADS=1 " + shlex.join(command))
    if not (place.recipe / checkpoint).exists():
        raise StepFailed(f"training ended without {checkpoint}")
    return place.recipe / checkpoint


def _gq_confs(place: Workplace, cell: Cell) -> Optional[GQConfs]:
    """Return the gq_conf of each part, with allocated bit widths if declared."""
    gq_confs = place.grid.gq_confs(cell)
    effective_bits = place.grid.ablation(cell).get("effective_bits")
    if effective_bits is None or gq_confs is None:
        return gq_confs
    chosen = allocation(place, cell.architecture, cell.start, effective_bits)
    return {part: {**gq_confs[part], **chosen.get(part, {})} for part in gq_confs}


def _finished(place: Workplace, cell: Cell) -> Path:
    """Return the packed file of the cell without its ablation.

    Raises:
        StepFailed: If that cell has not been run.
    """
    base = replace(cell, ablation=None).name
    packed = place.recipe / f"exp/{base}/packed.pth"
    if not packed.exists():
        raise StepFailed(f"needs the model of {base}, which has not been run")
    return packed


def _untrained(place: Workplace, cell: Cell, gq_confs: Optional[GQConfs]) -> Config:
    """Return the config.yaml of a cell that is not trained."""
    path = place.recipe / f"exp/{cell.architecture}-start/config.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    return config if gq_confs is None else quantized(config, gq_confs)


def _declared(
    place: Workplace, cell: Cell, given: Architecture, gq_confs: Optional[GQConfs]
) -> Dict[str, Any]:
    """Return the declaration of a cell, for its result file."""
    trained = place.grid.trains(cell)
    return dict(
        data=place.grid.data,
        gq_conf=gq_confs,
        start=place.grid.starts[cell.start],
        base=given.config,
        changes=given.changes,
        decoding=given.decoding,
        epochs=given.epochs["cell"] if trained else 0,
        start_epochs=given.epochs["float"],
        training=place.grid.cell_training if trained else None,
    )


def _training_figures(folder: Path) -> Dict[str, Any]:
    """Return the optimizer steps of a training and the median seconds per step."""
    text = "\n".join(
        log.read_text(encoding="utf-8", errors="replace")
        for log in sorted(folder.glob("train*.log"))
    )
    times = [float(t) for t in STEP_TIME.findall(text)]
    counts = [int(n) for n in STEPS.findall(text)]
    return dict(
        steps=max(counts, default=None),
        seconds_a_step=statistics.median(times) if times else None,
    )


def _tidy(folder: Path) -> None:
    """Remove the checkpoints of a finished cell except the packed one."""
    for path in folder.glob("*.pth"):
        if path.name != "packed.pth":
            path.unlink()
