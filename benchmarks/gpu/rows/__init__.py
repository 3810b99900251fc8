"""Rows of the GPU check and their results.

A row is a module of this package with a function `run(settings)` that yields results.
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
"""Packages whose absence skips a row: a machine with only PyTorch runs the others."""


@dataclass(frozen=True)
class Row:
    """A row of the check.

    Args:
        module: Name of its module in this package.
        seconds: Time limit on a GPU; `--device cpu` allows CPU_FACTOR times as much.
        what: Description of the row.
    """

    module: str
    seconds: int
    what: str


ROWS = (
    Row("kernels", 60, "fused pass against float64, and its bandwidth"),
    Row("recurrent", 45, "quantized LSTM and GRU against the CPU, and their time"),
    Row("transducer", 60, "transducer loss compared with torchaudio's"),
    Row("cost", 180, "step time and memory of training relative to float"),
    Row("training", 120, "each architecture under AMP and with other options"),
    Row("resume", 45, "resuming an interrupted training"),
    Row("distributed", 60, "DistributedDataParallel"),
    Row("inference", 45, "packed and hardened models"),
    Row("compiling", 90, "torch.compile"),
    Row("large", 90, "quantizing a large model"),
    Row("tests", 90, "the tests that need a GPU"),
)
"""Most important first: the total time limit may cut off the last rows."""
CPU_FACTOR = 5


@dataclass(frozen=True)
class Settings:
    """Device and sizes of a run.

    Args:
        device: "cuda" or "cpu".
        small: Use small sizes, which test the row itself; their figures mean nothing.
    """

    device: str
    small: bool


@dataclass(frozen=True)
class Result:
    """A line of the table.

    Args:
        case: What was checked.
        status: One of STATUSES. A "figure" has no limit.
        value, unit: The measured value, if any.
        limit: The limit as text, for example "at most 0.001".
        note: Further information; for a failure, its cause.
    """

    case: str
    status: str
    value: Optional[float] = None
    unit: str = ""
    limit: str = ""
    note: str = ""


def at_most(case: str, value: float, limit: float, unit: str = "", note="") -> Result:
    """Return a result that passes if the value is at most the limit."""
    status = PASS if value <= limit else FAIL  # NaN fails
    return Result(case, status, value, unit, f"at most {limit:g}", note)


def at_least(case: str, value: float, limit: float, unit: str = "", note="") -> Result:
    """Return a result that passes if the value is at least the limit."""
    status = PASS if value >= limit else FAIL
    return Result(case, status, value, unit, f"at least {limit:g}", note)


def holds(case: str, good: bool, note: str = "") -> Result:
    """Return a result that passes if a condition holds."""
    return Result(case, PASS if good else FAIL, note=note)


def attempt(case: str, find: Callable[[], Iterable[Result]]) -> Iterator[Result]:
    """Yield the results of a case; an exception becomes a failed or skipped result."""
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
        # oneDNN does not implement float16 LSTMs on most CPUs.
        missing = words.startswith("could not create a primitive")
        status = SKIPPED if missing and not torch.cuda.is_available() else FAIL
        yield Result(case, status, note=f"{type(e).__name__}: {words}")
    if torch.cuda.is_available():
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()


def seconds_of(call: Callable[[], object], repeats: int = 10) -> float:
    """Return the minimum time of several calls in seconds, after two warm-up calls."""
    found: List[float] = []
    for _ in range(repeats + 2):
        clock = Clock()
        call()
        found.append(clock.lap())
    return min(found[2:])
