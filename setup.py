"""The native library of espnet-gq; all else is in pyproject.toml."""

from pathlib import Path

from setuptools import Extension, setup

NATIVE = Path("espnet_gq/native/csrc")
DEVICE = Path("espnet_gq/device/csrc")


def library(name, *rooms, define=()):
    """Return a plain library (no Python or torch headers) of the sources of rooms."""
    return Extension(
        name,
        sources=[str(path) for room in rooms for path in sorted(room.rglob("*.cpp"))],
        include_dirs=[str(room) for room in rooms],
        define_macros=list(define),
        extra_compile_args=[
            "-O3",
            "-g0",  # a tenth of the size that Python's own "-g" makes
            "-std=c++17",
            "-fno-math-errno",
            "-fno-trapping-math",
            "-ffp-contract=off",  # the same rounding on every instruction set
            "-pthread",
        ],
        extra_link_args=["-pthread"],
        depends=[str(path) for room in rooms for path in sorted(room.rglob("*.h"))],
        language="c++",
        optional=True,
    )


setup(
    ext_modules=[
        # Where it cannot be built, plain PyTorch gives the same results.
        library("espnet_gq.native._native", NATIVE),
        # The device engine, and its program as the function gq_asr_main.
        library(
            "espnet_gq.device._engine",
            DEVICE,
            NATIVE,
            define=[("GQ_ASR_MAIN", "gq_asr_main")],
        ),
    ],
)
