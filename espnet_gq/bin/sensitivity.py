"""Measure the cost of quantizing each weight tensor of a trained model alone.

For every tensor that a gq_conf can quantize and every bit width: the difference of the
mean validation loss after post-training quantization of that tensor, all else float,
and a second-order estimate of it. The file is written after each tensor; an
interrupted run continues. espnet-gq allocate chooses bit widths from it.
"""

import argparse
import hashlib
import math
import sys
import time
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

from espnet_gq.analysis.sensitivity import (
    Sensitivity,
    TensorCosts,
    mean_loss,
    measure,
    unquantized_size,
)
from espnet_gq.bin._common import Parser, execute, fail, utterances
from espnet_gq.espnet.inference.validation import PARTS, Validation, load_validation

INTERRUPTED = 130
"""Exit status after SIGINT, by the convention of shells."""


def _triple(text: str) -> Tuple[str, str, str]:
    parts = tuple(part.strip() for part in text.split(","))
    if len(parts) != 3 or not all(parts):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not PATH,NAME,TYPE such as dump/raw/dev/wav.scp,speech,sound"
        )
    return parts


def _widths(text: str) -> List[int]:
    try:
        bits = sorted({int(part) for part in text.split(",")})
    except ValueError:
        bits = []
    if not bits or bits[0] < 1 or bits[-1] > 8:
        raise argparse.ArgumentTypeError(
            f"{text!r} are not bit widths; allowed: numbers from 1 to 8 such as 2,4,8"
        )
    return bits


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser("sensitivity", __doc__)
    parser.add_argument("--asr_task", choices=list(PARTS), default="asr")
    parser.add_argument(
        "--asr_train_config",
        "--train_config",
        help="config.yaml of the training; default: config.yaml beside the checkpoint",
    )
    parser.add_argument(
        "--asr_model_file",
        "--model_file",
        required=True,
        help="float checkpoint, or one of a GQ training, whose weights are taken "
        "before quantization",
    )
    parser.add_argument(
        "--data_path_and_name_and_type",
        type=_triple,
        action="append",
        required=True,
        metavar="PATH,NAME,TYPE",
        help="as ESPnet's option; twice: dump/raw/dev/wav.scp,speech,sound and "
        "dump/raw/dev/text,text,text",
    )
    parser.add_argument(
        "--shape_file", help="its first column names the utterances to take"
    )
    parser.add_argument("--bits", type=_widths, default="1,2,3,4,5,6,8")
    parser.add_argument(
        "--num_utterances",
        type=utterances,
        default=200,
        help="number of utterances, spread evenly over the set",
    )
    parser.add_argument(
        "--batch_size", type=utterances, default=8, help="utterances in a batch"
    )
    parser.add_argument("--output", type=Path, default=Path("sensitivity.json"))
    return parser


def _begin(args: argparse.Namespace, validation: Validation) -> Sensitivity:
    """Return the record of the output file where it exists, or a new one.

    Raises:
        ValueError: If the file is of another measurement, or the loss is not finite.
    """
    with open(args.asr_model_file, "rb") as f:
        checksum = hashlib.file_digest(f, "sha256").hexdigest()
    record = Sensitivity(
        task=args.asr_task,
        model=checksum,
        data={
            "files": [",".join(t) for t in args.data_path_and_name_and_type],
            "sha256": validation.checksum,
            "batch_size": args.batch_size,
        },
        bits=args.bits,
        base_loss=math.nan,
        utterances=len(validation.utterances),
        unquantized={},
        unmeasured=len(validation.names),
    )
    if args.output.exists():
        begun = Sensitivity.read(args.output)
        begun.check_continues(record, args.output)
        return begun
    if not validation.names:
        raise ValueError(
            f"{args.asr_model_file} has no weights that a gq_conf can quantize"
        )
    record.base_loss = mean_loss(validation.loss, validation.batches)
    if not math.isfinite(record.base_loss):
        raise ValueError(
            f"the loss of {args.asr_model_file} is {record.base_loss} before anything "
            "is quantized; allowed: utterances that are longer than their text"
        )
    record.unquantized = unquantized_size(validation.model, validation.names, args.bits)
    record.write(args.output)
    return record


def _line(tensor: TensorCosts) -> str:
    costs = (f"{b}: {cost.loss:+.3g}" for b, cost in sorted(tensor.costs.items()))
    return f"{tensor.name}  {', '.join(costs)}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes}:{seconds:02} min"


def run(args: argparse.Namespace) -> None:
    """Measure the tensors that are missing in the output file.

    Raises:
        OSError, ValueError: If an input cannot be used.
    """
    config = args.asr_train_config
    if config is None:
        config = Path(args.asr_model_file).with_name("config.yaml")
    validation = load_validation(
        args.asr_task,
        config,
        args.asr_model_file,
        args.data_path_and_name_and_type,
        args.shape_file,
        args.num_utterances,
        args.batch_size,
    )
    record = _begin(args, validation)
    total, there = len(validation.names), len(record.tensors)
    print(
        f"{record.utterances} utterances, loss {record.base_loss:.4f}; {total} tensors "
        f"at {len(record.bits)} bit widths" + (f", {there} done before" * (there > 0))
    )
    start = time.monotonic()
    done = {tensor.name for tensor in record.tensors}
    for tensor in measure(
        validation.model,
        [name for name in validation.names if name not in done],
        record.bits,
        record.base_loss,
        validation.loss,
        validation.batches,
        validation.utterances,
    ):
        record.tensors.append(tensor)
        record.unmeasured -= 1
        record.write(args.output)
        number = len(record.tensors)
        left = (time.monotonic() - start) / (number - there) * record.unmeasured
        print(
            f"[{number}/{total}, {_duration(left)} left] {_line(tensor)}",
            file=sys.stderr,
            flush=True,
        )
    print(f"wrote {args.output}: {total} tensors")


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    parser = get_parser()
    try:
        execute(parser, run, cmd)
    except KeyboardInterrupt:
        fail(parser.prog, "interrupted; the same command continues", INTERRUPTED)


if __name__ == "__main__":
    main()
