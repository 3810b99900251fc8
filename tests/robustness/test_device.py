"""The device engine under sanitizers: what fuzzing found, and threads."""

import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.device.builds import kept
from tests.robustness.device import building
from tests.robustness.device.corpus import write_models
from tests.robustness.device.seeds import wav_seeds

HERE = Path(building.__file__).parent
REGRESSIONS = HERE / "regressions"


@functools.lru_cache(maxsize=None)
def lacking(sanitize):
    """Return why sanitizers cannot be used, None if they can."""
    if not (shutil.which("cmake") and shutil.which("c++")):
        return "no cmake, or no C++ compiler"
    with tempfile.TemporaryDirectory() as name:
        probe = Path(name) / "probe.cpp"
        probe.write_text("int main() { return 0; }\n")
        flags = [f"-fsanitize={sanitize}", "-o", f"{name}/probe"]
        try:
            subprocess.run(["c++", probe, *flags], check=True, capture_output=True)
            subprocess.run([f"{name}/probe"], check=True, capture_output=True)
        except subprocess.CalledProcessError as error:
            last = error.stderr.decode().strip().splitlines()[-1:]
            return f"no sanitizers {sanitize}: {last}"
    return None


def program(name, sanitize):
    """Return an instrumented program of tests/robustness/device; skip without."""
    why = lacking(sanitize)
    if why:
        pytest.skip(why)
    names = ["stress"] if name == "stress" else ["replay_model", "replay_wav"]
    made = kept(
        f"sanitized_{names[0]}",
        sanitize,
        lambda folder: building.build(folder, names, sanitize),
        HERE,
    )
    return made / name


def inputs(folder, kind):
    """Return the valid inputs that fuzzing begins with, and those that it has found."""
    if kind == "model":
        write_models(folder)
    else:
        for name, contents in wav_seeds():
            (folder / name).write_bytes(contents)
    found = sorted((REGRESSIONS / kind).glob("*"))
    return [str(path) for path in (*sorted(folder.iterdir()), *found)]


@pytest.mark.parametrize("kind", ["model", "wav"])
def test_what_fuzzing_found(tmp_path, kind):
    paths = inputs(tmp_path, kind)
    model = tmp_path / "model"
    write_models(model)
    output = building.call(
        [str(program(f"replay_{kind}", "address,undefined")), *paths],
        GQ_ASR_FUZZ_MODEL=str(model / "lstm"),
    )
    assert output.splitlines() == paths


def test_streams_in_threads(tmp_path):
    write_models(tmp_path)
    speech = [tmp_path / name for name, _ in wav_seeds()[:4]]
    for path, (_, contents) in zip(speech, wav_seeds()):
        path.write_bytes(contents)
    for kind in ("lstm", "gru"):
        output = building.call(
            [str(program("stress", "thread")), str(tmp_path / kind), "4", "8", "60"]
            + [str(path) for path in speech]
        )
        assert "60 utterances, 0 wrong" in output
