"""Measure time and memory: interleaved rounds, spreads, new processes."""

import ctypes
import gc
import multiprocessing
import resource
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import (
    Any,
    Callable,
    Dict,
    Hashable,
    List,
    Mapping,
    Sequence,
    TypeVar,
)

from torch.utils.benchmark.utils.timer import timer

MIB = 2**20
Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")


class Clock:
    """Measure the seconds between laps; synchronizes with the accelerator, if any."""

    def __init__(self) -> None:
        self.last = timer()

    def lap(self) -> float:
        """Return the seconds since the last lap."""
        now = timer()
        seconds, self.last = now - self.last, now
        return seconds


def seconds_clock(threads: int) -> Callable[[], float]:
    """Return the clock for work of that many threads.

    That of one thread leaves out the time in which other programs have its core.
    """
    return time.thread_time if threads == 1 else time.perf_counter


def spread(values: Sequence[float]) -> Dict[str, float]:
    """Return minimum, median and maximum of several measurements."""
    return dict(min=min(values), median=statistics.median(values), max=max(values))


def in_turn(items: Sequence[Item], index: int) -> List[Item]:
    """Rotate the items by `index`, so that each index starts with another one."""
    shift = index % len(items)
    return [*items[shift:], *items[:shift]]


def interleave(
    calls: Mapping[Key, Callable[[], float]], rounds: int
) -> Dict[Key, List[float]]:
    """Call each function once per round; return the results by key.

    Every round starts with another call, so that a slow period of the machine affects
    all of them.
    """
    found: Dict[Key, List[float]] = {key: [] for key in calls}
    for index in range(rounds):
        for key in in_turn(list(calls), index):
            found[key].append(calls[key]())
    return found


# --- memory --------------------------------------------------------------------------


def resident(field: str) -> int:
    """Return VmRSS (current) or VmHWM (peak) of this process in bytes.

    Without /proc, both are the peak.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith(field + ":"):
                return 1024 * int(line.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def forget_peak() -> bool:
    """Reset the peak to the current resident memory; return whether that succeeded."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return True
    except OSError:
        return False


def return_freed() -> None:
    """Return freed memory from Python and the C library to the system."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        pass  # not glibc


def in_new_process(function: Callable[..., Result], *args: Any) -> Result:
    """Call a module-level function in a new Python process; return its result."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *args).result()
