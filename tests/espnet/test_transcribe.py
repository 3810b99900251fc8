"""ESPnet's own command and classes on a packed zip, without network."""

import sys

import pytest
from tiny_task import environment, run

import espnet_gq.espnet  # noqa: F401 registers
from espnet_gq._compat import espnet_version
from espnet_gq.runtime.weight import PackedWeight
from tests.espnet.families import building, local
from tests.espnet.families.bases import BASES
from tests.espnet.families.confs import ENCODERS
from tests.espnet.families.family import Family
from tests.espnet.tiny_task import ROOT, recordings

pytestmark = pytest.mark.skipif(
    espnet_version() < "202611", reason="ESPnet has the command since 202611"
)
SECONDS = 8
"""A window of which ESPnet drops two seconds on either side."""
OFFLINE = """
import socket

def connect(*_):
    raise OSError("a test without network")

socket.socket.connect = connect
"""


def family(task):
    base = BASES[task]
    conf = {**ENCODERS[base["encoder"]], "input_layer": "conv2d"}
    window = {"speech_length": SECONDS} if task == "s2t_ctc" else {}
    return Family(
        task,
        {},
        {
            "encoder_conf": conf,
            "preprocessor_conf": {**base["preprocessor_conf"], **window},
        },
    )


@pytest.fixture(scope="module", params=("s2t_ctc", "s2t"))
def small(request, tmp_path_factory):
    """Return a packed zip."""
    folder = tmp_path_factory.mktemp(request.param)
    local.make(folder / "assets")
    building.save_float(family(request.param), folder, folder / "assets")
    return building.quantized(folder)


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """Confine the caches of downloaders to a folder; return an environment."""
    (tmp_path / "sitecustomize.py").write_text(OFFLINE)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return environment(PYTHONPATH=f"{tmp_path}:{ROOT}")


def test_transcribe(small, offline):
    """The command prints what the class recognises, which computes packed."""
    from espnet2.bin.s2t_inference import Speech2Text

    _, audio, _ = next(iter(recordings()))
    speech2text = Speech2Text.from_pretrained(str(small))
    assert any(isinstance(m, PackedWeight) for m in speech2text.s2t_model.modules())
    languages = {"lang_sym": "<nolang>", "task_sym": "<asr>"}
    found = speech2text.decode_long(str(audio), **languages)
    command = [sys.executable, "-W", "ignore", "-m", "espnet_gq", "-m"]
    command += ["espnet2.bin.cli", "transcribe", "--model", str(small), str(audio)]
    done = run(command, env=offline)
    assert done.stdout.splitlines()[-1] == " ".join(text for *_, text in found)
    assert "".join(text for *_, text in found).strip()


def test_load(small, offline):
    """`espnet.load` builds the packed model."""
    import espnet

    speech2text = espnet.load(str(small), task="s2t")
    assert any(isinstance(m, PackedWeight) for m in speech2text.s2t_model.modules())
