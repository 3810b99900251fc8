"""The native library of espnet-gq; all else is in pyproject.toml."""

from pathlib import Path

from setuptools import Extension, setup

ROOM = Path("espnet_gq/native/csrc")

setup(
    ext_modules=[
        # A plain library (no Python or torch headers): where it cannot be built, plain
        # PyTorch gives the same results.
        Extension(
            "espnet_gq.native._native",
            sources=[str(path) for path in sorted(ROOM.rglob("*.cpp"))],
            include_dirs=[str(ROOM)],
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
            depends=[str(path) for path in sorted(ROOM.rglob("*.h"))],
            language="c++",
            optional=True,
        ),
    ],
)
