"""Quantization without training: measuring, resuming, and the tables."""

import copy
import json

import numpy as np
import pytest
import soundfile
import torch
import yaml

from benchmarks import espnet_models
from espnet_gq.analysis.wer import paired_bootstrap
from experiments import post_training
from experiments.cells import Cell, Grid
from experiments.reporting import post_training as reporting
from experiments.reporting.results import ALL, units
from experiments.running.cell import write_result
from tests.experiments.records import SETS, record_of

MEASURED = SETS[:2]
ERRORS = {"uniform": 0.3, "gq": 0.3, "gptq": 0.2, "gq_calibrated": 0.1}


def record_for(errors, widths=(4, 3)):
    """Return a stored record with approximately these error rates."""

    def one(method, bits, share):
        found = record_of(Cell("conformer", "trained", method, bits), share)
        return {"sets": {name: found["sets"][name] for name in MEASURED}}

    cells = {
        f"{method}-{bits}": one(method, bits, share)
        for bits in widths
        for method, share in errors.items()
    }
    return {"float": one("float", None, 0.1), "cells": cells}


@pytest.fixture
def trained(tmp_path):
    """Fill a folder with the grid's results of a float model and of training."""
    cells = [Cell("conformer", "trained", "float")]
    cells += [Cell("conformer", "trained", "float_longer", None, None, 1)]
    cells += [Cell("conformer", "trained", "gq", bits, None, 1) for bits in (4, 3)]
    for cell in cells:
        write_result(tmp_path / f"{cell.name}.json", record_of(cell, 0.1))
    return tmp_path


def row(text, first, table):
    """Return the cells of a row of the first or the second table."""
    found = [line for line in text.splitlines() if line.startswith(f"| {first} ")]
    return [cell.strip() for cell in found[table].split("|")[1:-1]]


def test_training_stands_beside_the_other_methods(trained, capsys, tmp_path):
    record = record_for(ERRORS)
    stored = tmp_path / "stored.json"
    stored.write_text(json.dumps(record))
    options = ["--output", str(stored), "--trained", str(trained)]
    post_training.main(["--architecture", "conformer", *options])
    text = capsys.readouterr().out
    header = row(text, "bits", 0)
    assert header[1] == "uniform, nearest" and header[-1] == "GQ, trained"
    differences = dict(zip(header, row(text, "3", 1)))
    before, after = record["float"], record["cells"]["gq_calibrated-3"]
    found = paired_bootstrap(units(before, ALL), units(after, ALL))
    assert differences["GQ, calibrated"].startswith(f"{found.value:+.2f} [")
    assert differences["uniform, calibrated"] == ""
    rates = dict(zip(header, row(text, "float", 0)))
    assert rates["GQ, trained"] == rates["GQ, calibrated"]
    sets = [record_of(Cell("conformer", "trained", "gq", 3, None, 1), 0.1)["sets"]]
    errors = sum(sets[0][name]["errors"] for name in MEASURED)
    words = sum(sets[0][name]["words"] for name in MEASURED)
    trained_rate = dict(zip(header, row(text, "3", 0)))["GQ, trained"]
    assert trained_rate.startswith(f"{100 * errors / words:.2f}% [")
    assert "another training" not in text
    assert "float trained as long is at " in " ".join(text.split())


@pytest.mark.parametrize(
    "calibrated, lossless, halved",
    [
        (0.1, "no significant loss", "less than half."),
        (0.2, "a significant loss", "this test cannot tell."),
        (0.6, "a significant loss", "more than half."),
    ],
)
def test_what_is_said_of_calibration(trained, calibrated, lossless, halved):
    record = record_for({**ERRORS, "gq_calibrated": calibrated})
    lines = post_training.text(record, "conformer", trained).splitlines()
    (line,) = [line for line in lines if line.startswith("Calibrated at 4 bits")]
    assert line.endswith(f"points against float, {lossless}.")
    (line,) = [line for line in lines if line.startswith("Loss at 3 bits")]
    assert line.endswith(halved)


def with_start(trained, bits, kurtosis):
    """Have a trained cell start from another float model; return its result."""
    cell = Cell("conformer", "trained", "gq", bits, None, 1)
    found = record_of(cell, 0.1)
    found["start_figures"]["kurtosis_before"] = kurtosis
    write_result(trained / f"{cell.name}.json", found)
    return found


def test_trained_models_are_compared_with_their_own_start(trained):
    record = record_for(ERRORS)
    cell = Cell("conformer", "trained", "float")
    start = record_of(cell, 0.2)
    write_result(trained / f"{cell.name}.json", start)
    found = {bits: with_start(trained, bits, k) for bits, k in ((4, 4.0), (3, 3.1))}
    record["start_figures"] = found[4]["start_figures"]
    text = post_training.text(record, "conformer", trained)
    assert "trained models of 3 bits start from another training" in text
    for bits, baseline in ((4, record["float"]), (3, start)):
        base, after = (
            units({"sets": {n: r["sets"][n] for n in MEASURED}}, ALL)
            for r in (baseline, found[bits])
        )
        value = paired_bootstrap(base, after).value
        said = float(row(text, str(bits), 1)[-1].partition(" ")[0])
        assert said == pytest.approx(value, abs=0.0051)


def test_an_unknown_start_is_refused(trained):
    with_start(trained, 4, 4.0)
    with pytest.raises(reporting.GridError, match="at 4 bits starts from neither"):
        post_training.text(record_for(ERRORS), "conformer", trained)


def test_results_of_other_data_are_refused(trained):
    record = record_for(ERRORS)
    record["float"]["sets"]["test_noisy"]["digest"] = "other"
    with pytest.raises(reporting.GridError, match="same test_noisy"):
        post_training.text(record, "conformer", trained)


def test_widths_without_training_have_an_empty_cell(trained):
    (trained / "conformer-trained-gq-3b-s1.json").unlink()
    text = post_training.text(record_for(ERRORS), "conformer", trained)
    assert row(text, "3", 0)[-1] == "" and row(text, "4", 0)[-1] != ""


# ---- Measuring ----------------------------------------------------------------------
def write_data(folder, count, seed):
    """Write a data directory of noise, with two words each."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    names = [f"ann-{n}" for n in range(count)]
    for name in names:
        noise = rng.normal(0, 0.1, 8000).astype(np.float32)
        soundfile.write(folder / f"{name}.wav", noise, 8000)
    for table, value in (
        ("wav.scp", lambda name: folder / f"{name}.wav"),
        ("text", lambda name: "one two"),
        ("utt2spk", lambda name: "ann"),
    ):
        lines = [f"{name} {value(name)}\n" for name in names]
        (folder / table).write_text("".join(lines))


def write_start(work, seed):
    """Write a float Conformer with random weights as a run of the grid does."""
    config = Grid().float_config("conformer")
    config["encoder_conf"] |= {"num_blocks": 2}
    given = espnet_models.options(config, 8)
    given |= dict(specaug=None, normalize=None, init=None, token_type="word")
    given["token_list"] = ["<blank>", "<unk>", *"one two three".split(), "<sos/eos>"]
    torch.manual_seed(seed)
    model = espnet_models.build(given)
    exp = work / "recipe/exp/conformer-start"
    exp.mkdir(parents=True, exist_ok=True)
    (exp / "config.yaml").write_text(yaml.safe_dump(given))
    (work / "starts").mkdir(exist_ok=True)
    torch.save(model.state_dict(), work / "starts/conformer-trained.pth")
    (work / "starts/conformer-trained.json").write_text(f'{{"seed": {seed}}}')


def test_a_run_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("train", *MEASURED)):
        write_data(tmp_path / "recipe/data" / name, 3, number)
    write_start(tmp_path, 0)
    stored = tmp_path / "stored.json"
    command = ["--work", str(tmp_path), "--output", str(stored), "--bits", "2"]
    command += ["--trained", str(tmp_path), "--utterances", "3"]
    post_training.main([*command, "--methods", "uniform"])
    first = json.loads(stored.read_text())
    assert list(first["cells"]) == ["uniform-2"] and first["utterances"] == 3
    capsys.readouterr()
    post_training.main([*command, "--methods", "uniform", "gq_calibrated"])
    again = json.loads(stored.read_text())
    assert list(again["cells"]) == ["uniform-2", "gq_calibrated-2"]
    # With its times, which measuring once more would change.
    assert again["cells"]["uniform-2"] == first["cells"]["uniform-2"]
    assert again["float"] == first["float"] and again["start_figures"] == {"seed": 0}
    assert "has no float model of conformer" in capsys.readouterr().out
    digests = [
        {name: one["digest"] for name, one in found["sets"].items()}
        for found in (again["float"], again["cells"]["gq_calibrated-2"])
    ]
    assert digests[0] == digests[1] and set(digests[0]) == set(MEASURED)

    write_start(tmp_path, 1)
    with pytest.raises(SystemExit) as error:
        post_training.main([*command, "--methods", "gq"])
    assert "does not make the errors of the stored one" in str(error.value)
    assert json.loads(stored.read_text()) == again


def test_a_record_goes_on_with_as_many_utterances_only():
    found = record_for(ERRORS)["float"]
    record = {"float": copy.deepcopy(found), "utterances": 60, "cells": {}}
    post_training.check_same(record, 60, found)
    with pytest.raises(post_training.GridError, match="on 3 utterances"):
        post_training.check_same(record, 3, found)


def test_without_results_the_command_says_what_makes_some(tmp_path):
    with pytest.raises(SystemExit) as error:
        post_training.main(["--output", str(tmp_path / "none.json")])
    assert "has no results; allowed: --work DIR" in str(error.value)
