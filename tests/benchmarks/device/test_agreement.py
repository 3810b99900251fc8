"""The comparison of the device engine with PyTorch, on a tiny model."""

import json

import pytest
import soundfile
from exporting.recognizers import KINDS, make, utterances

from benchmarks.device import agreement
from espnet_gq.device.engine import find_library

pytestmark = pytest.mark.skipif(find_library() is None, reason="no device engine")


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Return the command line of a model and a data directory of four utterances."""
    folder = tmp_path_factory.mktemp("agreement")
    files = make(folder / "model", KINDS["lstm"])
    with (
        open(folder / "wav.scp", "w") as scp,
        open(folder / "text", "w") as text,
    ):
        for name, samples in utterances(4).items():
            soundfile.write(folder / f"{name}.wav", samples, 8000, subtype="PCM_16")
            scp.write(f"{name} {folder}/{name}.wav\n")
            text.write(f"{name} wa wb\n")
    return [*map(str, files), "--data", str(folder), "--beam", "2"]


def test_an_engine_that_agrees(case, tmp_path, capsys):
    assert agreement.main([*case, "--json", str(tmp_path / "a.json")]) == 0
    title, _, row = capsys.readouterr().out.splitlines()
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    found = json.loads((tmp_path / "a.json").read_text())["summary"]
    assert found["utterances"] == found["same tokens"] == found["same in chunks"] == 4
    assert found["tokens"] > 4 and cells[0] == "4" and "WER int8" in title
    assert 0 <= found["largest difference of a score"] < 1e-3
    assert found["WER pytorch"] == found["WER engine"] > 50


def test_an_engine_that_differs(case, capsys, monkeypatch):
    build = agreement.reference

    def other(*arguments):
        decode = build(*arguments)
        calls = []

        def decoded(samples):
            calls.append(samples)
            labels, score, text = decode(samples)
            return (labels if len(calls) > 1 else (*labels, 3)), score, text

        return decoded

    monkeypatch.setattr(agreement, "reference", other)
    assert agreement.main(case) == 1
    *_, line = capsys.readouterr().out.splitlines()
    assert line.startswith(next(iter(utterances(4)))) and "'score'" in line
