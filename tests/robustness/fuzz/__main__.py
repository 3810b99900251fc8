"""Feed invalid inputs of every kind to the project and count its reactions.

    python -m tests.robustness.fuzz --inputs 1000 \
        --json tests/robustness/results/fuzz.json

An input is generated from a valid one, --seed and its number, so that any input can be
reproduced: --kinds "packed file, bytes" --first 17 --inputs 1. The reaction is one of

    accepted   the changes do not matter
    refused    one sentence that names the input
    unclear    refused, but in several lines, too long, or without the input's name
    crash      anything else: another exception, a signal, more than 20 s or 2 GiB

Inputs run in forked processes, a few dozen in each, so that a signal stops only one
batch. Exits with 1 if there was a crash or an unclear refusal.
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
"""Maximum length of a refusal in characters, without text quoted from the input."""
VERDICTS = ("accepted", "refused", "unclear", "crash")


class Outcome(NamedTuple):
    """The reaction to an input."""

    number: int
    verdict: str
    words: str


class TooLong(BaseException):
    """An input took more than SECONDS."""


def _alarm(*_) -> None:
    raise TooLong


def judge(kind: str, error: BaseException, folder: Path) -> Outcome:
    """Return the verdict on an exception; the caller sets the number of the input."""
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
    """Feed an input in an empty folder; return the verdict, numbered by the caller."""
    quiet = io.StringIO()
    try:
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            KINDS[kind][0](rng, folder)
    except (Exception, SystemExit, TooLong) as error:  # every exception is judged
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
    """Limit the address space to MEMORY more than now; larger allocations fail."""
    with open("/proc/self/statm") as f:
        now = int(f.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))


def batch(kind: str, seed: int, indices: Sequence[int]) -> Iterator[Outcome]:
    """Feed inputs in a forked process; an input that kills it is a crash."""
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
    """Feed `inputs` inputs of a kind, starting with number `first`."""
    for start in range(first, first + inputs, BATCH):
        yield from batch(kind, seed, range(start, min(start + BATCH, first + inputs)))


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = new_parser(__doc__)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--inputs", type=int, default=200, help="inputs per kind")
    parser.add_argument("--first", type=int, default=0, help="first number")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser


def main(cmd: Optional[Sequence[str]] = None) -> int:
    """Feed the inputs, print the table; return the exit status."""
    args = get_parser().parse_args(cmd)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)  # threads do not survive a fork
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
