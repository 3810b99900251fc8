"""Bit widths of a mixed-precision cell, from the sensitivity of its float start."""

import os
from pathlib import Path

import yaml

from benchmarks.espnet_models import PARTS
from experiments.cells import GQConfs
from experiments.running.place import Workplace

UTTERANCES = 60
"""Number of development utterances for the sensitivity, evenly spaced."""


def allocation(
    place: Workplace, architecture: str, start: str, effective_bits: float
) -> GQConfs:
    """Return the gq_conf of each part of the model for an average number of bits.

    The sensitivity is measured once per float start.

    Raises:
        StepFailed: If a command fails.
    """
    checkpoint = place.start(architecture, start)
    name = f"{architecture}-{start}"
    measured = checkpoint.with_name(f"{name}.sensitivity.json")
    chosen = checkpoint.with_name(f"{name}.{effective_bits:g}b.yaml")
    with place.measuring:
        place.call(
            place.tool(
                "sensitivity",
                *("--asr_train_config", f"exp/{architecture}-start/config.yaml"),
                *("--asr_model_file", os.path.relpath(checkpoint, place.recipe)),
                *("--data_path_and_name_and_type", "data/dev/wav.scp,speech,sound"),
                *("--data_path_and_name_and_type", "data/dev/text,text,text"),
                *("--num_utterances", str(UTTERANCES), "--output", str(measured)),
            ),
            place.logs / f"{name}.sensitivity.log",
        )
        place.call(
            place.tool(
                *("allocate", str(measured), "--output", str(chosen)),
                *("--effective_bits", f"{effective_bits:g}"),
            ),
            place.logs / f"{name}.{effective_bits:g}b.log",
        )
    return read(chosen)


def read(path: Path) -> GQConfs:
    """Read the gq_conf of each part from a file of espnet_gq.bin.allocate."""
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    confs = {part: (found.get(f"{part}_conf") or {}).get("gq_conf") for part in PARTS}
    return {part: conf for part, conf in confs.items() if conf is not None}
