"""The native libraries of espnet-gq; all else is in pyproject.toml."""

from pathlib import Path

from setuptools import Extension, setup

KERNELS = Path("espnet_gq/runtime/csrc")
TEAM = "espnet_gq/quantizer/_team.h"

# Plain libraries (no Python or torch headers): where they cannot be built, plain
# PyTorch gives the same results.
setup(
    ext_modules=[
        Extension(
            "espnet_gq.quantizer._fused",
            sources=["espnet_gq/quantizer/_fused.c"],
            extra_compile_args=[
                "-O3",
                "-std=c11",
                "-fno-math-errno",
                "-fno-trapping-math",
                "-fno-signed-zeros",
                "-fassociative-math",
                "-pthread",
            ],
            extra_link_args=["-lm", "-pthread"],
            depends=["espnet_gq/quantizer/_fused_kernel.h", TEAM],
            optional=True,
        ),
        Extension(
            "espnet_gq.runtime._kernels",
            sources=[str(path) for path in sorted(KERNELS.glob("*.cpp"))],
            extra_compile_args=[
                "-O3",
                "-std=c++17",
                "-fno-math-errno",
                "-fno-trapping-math",
                "-ffp-contract=off",  # the same rounding on every instruction set
                "-pthread",
            ],
            extra_link_args=["-pthread"],
            depends=[*map(str, sorted(KERNELS.glob("*.h"))), TEAM],
            language="c++",
            optional=True,
        ),
    ],
)
