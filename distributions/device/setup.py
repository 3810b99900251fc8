"""Builds the engine; build.py puts the sources beside this file."""

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOMS = [Path("csrc/device"), Path("csrc/native")]


class BuildLibrary(build_ext):
    """The library has no part of Python: any version loads it by the same name."""

    def get_ext_filename(self, fullname: str) -> str:
        suffix = Path(super().get_ext_filename(fullname)).suffix
        return str(Path(*fullname.split(".")).with_suffix(suffix))


class Wheel(bdist_wheel):
    """A wheel for all versions of Python on one platform."""

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


setup(
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": Wheel},
    ext_modules=[
        Extension(
            "espnet_gq.device._engine",
            sources=[
                str(path) for room in ROOMS for path in sorted(room.rglob("*.cpp"))
            ],
            include_dirs=[str(room) for room in ROOMS],
            define_macros=[("GQ_ASR_MAIN", "gq_asr_main")],
            # As in the setup.py of espnet-gq.
            extra_compile_args=[
                *("-O3", "-g0", "-std=c++17", "-pthread", "-fno-math-errno"),
                *("-fno-trapping-math", "-ffp-contract=off", "-fvisibility=hidden"),
            ],
            extra_link_args=["-pthread"],
            language="c++",
        )
    ],
)
