"""The command of each variant, and the engine's program."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, List

from benchmarks import ROOT
from benchmarks.device.models import Models
from benchmarks.device.variants import ONNX_INT8, TORCH_INT8, Variant

SOURCES = ROOT / "espnet_gq" / "device" / "csrc"


class NotRun(ValueError):
    """A variant that cannot run; the message says why."""


def build_program(folder: Path) -> Path:
    """Build gq-asr with CMake and return it, without symbols.

    Raises:
        RuntimeError: If it cannot be built.
    """
    commands: List[List[Any]] = [
        ["cmake", "-S", SOURCES, "-B", folder],
        ["cmake", "--build", folder, "--target", "gq-asr", "-j2"],
        ["strip", "-o", folder / "gq-asr.stripped", folder / "gq-asr"],
    ]
    for command in commands:
        if shutil.which(command[0]) is None:
            raise RuntimeError(f"building gq-asr needs {command[0]}")
        done = subprocess.run(
            [str(word) for word in command], capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed:\n{done.stderr[-2000:]}")
    return folder / "gq-asr.stripped"


def command(models: Models, variant: Variant, program: Path, threads: int) -> List[str]:
    """Return the command that recognizes WAV files, which are to be added.

    Raises:
        NotRun: If the variant does not run this model; the message says why.
    """
    size, python = models.size, [sys.executable, "-m"]
    settings: List[Any] = [threads, size.chunk_ms]
    if variant.method == "engine":
        refused = models.notes(variant)["refused"]
        if refused:
            raise NotRun(refused)
        words: List[Any] = [program, "--timing", "--format", "json"]
        words += ["--mode", variant.mode, "--threads", threads]
        words += ["--chunk-ms", size.chunk_ms, models.path(variant, "model.gguf")]
    elif variant == ONNX_INT8:
        reason = models.without_onnx()
        if reason:
            raise NotRun(reason)
        folder = models.path(variant, "onnx")
        words = [*python, "benchmarks.device.onnx_process", folder, *settings]
    else:
        files = (models.path(variant, name) for name in ("config.yaml", "model.pth"))
        int8 = int(variant == TORCH_INT8 or variant.mode == "int8")
        words = [*python, "benchmarks.device.espnet_process", size.task, *files, int8]
        words += settings
    return [str(word) for word in words]


def model_bytes(models: Models, variant: Variant) -> int:
    """Return the size of the files that a variant loads."""
    if variant == ONNX_INT8:
        return sum(f.stat().st_size for f in models.path(variant, "onnx").iterdir())
    name = "model.gguf" if variant.method == "engine" else "model.pth"
    return models.path(variant, name).stat().st_size
