"""What the benchmarks share: clock, machine description, tables, JSON, progress."""

import platform
import shlex
import statistics
import sys
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import torch

from espnet_gq.quantizer import fused

ISA_NAMES = ("generic", "AVX2", "AVX-512")
PACKAGES = ("espnet", "torch", "espnet-gq", "torchao", "brevitas")


class Clock:
    """Seconds between laps; waits for the accelerator."""

    def __init__(self, device: str):
        self.device = device
        self.last = self._now()

    def _now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def lap(self) -> float:
        """Return the seconds since the last lap."""
        now = self._now()
        seconds, self.last = now - self.last, now
        return seconds


@dataclass(frozen=True)
class Spread:
    """Least, median and largest of several measurements."""

    min: float
    median: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(min(values), statistics.median(values), max(values))


def progress(message: str) -> None:
    """Write a line to stderr at once."""
    print(message, file=sys.stderr, flush=True)


def installed(package: str) -> Optional[str]:
    """Return the version of an installed package, None where it is missing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cpu_model() -> str:
    """Return the processor's name as the system knows it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def machine(device: str) -> Dict[str, Any]:
    """Return what the figures depend on besides the command: hardware and versions."""
    found: Dict[str, Any] = {
        "cpu": cpu_model(),
        "threads": torch.get_num_threads(),
        "fused_library": fused.available(),
        "instruction_set": ISA_NAMES[fused.best_isa()] if fused.available() else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: installed(name) for name in PACKAGES},
    }
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
        found["cuda"] = torch.version.cuda
    return found


def machine_lines(found: Dict[str, Any]) -> List[str]:
    """Return the machine description as text."""
    library = (
        f"in use ({found['instruction_set']})"
        if found["fused_library"]
        else "not built"
    )
    lines = [
        f"CPU       {found['cpu']}, {found['threads']} threads",
        f"fused     {library}",
        "versions  Python "
        + ", ".join(
            [found["python"]]
            + [f"{k} {v or 'not installed'}" for k, v in found["versions"].items()]
        ),
    ]
    if "gpu" in found:
        lines.insert(1, f"GPU       {found['gpu']}, CUDA {found['cuda']}")
    return lines


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an aligned Markdown table, the first column to the left."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths))
        ]
        return f"| {' | '.join(padded)} |"

    rule = [":" + "-" * (widths[0] - 1)] + ["-" * (w - 1) + ":" for w in widths[1:]]
    return "\n".join([line(header), line(rule)] + [line(row) for row in rows])


def command(*files: str) -> str:
    """Return the command line of this run, without options that only name files."""
    words = [part for word in sys.argv for part in word.split("=", 1)]
    kept = [
        word
        for before, word in zip(["", *words], words)
        if not {before, word} & set(files)
    ]
    return shlex.join(["python", *kept])
