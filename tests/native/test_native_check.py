"""The library without Python: its headers alone, and native_check.cpp built and run."""

import os
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from espnet_gq.native import instruction_sets

HERE = Path(__file__).resolve().parent
ROOM = HERE.parents[1] / "espnet_gq" / "native" / "csrc"
CHECK = HERE / "native_check.cpp"
SOURCES = [CHECK, *sorted(ROOM.rglob("*.cpp"))]
HEADERS = sorted(ROOM.rglob("*.h"))
# As in setup.py.
MATHS = ["-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"]
FLAGS = ["-std=c++17", "-pthread", f"-I{ROOM}", f"-I{HERE}", *MATHS]
# Not for x86-64: GCC 12 warns of its own AVX-512 header.
WARNINGS = ["-Wall", "-Wextra", "-Werror"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
LINES = ["-g1", "-fno-var-tracking"]  # with all of -g, intrinsics take minutes
# Instrumenting these takes minutes. Outside the sanitizers every buffer of the check
# ends at a page that must not be touched, which holds for them as well.
SLOW_TO_INSTRUMENT = ("vnni", "avx512", "avx2", "pass_avx512", "pass_avx2")
DOT_PRODUCTS = "-march=armv8.2-a+dotprod"

HOST = shlex.split(os.environ.get("CXX") or "g++")
ARM = ["aarch64-linux-gnu-g++"]
QEMU = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")

needs_host = pytest.mark.skipif(not shutil.which(HOST[0]), reason=f"no {HOST[0]}")
needs_arm = pytest.mark.skipif(not shutil.which(ARM[0]), reason=f"no {ARM[0]}")
needs_qemu = pytest.mark.skipif(not QEMU, reason="no qemu-aarch64")


def call(command, **options):
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, **options
    )
    assert done.returncode == 0, f"{done.args}\n{done.stdout}{done.stderr}"
    return done.stdout


def compile_all(compiler, sources, folder, flags):
    def one(source):
        made = folder / f"{source.stem}.o"
        chosen = flags
        if source.stem in SLOW_TO_INSTRUMENT:
            chosen = [flag for flag in flags if flag not in SANITIZE]
        call([*compiler, *FLAGS, *chosen, "-c", source, "-o", made])
        return made

    with ThreadPoolExecutor(2) as jobs:
        return list(jobs.map(one, sources))


def build(compiler, folder, flags):
    objects = compile_all(compiler, SOURCES, folder, flags)
    call([*compiler, *flags, "-pthread", *objects, "-o", folder / "check"])
    return folder / "check"


def run(command, rounds):
    """Run the check on a fixed seed; return the instruction sets that it names."""
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    output = call([*command, 1, rounds], env=environment)
    print(output)
    return [line.split(":")[0] for line in output.splitlines()]


@pytest.mark.parametrize("compiler", ["g++", "clang++", *ARM])
@pytest.mark.parametrize("header", HEADERS, ids=lambda path: path.name)
def test_headers_compile_by_themselves(header, compiler):
    if not shutil.which(compiler):
        pytest.skip(f"no {compiler}")
    if compiler in ARM and header.name in ("avx2.h", "avx512.h", "products_512.h"):
        return
    call([compiler, *FLAGS, "-fsyntax-only", "-x", "c++", header])


def test_includes_stay_in_the_room():
    for path in (*HEADERS, *SOURCES[1:]):
        assert '#include "..' not in path.read_text(), path


@needs_host
def test_optimized(tmp_path):
    names = run([build(HOST, tmp_path, ["-O2"])], 20)
    assert not set(instruction_sets()) - set(names)


@needs_host
def test_sanitizers(tmp_path):
    probe = tmp_path / "probe.cpp"
    probe.write_text("int main() { return 0; }\n")
    try:
        call([*HOST, *SANITIZE, probe, "-o", tmp_path / "probe"])
        call([tmp_path / "probe"], env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"})
    except AssertionError as error:
        pytest.skip(f"no sanitizers: {str(error).strip().splitlines()[-1]}")
    names = run([build(HOST, tmp_path, ["-O1", *LINES, *SANITIZE])], 3)
    assert not set(instruction_sets()) - set(names)


@needs_arm
@pytest.mark.parametrize("flags", [[], [DOT_PRODUCTS]], ids=["plain", "dotprod"])
def test_neon_compiles(tmp_path, flags):
    compile_all(
        ARM, [ROOM / "kernels" / "neon.cpp"], tmp_path, ["-O2", *WARNINGS, *flags]
    )


@needs_arm
@needs_qemu
@pytest.mark.parametrize("flags", [[], [DOT_PRODUCTS]], ids=["plain", "dotprod"])
def test_neon_emulated(tmp_path, flags):
    check = build(ARM, tmp_path, ["-O2", "-static", *WARNINGS, *flags])
    assert "NEON" in run([QEMU, "-cpu", "max", check], 2)
