"""The program gq-asr, built by CMake with warnings as errors, on real utterances."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from exporting.recognizers import KINDS, make, utterances

from espnet_gq.device import Model
from espnet_gq.device.engine import find_library
from espnet_gq.espnet.exporting import export
from tests.device.builds import build

pytestmark = pytest.mark.skipif(find_library() is None, reason="no device engine")


def run(*command, **options):
    words = [str(word) for word in command]
    return subprocess.run(words, **{"capture_output": True, "text": True, **options})


@pytest.fixture(scope="module")
def program():
    """Return the program, built for this machine."""
    return build("host") / "gq-asr"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Return a model file."""
    folder = tmp_path_factory.mktemp("model")
    export(make(folder, KINDS["lstm"]), folder / "model.gguf")
    return folder / "model.gguf"


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """Return WAV files of real utterances, 16-bit and float in turns."""
    folder = tmp_path_factory.mktemp("speech")
    for i, (name, samples) in enumerate(utterances(4).items()):
        subtype = ("PCM_16", "FLOAT")[i % 2]
        soundfile.write(folder / f"{name}.wav", samples, 8000, subtype=subtype)
    return sorted(folder.glob("*.wav"))


def expected(model, paths, **options):
    found = Model(model)
    return [
        found.transcribe(soundfile.read(path, dtype="float32")[0], **options)
        for path in paths
    ]


def test_the_forms_of_the_output(program, model, speech):
    results = expected(model, speech, mode="exact", beam=3, nbest=2)
    command = [program, "--mode", "exact", "--beam=3", "--nbest", "2"]
    done = run(*command, model, *speech)
    assert done.returncode == 0 and not done.stderr
    texts = [best.text for best, *_ in results]
    assert len(set(texts)) > 1 and done.stdout.splitlines() == texts
    done = run(*command, "--format", "espnet", model, *speech)
    lines = [f"{path.stem} {text}" for path, text in zip(speech, texts)]
    assert done.stdout.splitlines() == lines
    done = run(*command, "--format", "json", model, *speech)
    for line, path, (best, *others) in zip(
        done.stdout.splitlines(), speech, results, strict=True
    ):
        read = json.loads(line)
        assert read["file"] == str(path) and read["final"] is True
        assert len(read["others"]) == len(others) == 1
        for found, wanted in zip((read, *read["others"]), (best, *others)):
            assert found["text"] == wanted.text
            assert found["tokens"] == list(wanted.tokens)
            assert found["token_int"] == list(wanted.token_int)
            assert found["score"] == pytest.approx(wanted.score, abs=1e-5)
            assert found["times"] == pytest.approx(wanted.times, abs=1e-3)


@pytest.mark.parametrize("kind", ["s16", "f32"])
def test_raw_samples_from_a_pipe(program, model, speech, kind):
    samples, _ = soundfile.read(
        speech[0], dtype={"s16": "int16", "f32": "float32"}[kind]
    )
    ((best, *_),) = expected(model, speech[:1])
    command = [program, "--raw", kind, "--chunk-ms", "50", "--partial", model]
    done = run(*command, input=samples.tobytes(), text=False)
    *partial, last = done.stdout.decode().splitlines()
    assert done.returncode == 0 and last == best.text
    assert len(partial) > 2 and all(line.startswith("... ") for line in partial)
    assert len(set(partial)) == len(partial)


def test_raw_samples_that_end_within_one(program, model):
    done = run(program, "--raw", "s16", model, input=bytes(1001), text=False)
    assert done.returncode == 1 and not done.stdout
    message = b"gq-asr: standard input: it ends within a sample\n"
    assert done.stderr == message


@pytest.mark.parametrize(
    "form, subtype", [("WAVEX", "PCM_16"), ("WAVEX", "FLOAT"), ("WAV", "FLOAT")]
)
def test_forms_of_wav_files(program, model, speech, tmp_path, form, subtype):
    samples, _ = soundfile.read(speech[0], dtype="float32")
    soundfile.write(tmp_path / "a.wav", samples, 8000, subtype, format=form)
    done = run(program, model, tmp_path / "a.wav")
    assert done.stdout == run(program, model, speech[0]).stdout != "\n"


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000])
def test_wav_files_written_to_a_pipe(program, model, speech, tmp_path, size):
    """Their sizes were not known when the header was written."""
    contents = bytearray(speech[0].read_bytes())
    at = contents.index(b"data") + 4
    contents[at : at + 4] = struct.pack("<I", size)
    (tmp_path / "a.wav").write_bytes(contents)
    done = run(program, model, tmp_path / "a.wav")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == run(program, model, speech[0]).stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_an_error(program, model, speech):
    with open("/dev/full", "w") as full:
        done = run(
            *(program, model, speech[0]),
            capture_output=False,
            stdout=full,
            stderr=subprocess.PIPE,
        )
    assert done.returncode == 1
    assert done.stderr == "gq-asr: standard output: it cannot be written\n"


def test_timing_goes_to_standard_error(program, model, speech):
    done = run(program, "--timing", "--verify", "--threads", "2", model, speech[0])
    loaded, timed = done.stderr.splitlines()
    assert "loaded in" in loaded and "real-time factor" in timed
    assert len(done.stdout.splitlines()) == 1


def broken(folder, good):
    """Return {file: what is said of it}."""
    samples, _ = soundfile.read(good, dtype="float32")
    bytes_of = good.read_bytes()
    contents = {
        "text": (b"This is no WAV file.", "it is not a WAV file (RIFF)"),
        "empty": (b"", "it is not a WAV file (RIFF)"),
        "header": (bytes_of[:30], "the WAV file has a broken format"),
        "short": (bytes_of[:-1000], "the WAV file ends before its last sample"),
        "chunk": (
            b"RIFF\0\0\0\0WAVEjunk" + struct.pack("<I", 2**31),
            "the WAV file ends within its header",
        ),
        "none": (b"RIFF\0\0\0\0WAVE", "the WAV file has no samples"),
        "early": (
            b"RIFF\0\0\0\0WAVEdata\4\0\0\0abcd",
            "the WAV file has samples before their format",
        ),
    }
    found = {}
    for name, (data, message) in contents.items():
        (folder / f"{name}.wav").write_bytes(data)
        found[folder / f"{name}.wav"] = message
    for name, rate, subtype, channels, message in (
        ("rate", 16000, "PCM_16", 1, "it has 16000 samples per second; allowed: 8000"),
        ("stereo", 8000, "PCM_16", 2, "it has 2 channels; allowed: 1"),
        ("wide", 8000, "PCM_24", 1, "its samples have format 1 and 24 bits"),
    ):
        path = folder / f"{name}.wav"
        data = np.stack([samples] * channels, 1)
        soundfile.write(path, data, rate, subtype=subtype)
        found[path] = message
    path = folder / "nan.wav"
    soundfile.write(path, np.full(100, np.nan, np.float32), 8000, subtype="FLOAT")
    found[path] = "sample 0 is not a number from -1e6 to 1e6"
    found[folder / "absent.wav"] = "No such file or directory"
    return found


def test_bad_files_are_named_and_the_others_done(program, model, speech, tmp_path):
    wrong = broken(tmp_path, speech[0])
    done = run(program, model, speech[0], *wrong, speech[1])
    results = expected(model, speech[:2])
    assert done.returncode == 1
    assert done.stdout.splitlines() == [best.text for best, *_ in results]
    for line, (path, message) in zip(
        done.stderr.splitlines(), wrong.items(), strict=True
    ):
        assert line.startswith(f"gq-asr: {path}: {message}"), line


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "no model is given"),
        (["MODEL"], "no WAV file is given"),
        (["--mode", "fast", "MODEL", "a"], "--mode is 'fast'; allowed: int8, exact"),
        (["--threads", "0", "MODEL", "a"], "--threads is '0'; allowed: 1 to 256"),
        (["--beam=x", "MODEL", "a"], "--beam is 'x'; allowed: 1 to 100"),
        (["--no", "MODEL", "a"], "there is no option --no"),
        (["MODEL", "a", "--nbest"], "--nbest needs a value, or is no option"),
        (["--raw", "s16", "MODEL", "a"], "--raw reads standard input"),
        (["absent.gguf", "a"], "absent.gguf: No such file or directory"),
        (["/", "a"], "/: not a regular file"),
    ],
)
def test_bad_command_lines(program, model, words, message):
    done = run(program, *(model if word == "MODEL" else word for word in words))
    assert done.returncode == 2 and not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"gq-asr: {message}")


def test_help_and_version(program):
    done = run(program, "--help")
    assert done.returncode == 0 and done.stdout.startswith("usage: gq-asr ")
    assert run(program, "--version").stdout == "gq-asr 1.0\n"


def test_the_console_script_is_the_program(program, model, speech):
    command = [sys.executable, "-m", "espnet_gq.device.program"]
    done = run(*command, model, speech[0], "absent.wav")
    plain = run(program, model, speech[0], "absent.wav")
    assert done.returncode == plain.returncode == 1
    assert (done.stdout, done.stderr) == (plain.stdout, plain.stderr)
