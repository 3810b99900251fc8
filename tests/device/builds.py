"""Builds of the device engine for this and other machines, kept between runs.

A build goes to build/device/NAME-HASH of the repository, HASH that of the sources and
options: a further run, or another Python, uses what is there.
"""

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Callable, List, NamedTuple, Optional, Tuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOM = ROOT / "espnet_gq" / "device" / "csrc"
KERNELS = ROOT / "espnet_gq" / "native" / "csrc"


class Target(NamedTuple):
    """What to build for.

    Attributes:
        zig: Zig's name of the target; None for a compiler of its own.
        compiler: The other compiler.
        options: For CMake.
        parts: What to build.
    """

    zig: Optional[str]
    compiler: Optional[str]
    options: Tuple[str, ...] = ()
    parts: Tuple[str, ...] = ("gq-asr",)


# Only the host and aarch64 run. The others are compiled without optimization, and not
# linked: that takes seconds instead of minutes.
QUICK = ("-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O0")
OBJECTS = ("gq_asr", "gq_program")
STATIC = ("-DGQ_ASR_STATIC=ON",)
CROSS = "aarch64-linux-gnu-g++"
TARGETS = {
    "host": Target(None, os.environ.get("CXX") or "c++"),
    "aarch64": Target(None, CROSS, options=STATIC),
    "windows": Target("x86_64-windows-gnu", None, QUICK, OBJECTS),
    "macos_x86_64": Target("x86_64-macos", None, QUICK, OBJECTS),
    "macos_aarch64": Target("aarch64-macos", None, QUICK, OBJECTS),
    "wasi": Target("wasm32-wasi", None, QUICK, OBJECTS),
}
if not shutil.which(CROSS):
    TARGETS["aarch64"] = Target("aarch64-linux-musl", None, options=STATIC)


def has_zig() -> bool:
    """Return whether the package ziglang is installed."""
    return importlib.util.find_spec("ziglang") is not None


def missing(name: str) -> Optional[str]:
    """Return what a build lacks, None if it lacks nothing."""
    target = TARGETS[name]
    if not shutil.which("cmake"):
        return "no cmake"
    if target.zig and not has_zig():
        return "no ziglang (pip install ziglang)"
    if target.compiler and not shutil.which(target.compiler.split()[0]):
        return f"no {target.compiler}"
    return None


def build(name: str) -> Path:
    """Return the folder of a target, which is built if it is not there.

    Skips the test where a tool is missing.
    """
    why = missing(name)
    if why:
        pytest.skip(why)
    target = TARGETS[name]
    return kept(name, repr(target), lambda folder: _build(target, folder))


def kept(name: str, key: str, make: Callable[[Path], None], *rooms: Path) -> Path:
    """Return the folder of a build, which `make(folder)` fills if it is not there.

    Args:
        name: Of the build; builds of the name from other sources are removed.
        key: What it depends on besides the engine's sources.
        make: Builds.
        rooms: Further folders of sources.
    """
    parent = ROOT / "build" / "device"
    parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(key.encode())
    for room in (ROOM, KERNELS, *rooms):
        for path in sorted(room.rglob("*")):
            if path.suffix in (".cpp", ".h", ".cmake", ".txt"):
                digest.update(path.name.encode() + path.read_bytes())
    folder = parent / f"{name}-{digest.hexdigest()[:12]}"
    with open(parent / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            for old in parent.glob(f"{name}-*"):
                shutil.rmtree(old)
            make(folder)
            (folder / "done").touch()
    return folder


def _build(target: Target, folder: Path) -> None:
    options: List[str] = list(target.options)
    if target.zig:
        options += [
            f"-DZIG_TARGET={target.zig}",
            f"-DZIG={sys.executable} -m ziglang",
            f"-DCMAKE_TOOLCHAIN_FILE={ROOM / 'cmake' / 'zig.cmake'}",
        ]
    elif target.compiler:
        options += [f"-DCMAKE_CXX_COMPILER={target.compiler.split()[0]}"]
        if target.compiler == CROSS:
            options += ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64"]
    for command in (
        ["cmake", "-S", str(ROOM), "-B", str(folder), *options],
        ["cmake", "--build", str(folder), "--parallel", "2", "--target", *target.parts],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
