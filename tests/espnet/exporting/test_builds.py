"""The program compiled for other machines; on aarch64 (emulated) with the same tokens.

Where a compiler or the emulator is missing, a test is skipped and says what it lacks.
An emulated utterance takes a second: GQ_EMULATED=50 recognizes more of them.
"""

import json
import os
import shutil
import subprocess

import pytest
import soundfile
from exporting.recognizers import KINDS, make, utterances

from espnet_gq.espnet.exporting import export
from tests.device.builds import build

QEMU = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
UTTERANCES = int(os.environ.get("GQ_EMULATED", "6"))
LARGEST = 2_000_000
"""Bytes of the stripped program."""
BEGINS = {
    "windows": b"\x64\x86",
    "macos_x86_64": b"\xcf\xfa\xed\xfe\x07\x00\x00\x01",
    "macos_aarch64": b"\xcf\xfa\xed\xfe\x0c\x00\x00\x01",
    "wasi": b"\0asm",
}
"""Target -> the first bytes of its objects."""


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """Return WAV files of real utterances."""
    folder = tmp_path_factory.mktemp("speech")
    for name, samples in utterances(UTTERANCES).items():
        soundfile.write(folder / f"{name}.wav", samples, 8000)
    return sorted(folder.glob("*.wav"))


def tokens(command, model, speech, mode):
    """Return the tokens that a program finds in each file."""
    words = [*command, "--format", "json", "--mode", mode, model, *speech]
    done = subprocess.run(map(str, words), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line)["token_int"] for line in done.stdout.splitlines()]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_tokens_on_aarch64(tmp_path, speech, kind):
    if not QEMU:
        pytest.skip("no qemu-aarch64 (apt-get install qemu-user)")
    host, other = build("host") / "gq-asr", build("aarch64") / "gq-asr"
    export(make(tmp_path, KINDS[kind]), tmp_path / "model.gguf")
    for mode in ("exact", "int8"):
        expected = tokens([host], tmp_path / "model.gguf", speech, mode)
        assert len(expected) == len(speech) >= 6
        assert sum(map(len, expected)) > 3 * len(speech)
        assert tokens([QEMU, other], tmp_path / "model.gguf", speech, mode) == expected


@pytest.mark.parametrize("target", BEGINS)
def test_other_systems_compile(target):
    found = build(target).rglob("main.cpp.o*")
    (made,) = (path for path in found if path.suffix in (".o", ".obj"))
    assert made.read_bytes().startswith(BEGINS[target])


def test_the_program_is_small(tmp_path):
    if not shutil.which("strip"):
        pytest.skip("no strip")
    small = tmp_path / "gq-asr"
    subprocess.run(["strip", "-o", small, build("host") / "gq-asr"], check=True)
    assert small.stat().st_size < LARGEST
