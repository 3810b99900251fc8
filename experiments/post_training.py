"""Post-training quantization, method beside method: word error rates without training.

    python -m experiments.post_training [--architecture conformer]
    python -m experiments.post_training --work DIR [--architecture conformer]

The first command prints the tables of the stored results, the second one measures what
is missing before. DIR is the folder of a run of the grid (`python -m experiments.grid
run --work DIR --cells "*-trained-float"` makes what is needed). Every method starts
from the same float model and has one scale per output channel; calibration data are
utterances of the training set, whose transcripts are not used. The result is one file
for all cells. The tables also have the grid's results of training at the same widths.
"""

import argparse
import copy
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import torch

from benchmarks.options import new_parser
from benchmarks.report import machine
from espnet_gq.calibration.codebooks import fit_codebook, nearest, weights
from espnet_gq.calibration.plan import plan_of
from espnet_gq.calibration.second_order import Method
from espnet_gq.calibration.sequential import Calibration
from espnet_gq.espnet.quantizing.data import rate_of, read_recordings
from espnet_gq.espnet.quantizing.items import Items, forward_of, make_items
from espnet_gq.espnet.quantizing.model import FloatModel, load_float
from espnet_gq.files import write_json
from espnet_gq.nn import GQConfig
from espnet_gq.packing import save
from experiments.cells import Grid, GridError
from experiments.reporting.post_training import Comparison, read_trained
from experiments.running.cell import commit
from experiments.running.evaluate import decoder, score, speech2text

GRID_RESULTS = Path(__file__).with_name("results")
RESULTS = GRID_RESULTS / "post_training"
PLAIN = Method(tune=False, sweeps=0, bias=False)


@dataclass(frozen=True)
class Peer:
    """A method: its codebooks, how weights are chosen (None: the nearest centroid)."""

    title: str
    codebook: str
    method: Optional[Method] = None
    norms: bool = False


PEERS = {
    "uniform": Peer("uniform, nearest", "uniform"),
    "gq": Peer("GQ, nearest (data-free)", "gq"),
    "gptq": Peer("uniform, plain GPTQ", "uniform", PLAIN),
    "uniform_calibrated": Peer("uniform, calibrated", "uniform", Method(), True),
    "gq_calibrated": Peer("GQ, calibrated", "gq", Method(), True),
}


def quantize(found: FloatModel, peer: Peer, bits: int, items: Items) -> None:
    """Quantize a model in place."""
    config = GQConfig(bits=bits, granularity="channel", method=peer.codebook)
    plan = plan_of(config, found.targets)
    if peer.method is None:
        for target in found.targets:
            parameter = found.model.get_parameter(target.name)
            stored = fit_codebook(parameter, plan.options[target.name], target.gates)
            parameter.copy_(weights(nearest(parameter, stored), stored))
        return
    with tempfile.TemporaryDirectory() as folder:
        Calibration(
            *(found.model, found.targets, plan, forward_of(found), items.items),
            *(Path(folder), {}),
            method=peer.method,
            norms=peer.norms,
        ).run()


def measure(
    pair: Tuple[str, str],
    decoding: str,
    peer: Optional[Peer],
    bits: int,
    items: Optional[Items],
    sets: List[Path],
) -> Dict[str, Any]:
    """Return the errors of a method; of the float model where there is none."""
    found = load_float(pair)
    started = time.process_time()
    if peer is not None:
        assert items is not None
        quantize(found, peer, bits, items)
    seconds = time.process_time() - started
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "model.pth"
        save(found.model.state_dict(), checkpoint)
        built = speech2text(Path(pair[0]), checkpoint, decoding)
        decode = decoder(built, decoding)
        scores = {s.name: score(decode, s, Path(folder) / s.name) for s in sets}
    return {"cpu_seconds": round(seconds, 1), "sets": scores}


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = new_parser(__doc__)
    add = parser.add_argument
    add(
        "--work",
        type=Path,
        help="folder of a run of the grid; measures what is missing",
    )
    add("--architecture", default="conformer", choices=list(Grid().architectures))
    add("--bits", type=int, nargs="+", default=[8, 6, 5, 4, 3, 2])
    add("--methods", nargs="+", choices=PEERS, default=list(PEERS))
    add("--utterances", type=int, default=60, help="how many to calibrate on")
    add("--output", type=Path, help="default: results/post_training/ARCHITECTURE.json")
    add("--trained", type=Path, default=GRID_RESULTS, help="results of the grid")
    return parser


def text(record: Dict[str, Any], architecture: str, trained: Path) -> str:
    """Return the tables of a record, with the grid's results of training beside it."""
    widths = sorted({int(name.rsplit("-", 1)[1]) for name in record["cells"]})
    beside = read_trained(trained, architecture, widths, record)
    titles = {name: peer.title for name, peer in PEERS.items()}
    return Comparison(record, titles, beside).text()


def read(path: Path) -> Dict[str, Any]:
    """Return the stored record; a new one if there is no file."""
    if not path.exists():
        return {"benchmark": "post_training", "cells": {}}
    return json.loads(path.read_text(encoding="utf-8"))


def check_same(record: Dict[str, Any], number: int, found: Dict[str, Any]) -> None:
    """Check that a record can go on with a float model.

    Args:
        record: The record.
        number: Number of the calibration utterances.
        found: Result of the float model.

    Raises:
        GridError: If the record has another float model, test set or number.
    """
    errors = [
        {name: (one["digest"], one["units"]) for name, one in result["sets"].items()}
        for result in (record.get("float", found), found)
    ]
    if errors[0] != errors[1]:
        raise GridError(
            "the float model does not make the errors of the stored one; allowed: its "
            "own --output, for all cells"
        )
    if record.get("utterances", number) != number:
        raise GridError(
            f"calibration on {number} utterances, the stored cells on "
            f"{record['utterances']}; allowed: the same number, or another --output"
        )


def run(args: argparse.Namespace, output: Path) -> None:
    """Measure the cells that have no result; write the record after each one."""
    work, record = args.work.absolute(), read(output)
    given = Grid().architectures[args.architecture]
    os.chdir(work / "recipe")
    pair = (
        f"exp/{args.architecture}-start/config.yaml",
        str(work / f"starts/{args.architecture}-trained.pth"),
    )
    sets = [Path("data/test_clean"), Path("data/test_noisy")]
    found = load_float(pair)
    recordings = read_recordings(
        Path("data/train/wav.scp"), None, rate_of(found.config), args.utterances
    )
    items = make_items(found, recordings)
    measured = measure(pair, given.decoding, None, 32, None, sets)
    check_same(record, len(items.items), measured)
    figures = (work / f"starts/{args.architecture}-trained.json").read_text()
    record = {"float": measured, **record, "utterances": len(items.items)}
    record["start_figures"] = json.loads(figures)
    for bits in args.bits:
        for name in args.methods:
            key = f"{name}-{bits}"
            if key in record["cells"]:
                continue
            record["cells"][key] = cell = measure(
                pair, given.decoding, PEERS[name], bits, copy.deepcopy(items), sets
            )
            record |= {"machine": machine("cpu"), "commit": commit()}
            write_json(output, record)
            errors = {s: c["errors"] for s, c in cell["sets"].items()}
            print(key, errors, cell["cpu_seconds"], flush=True)


def main(cmd: Optional[List[str]] = None) -> None:
    """Measure what is not measured yet, and print the tables."""
    args = get_parser().parse_args(cmd)
    output = (args.output or RESULTS / f"{args.architecture}.json").absolute()
    trained = args.trained.absolute()
    try:
        if args.work is not None:
            run(args, output)
        record = read(output)
        if not record["cells"]:
            raise GridError(f"{output} has no results; allowed: --work DIR makes some")
        print(text(record, args.architecture, trained))
    except GridError as e:
        sys.exit(f"post_training: {e}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
