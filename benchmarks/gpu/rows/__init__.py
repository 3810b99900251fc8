"""What a row of the check is, and what its results are.

A row is a module of this package with `run(settings)`, which yields results.
"""

import contextlib
import traceback
from dataclasses import dataclass
from typing import Callable, Iterable, Iterator, List, Optional

import torch

from benchmarks.measuring import Clock

PASS, FAIL, FIGURE, SKIPPED = "pass", "fail", "figure", "skipped"
STATUSES = (PASS, FAIL, FIGURE, SKIPPED)
OPTIONAL = {
    *("espnet2", "torchaudio", "torchao", "brevitas", "triton", "pytest", "yaml"),
    *("soundfile", "hypothesis"),
}
"""Packages whose absence skips a row: a bare machine with PyTorch checks the rest."""


@dataclass(frozen=True)
class Row:
    """A row of the check.

    Args:
        module: Its module beside this file.
        seconds: Limit on a GPU; `--device cpu` allows CPU_FACTOR times as much.
        what: What it checks, for the list of rows.
    """

    module: str
    seconds: int
    what: str


ROWS = (
    Row("kernels", 60, "fused pass against float64, and its bandwidth"),
    Row("recurrent", 45, "quantized LSTM and GRU against the CPU, and their time"),
    Row("transducer", 60, "transducer loss beside torchaudio's"),
    Row("cost", 180, "step time and memory of training over float"),
    Row("training", 120, "each architecture under AMP and with other options"),
    Row("resume", 45, "a training that was interrupted"),
    Row("distributed", 60, "DistributedDataParallel"),
    Row("inference", 45, "packed and hardened models"),
    Row("compiling", 90, "torch.compile"),
    Row("large", 90, "quantizing a large model"),
    Row("tests", 90, "the tests that need a GPU"),
)
"""In the order of their importance: the time limit of the whole ends at the last."""
CPU_FACTOR = 5


@dataclass(frozen=True)
class Settings:
    """Where and how large.

    Args:
        device: "cuda" or "cpu".
        small: Small sizes, which show that a row works; figures mean nothing.
    """

    device: str
    small: bool


@dataclass(frozen=True)
class Result:
    """A line of the table.

    Args:
        case: What was looked at.
        status: One of STATUSES. A figure has no limit to pass.
        value, unit: What was measured, where something was.
        limit: What it may be at most or must be at least, in words.
        note: What else to know; for a failure, what happened.
    """

    case: str
    status: str
    value: Optional[float] = None
    unit: str = ""
    limit: str = ""
    note: str = ""


def at_most(case: str, value: float, limit: float, unit: str = "", note="") -> Result:
    """Return pass where the value is at most the limit."""
    status = PASS if value <= limit else FAIL  # NaN fails
    return Result(case, status, value, unit, f"at most {limit:g}", note)


def at_least(case: str, value: float, limit: float, unit: str = "", note="") -> Result:
    """Return pass where the value is at least the limit."""
    status = PASS if value >= limit else FAIL
    return Result(case, status, value, unit, f"at least {limit:g}", note)


def holds(case: str, good: bool, note: str = "") -> Result:
    """Return pass where a condition holds."""
    return Result(case, PASS if good else FAIL, note=note)


def attempt(case: str, find: Callable[[], Iterable[Result]]) -> Iterator[Result]:
    """Yield what a case finds; what it raises is a failed (or skipped) line of it."""
    try:
        yield from find()
    except ModuleNotFoundError as e:
        name = (e.name or "").split(".")[0]
        status = SKIPPED if name in OPTIONAL else FAIL
        yield Result(case, status, note=f"no module named {name}")
    except torch.OutOfMemoryError:
        yield Result(case, FAIL, note="out of memory on the device")
    except Exception as e:
        traceback.print_exc()
        words = (str(e).strip().splitlines() or [""])[0][:200]
        # oneDNN has no LSTM in float16 on most CPUs.
        missing = words.startswith("could not create a primitive")
        status = SKIPPED if missing and not torch.cuda.is_available() else FAIL
        yield Result(case, status, note=f"{type(e).__name__}: {words}")
    if torch.cuda.is_available():
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()


def seconds_of(call: Callable[[], object], repeats: int = 10) -> float:
    """Return the least seconds of several calls, after two that are not counted."""
    found: List[float] = []
    for _ in range(repeats + 2):
        clock = Clock()
        call()
        found.append(clock.lap())
    return min(found[2:])
