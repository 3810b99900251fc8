"""Post-training quantization, method beside method: word error rates without training.

    python -m experiments.post_training --work DIR [--architecture conformer]

DIR is the folder of a run of the grid (`python -m experiments.grid run --work DIR
--cells "*-trained-float"` makes what is needed). Every method starts from the same
float model and has one scale per output channel; calibration data are utterances of
the training set, whose transcripts are not used. The result is one file for all cells,
and a table.
"""

import argparse
import copy
import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import torch

from benchmarks.options import new_parser
from benchmarks.report import machine
from espnet_gq.analysis.tables import markdown
from espnet_gq.analysis.wer import bootstrap, paired_bootstrap
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
from experiments.cells import Grid
from experiments.reporting.results import ALL, units
from experiments.running.cell import commit
from experiments.running.evaluate import decoder, score, speech2text

RESULTS = Path(__file__).with_name("results") / "post_training"
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
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--architecture", default="conformer")
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 6, 5, 4, 3, 2])
    parser.add_argument("--methods", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--utterances", type=int, default=150)
    parser.add_argument("--output", type=Path, help="default: results/post_training")
    return parser


def table(record: Dict[str, Any]) -> str:
    """Return the word error rates as Markdown."""
    sets = list(record["float"]["sets"])
    header = ["bits", "method", *(f"WER {s} [95%]" for s in sets), "minus float"]
    rows = [["32", "float", *_rates(record["float"], sets), ""]]
    for name, cell in record["cells"].items():
        method, bits = name.rsplit("-", 1)
        difference = paired_bootstrap(
            units(record["float"], ALL), units(cell, ALL), samples=1000
        )
        rows.append(
            [
                *(bits, PEERS[method].title, *_rates(cell, sets)),
                f"{difference.value:+.2f} [{difference.low:+.2f}, "
                f"{difference.high:+.2f}]",
            ]
        )
    return markdown(header, rows, left=(1,))


def _rates(cell: Dict[str, Any], sets: List[str]) -> List[str]:
    found = []
    for name in sets:
        rate = bootstrap(units(cell, name), samples=1000)
        found.append(f"{rate.value:.2f}% [{rate.low:.2f}, {rate.high:.2f}]")
    return found


def main(cmd: Optional[List[str]] = None) -> None:
    """Measure what is not measured yet, and print the table."""
    args = get_parser().parse_args(cmd)
    output = (args.output or RESULTS / f"{args.architecture}.json").absolute()
    work = args.work.absolute()
    given = Grid().architectures[args.architecture]
    os.chdir(work / "recipe")
    pair = (
        f"exp/{args.architecture}-start/config.yaml",
        str(work / f"starts/{args.architecture}-trained.pth"),
    )
    sets = [p for p in (Path("data/test_clean"), Path("data/test_noisy"))]
    found = load_float(pair)
    record: Dict[str, Any] = {"benchmark": "post_training", "cells": {}}
    if output.exists():
        record = json.loads(output.read_text(encoding="utf-8"))
    recordings = read_recordings(
        Path("data/train/wav.scp"), None, rate_of(found.config), args.utterances
    )
    items = make_items(found, recordings)
    record["utterances"] = len(items.items)
    if "float" not in record:
        record["float"] = measure(pair, given.decoding, None, 32, None, sets)
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
    print(table(record))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
