"""Calibration of one model per task, with transcripts and without."""

import re

import pytest
import soundfile

from espnet_gq.bin import quantize
from tests.espnet.families import building, local
from tests.espnet.families.bases import TRANSLATION
from tests.espnet.families.decoding import speech
from tests.espnet.families.registry import FAMILIES

FIRST = {}
for _family in FAMILIES:
    FIRST.setdefault(_family.task, _family)
TEXTS = {"a": "three", "b": "seven"}
MARKS = {"s2t": "<eng><asr><notimestamps> ", "s2t_ctc": "<eng><asr> "}


@pytest.fixture(scope="module")
def assets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrated") / "assets"
    local.make(folder)
    return folder


@pytest.fixture(params=FIRST)
def model(request, tmp_path, assets):
    """The task, the options that name its float model, and a folder of recordings."""
    family = FIRST[request.param]
    building.save_float(family, tmp_path, assets)
    audio = speech(family.rate)
    lines = []
    for name, samples in (("a", audio), ("b", audio[: len(audio) - 400])):
        soundfile.write(tmp_path / f"{name}.wav", samples, family.rate)
        lines.append(f"{name} {tmp_path}/{name}.wav\n")
    (tmp_path / "wav.scp").write_text("".join(lines))
    files = [str(tmp_path / name) for name in ("config.yaml", "model.pth")]
    return family.task, [*files, "--bits", "4", "-o", str(tmp_path / "o.zip")], tmp_path


def written(task, folder):
    """Write the transcripts as in the task's trainings; return the file."""

    def line(words):
        if task == "st":
            return TRANSLATION[words]
        if task == "lm":  # ESPnet drops the first token
            return f"<unk> {words} one two"
        return MARKS.get(task, "") + words

    lines = [f"{key} {line(words)}\n" for key, words in TEXTS.items()]
    (folder / "text").write_text("".join(lines))
    return str(folder / "text")


def errors(out):
    """Return (output error, that of the nearest centroids) of each tensor."""
    cells = [line.split("|") for line in out.splitlines() if "second order" in line]
    return [(float(row[7]), float(row[8])) for row in cells]


def test_with_transcripts(model, capsys):
    task, options, folder = model
    text = written(task, folder)
    data = [text] if task == "lm" else [str(folder / "wav.scp"), text]
    quantize.main([*options, "--data", *data])
    out = capsys.readouterr().out
    found = errors(out)
    assert len(found) >= 3
    assert all(error <= nearest for error, nearest in found)
    assert "Calibrated on 2 utterances" in out
    if task == "lm":
        before, after = re.search(r"text: ([\d.]+), ([\d.]+) after", out).groups()
        assert 0.5 < float(after) / float(before) < 2
    else:
        assert ("WER on the calibration data" in out) == (task != "st")


def test_without_transcripts(model, capsys):
    task, options, folder = model
    if task == "lm":
        pytest.skip("a language model has nothing but text")
    try:
        quantize.main([*options, "--data", str(folder / "wav.scp")])
    except SystemExit as e:  # random weights may recognise nothing
        assert "no utterance has labels" in str(e) and "\n" not in str(e)
    else:
        out = capsys.readouterr().out
        assert all(error <= nearest for error, nearest in errors(out))
        assert "labels: the model's own" in out or "the model itself" in out


@pytest.mark.parametrize("task", MARKS)
def test_transcripts_of_owsm_without_its_symbols(task, tmp_path, assets):
    building.save_float(FIRST[task], tmp_path, assets)
    soundfile.write(tmp_path / "a.wav", speech(FIRST[task].rate), FIRST[task].rate)
    (tmp_path / "wav.scp").write_text(f"a {tmp_path}/a.wav\n")
    (tmp_path / "text").write_text("a three\n")
    files = [str(tmp_path / name) for name in ("config.yaml", "model.pth")]
    data = [str(tmp_path / "wav.scp"), str(tmp_path / "text")]
    with pytest.raises(SystemExit) as error:
        quantize.main([*files, "-o", str(tmp_path / "o.zip"), "--data", *data])
    assert "the transcript of a has no symbols of language and task" in str(error.value)
    assert "allowed: text as in the training" in str(error.value)
