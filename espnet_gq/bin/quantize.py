"""Make a trained float model smaller, without training it.

Without data every weight becomes its nearest centroid on a codebook that is fitted per
output channel. With --data of some minutes the weights of each layer are chosen by the
error that they make on what the layer really computes. The output is a zip: the packed
model, a card, and the same weights as float (float.zip) for plain ESPnet.
"""

import argparse
import shutil
import sys
from pathlib import Path
from typing import Iterator, List, Optional, Sequence, Tuple

from espnet_gq.bin._common import (
    Parser,
    execute,
    fail,
    number,
    read_config,
    size,
    utterances,
)
from espnet_gq.calibration.codebooks import (
    fit_codebook,
    nearest,
    relative_error,
    weights,
)
from espnet_gq.calibration.plan import Plan, plan_of, plan_within
from espnet_gq.calibration.sequential import PASSES, Calibration
from espnet_gq.espnet.quantizing.data import Recordings, rate_of, read_recordings
from espnet_gq.espnet.quantizing.items import (
    Items,
    forward_of,
    make_items,
    make_text_items,
)
from espnet_gq.espnet.quantizing.model import FloatModel, checksum, load_float
from espnet_gq.espnet.quantizing.result import (
    Quantized,
    Result,
    by_parameter,
    collect,
    table,
    write_checkpoint,
    write_zip,
)
from espnet_gq.espnet.quantizing.scoring import (
    error_units,
    perplexity,
    read_options,
    wer_table,
)
from espnet_gq.nn import GQConfig
from espnet_gq.nn.finite import check_finite

BITS = 5
INTERRUPTED = 130


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser("quantize", __doc__)
    parser.add_argument(
        "model",
        nargs="+",
        metavar="MODEL",
        help="a float model: a zip, a folder (an unpacked zip, or a training's output),"
        " config.yaml followed by its checkpoint, or a name on the hub (user/model)",
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="the zip to write"
    )
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument(
        "--bits",
        type=int,
        choices=range(1, 9),
        metavar="1-8",
        help=f"bits of every weight; {BITS} where no budget is given",
    )
    budget.add_argument(
        "--size",
        type=size,
        help="size of the packed checkpoint, such as 80MB; chooses a width per tensor",
    )
    budget.add_argument(
        "--effective-bits",
        "--effective_bits",
        type=number,
        help="mean bits of a quantized weight, such as 4.2; chooses a width per tensor",
    )
    budget.add_argument(
        "--gq-conf",
        "--gq_conf",
        type=Path,
        help="YAML file with a gq_conf whose patterns are names inside the whole model",
    )
    calibration = parser.add_argument_group("calibration")
    calibration.add_argument(
        "--data",
        nargs="+",
        type=Path,
        metavar="DATA",
        help="some minutes of speech: a data directory, a wav.scp or a folder of audio "
        "files; then, where there are transcripts, their file (text). For a language "
        "model: a file of text",
    )
    calibration.add_argument(
        "--num-utterances",
        "--num_utterances",
        type=utterances,
        default=200,
        help="take that many utterances, spread evenly over the data",
    )
    calibration.add_argument(
        "--passes",
        choices=PASSES,
        default=PASSES[0],
        help="a pass over the data for each layer, or for each block of the model: "
        "fewer passes, but a block's layers do not see each other quantized",
    )
    calibration.add_argument(
        "--inference-config",
        "--inference_config",
        type=Path,
        help="decoding configuration, for the word error rates that are measured where "
        "there are transcripts",
    )
    calibration.add_argument(
        "--work",
        type=Path,
        help="folder of the state that an interrupted run goes on from; default: "
        "OUTPUT.calibration, which is removed at the end",
    )
    parser.add_argument("--cachedir", help="where zips are unpacked, downloads kept")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        help="also write a checkpoint that a quantization-aware training can start "
        "from (--pretrained_model), with its configuration beside it",
    )
    return parser


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _read_conf(path: Path) -> GQConfig:
    conf = read_config(path)
    try:
        return GQConfig.from_dict(conf["gq_conf"] if "gq_conf" in conf else conf)
    except ValueError as e:
        raise ValueError(f"{path}: {e}") from None


def make_plan(args: argparse.Namespace, found: FloatModel) -> Plan:
    """Return what each tensor gets.

    Raises:
        OSError, ValueError: If the configuration or the budget cannot be used.
    """
    if args.gq_conf is not None:
        return plan_of(_read_conf(args.gq_conf), found.targets)
    if args.size is None and args.effective_bits is None:
        config = GQConfig(bits=args.bits or BITS, granularity="channel")
        return plan_of(config, found.targets)
    names = {target.name for target in found.targets}
    state = found.model.state_dict()
    try:
        return plan_within(
            found.targets,
            found.model.get_parameter,
            {k: tensor for k, tensor in state.items() if k not in names},
            effective_bits=args.effective_bits,
            max_size=args.size,
            progress=_log,
        )
    except ValueError as e:
        option = "--size" if args.size is not None else "--effective-bits"
        message = str(e).replace("max_size", option).replace("effective_bits", option)
        raise ValueError(message) from None


def data_free(found: FloatModel, plan: Plan) -> Iterator[Tuple[str, Quantized]]:
    """Yield each tensor with the nearest centroids of a codebook fitted to it."""
    gates = {target.name: target.gates for target in found.targets}
    names = by_parameter(found, list(plan.options))
    for position, name in enumerate(names, 1):
        w = found.model.get_parameter(name).detach()
        check_finite([(name, w)])
        stored = fit_codebook(w, plan.options[name], gates[name])
        indices = nearest(w, stored)
        error = relative_error(w, weights(indices, stored))
        _log(f"[{position}/{len(names)}] {name}: {stored.bits} bits, error {error:.4f}")
        found.forget(name)
        yield name, Quantized(stored, indices, error)


def run(args: argparse.Namespace) -> None:
    """Quantize, write and print.

    Raises:
        OSError, ValueError: If an input cannot be used.
    """
    if args.output.suffix != ".zip":
        raise ValueError(f"--output {args.output}; allowed: a name with .zip")
    source = args.model[0] if len(args.model) == 1 else args.model
    found = load_float(source, args.cachedir)
    recordings, items = _calibration_data(args, found)
    plan = make_plan(args, found)
    notes = _notes(args)
    if items is None:
        result = collect(found, plan, data_free(found, plan))
    else:
        length = f", {items.seconds / 60:.1f} minutes" if items.seconds else ""
        notes += (
            f" Calibrated on {len(items.items)} utterances{length}; labels: "
            f"{items.labels}. Output error: of what a layer computes on them, "
            "relative; nearest: the same of each weight's nearest centroid."
        )
        result = collect(found, plan, calibrated(args, found, plan, items))
    write(args, found, plan, result, notes, recordings)
    if found.task.name == "lm" and items is not None:
        before, after = (perplexity(s, items) for s in (found.pair, args.output))
        print(f"perplexity on the calibration text: {before:.3f}, {after:.3f} after")


def _calibration_data(
    args: argparse.Namespace, found: FloatModel
) -> Tuple[Optional[Recordings], Optional[Items]]:
    """Return the recordings, if any, and what the model computes on, if anything."""
    if args.data is None:
        return None, None
    if found.task.name == "lm":
        if len(args.data) > 1 or not args.data[0].is_file():
            raise ValueError(
                f"--data {' '.join(map(str, args.data))}; allowed for a language "
                "model: a file with lines of an utterance and its text"
            )
        return None, make_text_items(found, args.data[0], args.num_utterances)
    if len(args.data) > 2:
        raise ValueError(
            f"--data has {len(args.data)} paths; allowed: DATA, or DATA TEXT"
        )
    data, text = (*args.data, None)[:2]
    rate = rate_of(found.config)
    recordings = read_recordings(data, text, rate, args.num_utterances)
    return recordings, make_items(found, recordings)


def calibrated(
    args: argparse.Namespace,
    found: FloatModel,
    plan: Plan,
    items: Items,
) -> Iterator[Tuple[str, Quantized]]:
    """Yield each tensor with the centroids chosen on the calibration data."""
    folder = _work(args)
    names = by_parameter(found, list(plan.options))
    run = Calibration(
        found.model,
        found.targets,
        plan,
        forward_of(found),
        items.items,
        folder,
        {"model": checksum(found.checkpoint), "data": items.checksum()},
        passes=args.passes,
        progress=_log,
    )
    chosen = run.run()
    original = load_float(found.pair)
    for name in names:
        one = chosen[name]
        w = original.model.get_parameter(name)
        error = relative_error(w, weights(one.indices, one.stored))
        original.forget(name)
        yield name, Quantized(
            one.stored, one.indices, error, one.how, one.error, one.nearest_error
        )


def _work(args: argparse.Namespace) -> Path:
    return args.work or args.output.with_suffix(".calibration")


def write(
    args: argparse.Namespace,
    found: FloatModel,
    plan: Plan,
    result: Result,
    notes: str,
    recordings: Optional[Recordings],
) -> None:
    """Write the zip and what else is asked for; print the table."""
    float_bytes = found.checkpoint.stat().st_size
    packed_bytes = result.packed["data"].numel() + result.packed["header"].numel()
    text = table(result, packed_bytes, float_bytes)
    found.model.to("meta")  # its weights are not needed any more
    results = f"# Quantization\n\n{text}\n\n{notes}\n"
    if args.checkpoint is not None:
        config = write_checkpoint(found, plan, result.packed, args.checkpoint)
        print(f"wrote {args.checkpoint} and {config}")
    write_zip(found, plan, result.packed, args.output, results)
    print(f"{text}\n\n{notes}")
    if recordings is not None and found.task.name == "st":
        _log("no word error rates: the task st translates")
    elif recordings is not None and recordings.text:
        options = {}
        if args.inference_config is not None:
            options = read_options(args.inference_config)
        _log("word error rates ...")
        before = error_units(found.pair, recordings, options)
        after = error_units(args.output, recordings, options)
        print(f"\n{wer_table(before, after, 'the calibration data')}\n")
    if args.data is not None and args.work is None:
        shutil.rmtree(_work(args), ignore_errors=True)
    print(f"wrote {args.output}: {args.output.stat().st_size:,} bytes")


def _notes(args: argparse.Namespace) -> str:
    """Return what has to be said of the figures."""
    lines: List[str] = ["Weight error: ||w - hard|| / ||w||."]
    if args.size is not None or args.effective_bits is not None:
        lines.append(
            "The widths were chosen by weight error, not by what the model computes: "
            "espnet-gq sensitivity measures that, on data."
        )
    return " ".join(lines)


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    parser = get_parser()
    try:
        execute(parser, run, cmd)
    except KeyboardInterrupt:
        fail(parser.prog, "interrupted; the same command continues", INTERRUPTED)


if __name__ == "__main__":
    main()
