"""Build the distribution espnet-gq-device: a wheel, or its sources.

    python distributions/device/build.py --output dist
    python distributions/device/build.py --output dist --target aarch64
    python distributions/device/build.py --output dist --sources

--target compiles for Linux on another processor with the package `ziglang` (pip install
ziglang); the wheel then installs where glibc is 2.17 or later. Other options go to pip,
such as --no-build-isolation to build with the setuptools that is installed.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Dict, List, Optional

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parents[1] / "espnet_gq"
MODULES = ("__init__.py", "engine.py", "program.py")
"""What a device needs of espnet_gq/device. `espnet_gq` itself has no file here: it is a
namespace, so that no file of espnet-gq is replaced but these."""
TARGETS = ("aarch64", "x86_64")
GLIBC = "2.17"


def stage(folder: Path) -> None:
    """Put the sources of the distribution into a folder."""
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md"):
        shutil.copy(HERE / name, folder)
    names: Dict[str, str] = {}
    exec((PACKAGE / "_version.py").read_text(), names)
    (folder / "VERSION").write_text(names["__version__"] + "\n")
    package = folder / "espnet_gq" / "device"
    package.mkdir(parents=True)
    for name in MODULES:
        shutil.copy(PACKAGE / "device" / name, package)
    shutil.copy(PACKAGE / "py.typed", package)
    shutil.copy(HERE.parents[1] / "LICENSE", folder)
    for room in ("device", "native"):
        shutil.copytree(PACKAGE / room / "csrc", folder / "csrc" / room)


def cross(target: str) -> Dict[str, str]:
    """Return the environment in which setuptools compiles for a target."""
    compiler = shlex.join(
        [
            sys.executable,
            "-m",
            "ziglang",
            "c++",
            "-target",
            f"{target}-linux-gnu.{GLIBC}",
        ]
    )
    variables = {name: compiler for name in ("CC", "CXX")}
    shared = {name: f"{compiler} -shared" for name in ("LDSHARED", "LDCXXSHARED")}
    return {**variables, **shared, "CFLAGS": "-fPIC", "LDFLAGS": "-s"}


def build(output: Path, target: Optional[str], sources: bool, pip: List[str]) -> None:
    """Write the wheel, or the sources, into the folder `output`.

    Raises:
        subprocess.CalledProcessError: If it cannot be built.
    """
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="espnet-gq-device") as name:
        stage(Path(name))
        if sources:
            command = ["-c", "import sys, setuptools.build_meta as b; "]
            command[1] += "b.build_sdist(sys.argv[1])"
            subprocess.run(
                [sys.executable, *command, output.resolve()], cwd=name, check=True
            )
            return
        command = ["-m", "pip", "wheel", "-q", "--no-deps", "-w", str(output), *pip]
        environment = dict(os.environ)
        if target:
            environment.update(cross(target))
            platform = f"manylinux_{GLIBC.replace('.', '_')}_{target}"
            option = f"--build-option=--plat-name={platform}"
            command += [f"--config-settings={option}"]
        subprocess.run([sys.executable, *command, name], env=environment, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("dist"))
    parser.add_argument("--target", choices=TARGETS)
    parser.add_argument("--sources", action="store_true")
    args, pip = parser.parse_known_args()
    build(args.output, args.target, args.sources, pip)


if __name__ == "__main__":
    main()
