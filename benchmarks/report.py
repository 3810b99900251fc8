"""Formatting of the benchmarks' output: machine, table cells, progress."""

import logging
import platform
import sys
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

import torch

from espnet_gq.native import available, instruction_sets

PACKAGES = ("espnet", "torch", "espnet-gq", "torchao", "brevitas")


def quiet() -> None:
    """Silence ESPnet's logging and PyTorch's warnings about its own quantization."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


def progress(message: str) -> None:
    """Write a line to stderr immediately."""
    print(message, file=sys.stderr, flush=True)


def installed(package: str) -> Optional[str]:
    """Return the version of an installed package; None if it is missing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cpu_model() -> str:
    """Return the processor's name as the system reports it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def machine(device: str) -> Dict[str, Any]:
    """Describe hardware and versions, on which the figures depend."""
    found: Dict[str, Any] = {
        "cpu": cpu_model(),
        "threads": torch.get_num_threads(),
        "fused_library": available(),
        "instruction_set": next(iter(instruction_sets()), None),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: installed(name) for name in PACKAGES},
    }
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
        found["cuda"] = torch.version.cuda
    return found


def machine_lines(found: Dict[str, Any]) -> List[str]:
    """Format the description of the machine."""
    library = (
        f"in use ({found['instruction_set']})"
        if found["fused_library"]
        else "not built"
    )
    versions = [f"{k} {v or 'not installed'}" for k, v in found["versions"].items()]
    lines = [
        f"CPU       {found['cpu']}, {found['threads']} threads",
        f"fused     {library}",
        f"versions  Python {', '.join([found['python'], *versions])}",
    ]
    if "gpu" in found:
        lines.insert(1, f"GPU       {found['gpu']}, CUDA {found['cuda']}")
    return lines


def spread_cell(
    spread: Optional[Mapping[str, float]], unit: float = 1.0, digits: int = 3
) -> str:
    """Format a spread as "median (min..max)" in a unit."""
    if spread is None:
        return "-"
    low, mid, high = (
        f"{spread[k] / unit:,.{digits}f}" for k in ("min", "median", "max")
    )
    return f"{mid} ({low}..{high})"


def median_cell(spread: Optional[Mapping[str, float]], digits: int = 3) -> str:
    """Format the median of a spread."""
    return "-" if spread is None else f"{spread['median']:.{digits}f}"
