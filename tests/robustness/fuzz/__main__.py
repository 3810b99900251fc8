"""Feed bad inputs of every kind to the project and count how it takes them.

    python -m tests.robustness.fuzz --inputs 1000 \\
        --json tests/robustness/results/fuzz.json

An input is made from a valid one and two numbers (--seed and its own), so that any can
be made again: --kinds "packed file, bytes" --first 17 --inputs 1. It is

    accepted   nothing was wrong with it that matters
    refused    one sentence that names the input
    unclear    refused, but in several lines, at length, or without the input's name
    crash      anything else: another exception, a signal, more than 20 s or 2 GiB

Every input runs in a process that is forked for some dozens of them, so that a signal
ends nothing else. Exits with 1 if there was a crash or an unclear refusal.
"""

import argparse
import contextlib
import io
import logging
import os
import pickle
import random
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence

import torch

from benchmarks.options import command, new_parser
from benchmarks.report import machine
from espnet_gq.analysis.tables import markdown
from espnet_gq.bin._common import Ended
from espnet_gq.files import write_json
from tests.robustness.fuzz.inputs import KINDS

BATCH = 50
SECONDS = 20
MEMORY = 2 * 2**30
LONGEST = 1500
"""Characters of a refusal, without what is quoted from the input."""
VERDICTS = ("accepted", "refused", "unclear", "crash")


class Outcome(NamedTuple):
    """What became of an input."""

    number: int
    verdict: str
    words: str


class TooLong(BaseException):
    """An input took more than SECONDS."""


def _alarm(*_) -> None:
    raise TooLong


def judge(kind: str, error: BaseException, folder: Path) -> Outcome:
    """Return the verdict on what an input raised; its number is filled in later."""
    words = str(error)
    if not isinstance(error, KINDS[kind][1]):
        trace = "".join(traceback.format_exception(error))[-1500:]
        return Outcome(0, "crash", trace)
    if isinstance(error, SystemExit) and not isinstance(error, Ended):
        return Outcome(0, "unclear", f"exit status {error.code}")
    named = "gq_conf" in words or str(folder) in words
    clear = named and "\n" not in words and 20 < len(words) < LONGEST
    return Outcome(0, "refused" if clear else "unclear", words)


def verdict(kind: str, rng: random.Random, folder: Path) -> Outcome:
    """Feed what a generator draws, in an empty folder; its number follows later."""
    quiet = io.StringIO()
    try:
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            KINDS[kind][0](rng, folder)
    except (Exception, SystemExit, TooLong) as error:  # whatever it is, it is judged
        return judge(kind, error, folder)
    return Outcome(0, "accepted", "")


def feed(kind: str, seed: int, index: int) -> Outcome:
    """Feed one input in this process."""
    rng = random.Random(f"{kind} {seed} {index}")
    with tempfile.TemporaryDirectory(prefix="fuzz") as name:
        signal.signal(signal.SIGALRM, _alarm)
        signal.alarm(SECONDS)
        try:
            outcome = verdict(kind, rng, Path(name))
        finally:
            signal.alarm(0)
    return outcome._replace(number=index)


def _limit_memory() -> None:
    """Allow MEMORY more than the process has; an allocation beyond it fails."""
    with open("/proc/self/statm") as f:
        now = int(f.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))


def batch(kind: str, seed: int, indices: Sequence[int]) -> Iterator[Outcome]:
    """Feed inputs in a forked process; one that it does not survive is a crash."""
    left = list(indices)
    while left:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            status = 1
            try:
                _limit_memory()
                with os.fdopen(write, "wb") as pipe:
                    for index in left:
                        pickle.dump(feed(kind, seed, index), pipe)
                        pipe.flush()
                status = 0
            finally:
                os._exit(status)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            while left:
                try:
                    outcome = pickle.load(pipe)
                except EOFError:
                    break
                left.remove(outcome.number)
                yield outcome
        status = os.waitpid(child, 0)[1]
        if left:
            yield Outcome(left.pop(0), "crash", f"the process ended, status {status}")


def run(kind: str, seed: int, first: int, inputs: int) -> Iterator[Outcome]:
    """Feed `inputs` inputs of a kind, from number `first` on."""
    for start in range(first, first + inputs, BATCH):
        yield from batch(kind, seed, range(start, min(start + BATCH, first + inputs)))


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = new_parser(__doc__)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--inputs", type=int, default=200, help="of each kind")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser


def main(cmd: Optional[Sequence[str]] = None) -> int:
    """Feed the inputs, print the table; returns the exit status."""
    args = get_parser().parse_args(cmd)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)  # threads do not outlive a fork
    counts: Dict[str, Dict[str, int]] = {}
    bad: List[Dict[str, object]] = []
    for kind in args.kinds:
        counts[kind] = dict.fromkeys(VERDICTS, 0)
        for outcome in run(kind, args.seed, args.first, args.inputs):
            counts[kind][outcome.verdict] += 1
            if outcome.verdict in ("unclear", "crash"):
                bad.append(dict(outcome._asdict(), kind=kind))
                print(f"{kind} {outcome.number}: {outcome.verdict}: {outcome.words}")
        print(f"{kind}: {counts[kind]}", file=sys.stderr, flush=True)
    rows = [
        [kind, str(sum(found.values())), *map(str, found.values())]
        for kind, found in counts.items()
    ]
    print(markdown(["input", "tried", *VERDICTS], rows))
    if args.json:
        figures = dict(counts=counts, bad=bad, seed=args.seed, machine=machine("cpu"))
        write_json(
            args.json, dict(benchmark="fuzz", command=command("--json"), **figures)
        )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
