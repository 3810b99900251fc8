"""Builds of the device engine with sanitizers."""

import os
import subprocess
from pathlib import Path
from typing import Sequence

HERE = Path(__file__).resolve().parent
OPTIONS = {
    "ASAN_OPTIONS": "allocator_may_return_null=1:detect_leaks=1",
    "TSAN_OPTIONS": "halt_on_error=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}


def build(
    folder: Path,
    targets: Sequence[str],
    sanitize: str,
    compiler: str = "c++",
    fuzzers: bool = False,
    portable: bool = True,
) -> None:
    """Build targets of CMakeLists.txt in a folder.

    Args:
        folder: Of the build; what is there is only updated.
        targets: Names.
        sanitize: Sanitizers, such as "address,undefined".
        compiler: The C++ compiler.
        fuzzers: Whether fuzzers are among the targets.
        portable: Only the kernels in plain C++. To instrument the others takes minutes;
            tests/native tries them at the end of accessible memory.

    Raises:
        subprocess.CalledProcessError: If it fails.
    """
    options = dict(
        CMAKE_CXX_COMPILER=compiler,
        CMAKE_BUILD_TYPE="None",
        CMAKE_CXX_FLAGS="-O1",
        GQ_ASR_SANITIZE=sanitize,
        GQ_ASR_PORTABLE="ON" if portable else "OFF",
        FUZZERS="ON" if fuzzers else "OFF",
    )
    given = [f"-D{key}={value}" for key, value in options.items()]
    call(["cmake", "-S", str(HERE), "-B", str(folder), *given])
    jobs = str(min(os.cpu_count() or 1, 4))
    call(["cmake", "--build", str(folder), "-j", jobs, "--target", *targets])


def call(command: Sequence[str], **variables: str) -> str:
    """Return what a command prints.

    Raises:
        subprocess.CalledProcessError: If it fails; its output is printed before.
    """
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **OPTIONS, **variables},
    )
    if done.returncode:
        print(done.stdout)
    done.check_returncode()
    return done.stdout
