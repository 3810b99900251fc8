"""espnet-gq-device, built and installed into an environment with NumPy alone."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))
from random_model import speech, transducer  # noqa: E402

from tests.device.builds import kept  # noqa: E402

ROOM = ROOT / "distributions" / "device"
MODULES = [ROOT / "espnet_gq" / "device" / name for name in ("engine.py", "program.py")]


def has_setuptools():
    """Return whether the installed setuptools can build the wheel."""
    try:
        from setuptools.command import bdist_wheel  # noqa: F401
    except ImportError:
        return False
    return True


@pytest.fixture(scope="module")
def wheel():
    """Return the wheel, built with the setuptools that is installed."""
    if not has_setuptools():
        pytest.skip("setuptools is older than 70.1, which building the wheel needs")

    def make(folder):
        words = [ROOM / "build.py", "--output", folder, "--no-build-isolation"]
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    sources = [*sorted(ROOM.iterdir()), *MODULES]
    key = "".join(path.read_text() for path in sources if path.is_file())
    (found,) = kept("wheel", key, make).glob("*.whl")
    return found


@pytest.fixture(scope="module")
def environment(tmp_path_factory, wheel):
    """Return a new environment with the wheel and this environment's NumPy."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, symlinks=True, with_pip=False)
    (site,) = (folder / "lib").glob("python*/site-packages")
    for name in ("numpy", "numpy.libs"):
        source = Path(np.__file__).parents[1] / name
        if source.exists():
            (site / name).symlink_to(source)
    command = ["-m", "pip", "--python", folder / "bin" / "python", "install", "-q"]
    subprocess.run(
        [sys.executable, *command, "--no-index", "--no-deps", wheel], check=True
    )
    return folder / "bin"


def run(*words, **variables):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        cwd="/",
        env=environment,
        **variables,
    )


def test_one_wheel_for_every_python(wheel):
    assert wheel.name.startswith("espnet_gq_device-")
    assert "-py3-none-" in wheel.name


def test_it_recognizes_without_pytorch_and_espnet(environment, tmp_path):
    from espnet_gq.device import Model
    from espnet_gq.device.engine import find_library

    transducer().write(tmp_path / "model.gguf")
    np.save(tmp_path / "speech.npy", speech())
    code = f"""
import sys
import numpy as np
from espnet_gq.device import Model
import espnet_gq.device.engine as engine
assert str(engine.find_library()).startswith({str(environment.parent)!r})
model = Model({str(tmp_path / "model.gguf")!r})
print(model.transcribe(np.load({str(tmp_path / "speech.npy")!r}))[0].text)
print([name for name in sys.modules if name.split(".")[0] in ("torch", "espnet2")])
"""
    done = run(environment / "python", "-c", code)
    assert done.returncode == 0, done.stderr
    text, loaded = done.stdout.splitlines()
    assert text and loaded == "[]"
    if find_library() is not None:
        assert text == Model(tmp_path / "model.gguf").transcribe(speech())[0].text


def test_it_brings_the_program(environment, tmp_path):
    import soundfile

    transducer().write(tmp_path / "model.gguf")
    soundfile.write(tmp_path / "a.wav", speech(), 8000)
    done = run(environment / "gq-asr", tmp_path / "model.gguf", tmp_path / "a.wav")
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


def test_it_has_no_file_of_the_package_itself(environment):
    """Removing it where espnet-gq is installed removes `espnet_gq.device` alone."""
    (site,) = (environment.parent / "lib").glob("python*/site-packages")
    assert [path.name for path in (site / "espnet_gq").iterdir()] == ["device"]
