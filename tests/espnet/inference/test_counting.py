"""One model, one count of its parameters: log, pack, report, card, comparison."""

import logging
import re
import zipfile

import pytest
import torch
import yaml
from tiny_task import ABSENT, RNNT, SECOND_TASK, Task
from untrained import build, save

from espnet_gq.analysis.report import Checkpoint, report
from espnet_gq.analysis.size import Count, count, describe
from espnet_gq.bin import compare, pack
from espnet_gq.bin import report as report_command
from espnet_gq.espnet.inference.counting import describe_model, parameters_of
from espnet_gq.espnet.sharing.model_zip import zip_model
from espnet_gq.nn import training
from espnet_gq.packing import load_state_dict, unpack_state_dict

FLOAT = {
    **{f"{part}_conf__gq_conf": ABSENT for part in ("encoder", "decoder", "model")},
    **{"encoder": "conformer", "decoder": "transformer", "model": "espnet"},
}
MODELS = {
    "conformer": ({}, "asr"),
    "rnnt": (RNNT, "asr"),
    "second": (SECOND_TASK, "asr_transducer"),
    "float": (FLOAT, "asr"),
}
SAID = re.compile(r"([\d.]+)% of ([\d,]+) parameters")


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return Task(tmp_path_factory.mktemp("counting"), train=1, valid=1)


@pytest.fixture(scope="module")
def saved(task):
    """Return (folder of the files, the model, the truth) of one of MODELS."""
    done = {}

    def files(name):
        if name not in done:
            changes, asr_task = MODELS[name]
            config = task.config(f"{name}.yaml", **changes)
            model, _ = build(task, config, asr_task)
            folder = save(task, config, name, asr_task)
            done[name] = folder, model, truth(model)
        return done[name]

    return files


def truth(model):
    """Return (parameters, quantized ones, values in buffers), by hand."""
    mine = {n: p for n, p in model.named_parameters() if "_quantizer." not in n}
    state = {n: v for n, v in model.state_dict().items() if "_quantizer." not in n}
    quantized = {n for n in mine if f"{n}_quantizer.saved_state" in model.state_dict()}
    total = sum(p.numel() for p in mine.values())
    return (
        total,
        sum(mine[n].numel() for n in quantized),
        sum(v.numel() for v in state.values()) - total,
    )


def said(text):
    """Return (share, parameters) as a sentence has them."""
    share, parameters = SAID.search(text).groups()
    return share, int(parameters.replace(",", ""))


@pytest.mark.parametrize("name", ["conformer", "rnnt", "second"])
def test_everything_that_is_printed_agrees(
    saved, name, caplog, capsys, tmp_path, monkeypatch
):
    folder, model, (total, quantized, buffers) = saved(name)
    assert buffers > 2000  # the mel matrix is one
    expected = (f"{100 * quantized / total:.1f}", total)
    with caplog.at_level(logging.INFO):
        training.start(model)
    assert said(caplog.text) == expected
    assert f"{quantized:,} parameters" in caplog.text
    assert f"{buffers:,} values in buffers" in caplog.text

    pack.main(["--asr_model_file", str(folder / "model.pth")])
    assert said(capsys.readouterr().out) == expected
    for file in ("model.pth", "model.packed.pth"):
        report_command.main([str(folder / file)])
        out = capsys.readouterr().out
        assert f"{total:,} parameters and {buffers:,} values in buffers, " in out
        assert re.search(rf"quantized: {quantized:,} .* \({expected[0]}%\) at", out)
        assert f"{total - quantized:,} parameters ({100 - float(expected[0]):.1f}%" in (
            out.split("unquantized: ")[1]
        )
        size = describe_model(folder / file)
        assert (size.num_params, size.count.quantized) == (total, quantized)
        assert size.count.buffers == buffers

    monkeypatch.chdir(folder)
    zip_model("config.yaml", "model.packed.pth", tmp_path / "a.zip")
    card = zipfile.ZipFile(tmp_path / "a.zip").read("README.md").decode()
    assert said(card) == expected

    args = compare.get_parser().parse_args(
        ["--system", "a", str(folder / "model.packed.pth"), "d", "t"]
    )
    monkeypatch.setattr(compare, "load_units", lambda *_: None)
    monkeypatch.setattr(compare, "bootstrap", lambda *_, **__: None)
    (record,) = compare.measure(args)
    assert record["num_params"] == total
    assert record["quantized_share"] == quantized / total


def test_a_float_model(saved, capsys):
    folder, _, (total, quantized, buffers) = saved("float")
    assert quantized == 0
    size = describe_model(folder / "model.pth")
    assert size.count == Count(total, 0, 32.0, buffers)
    report_command.main([str(folder / "model.pth")])
    out = capsys.readouterr().out
    assert f"{total:,} parameters and {buffers:,} values in buffers" in out
    assert "melmat" not in out  # a matrix that is a buffer
    matrices = re.search(r"matrices: ([\d,]+) parameters", out)[1].replace(",", "")
    rest = re.search(r"others: ([\d,]+) parameters", out)[1].replace(",", "")
    assert int(matrices) + int(rest) == total


def test_forms_of_one_model_agree(saved):
    """The float form too, whose configuration is called otherwise."""
    folder, _, (total, _, buffers) = saved("conformer")
    form = ["--format", "float", "--output", str(folder / "float.pth")]
    pack.main(["--asr_model_file", str(folder / "model.pth"), *form])
    size = describe_model(folder / "float.pth", folder / "float.yaml")
    assert (size.num_params, size.count.buffers) == (total, buffers)


def test_names_of_another_release(saved, tmp_path):
    folder, _, (total, *_) = saved("conformer")
    state = dict(load_state_dict(folder / "model.pth"))
    renamed = {}
    for key, value in state.items():
        if "embed.out." in key:
            now = "embed.out.0." in key
            pair = ("embed.out.0.", "embed.out.")
            key = key.replace(*(pair if now else pair[::-1]))
        renamed[key] = value
    assert renamed.keys() != state.keys()
    torch.save(renamed, tmp_path / "model.pth")
    assert describe_model(
        tmp_path / "model.pth", folder / "config.yaml"
    ).num_params == (total)


# ---- Where buffers cannot be told apart ---------------------------------------------
UNKNOWN = {
    "none": lambda config: None,
    "no yaml": lambda config: "encoder: [",
    "a list": lambda config: "- a",
    "weights of others": lambda config: yaml.safe_dump({**config, "frontend": "s3prl"}),
    "not built": lambda config: yaml.safe_dump(
        {**config, "decoder_conf": {"no_such_option": 1}}
    ),
    "no tokens": lambda config: yaml.safe_dump({**config, "token_list": "no/such.txt"}),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_it_is_said_where_they_are_not(saved, tmp_path, capsys, case):
    folder, _, (total, quantized, buffers) = saved("conformer")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    text = UNKNOWN[case](config)
    if text is not None:
        (tmp_path / "config.yaml").write_text(text)
    (tmp_path / "model.pth").write_bytes((folder / "model.pth").read_bytes())
    assert parameters_of(tmp_path / "model.pth") is None
    pack.main(["--asr_model_file", str(tmp_path / "model.pth")])
    report_command.main([str(tmp_path / "model.pth")])
    packed, reported = capsys.readouterr().out.split("\n", 1)
    words = "parameters and buffers (no config.yaml to tell them apart)"
    assert words in packed and words in reported
    assert not SAID.search(packed.replace(words, ""))
    all_of_them = re.search(r"of ([\d,]+) parameters and", packed)[1]
    assert (
        int(all_of_them.replace(",", "")) == describe(folder / "model.pth").num_params
    )
    assert total < int(all_of_them.replace(",", "")) <= total + buffers


def test_statistics_that_lie_elsewhere(saved, tmp_path):
    folder, _, (total, _, buffers) = saved("conformer")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config.update(normalize="global_mvn", normalize_conf={"stats_file": "exp/none.npz"})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    state = dict(load_state_dict(folder / "model.pth"))
    state.update({"normalize.mean": torch.ones(20), "normalize.std": torch.ones(20)})
    torch.save(state, tmp_path / "model.pth")
    size = describe_model(tmp_path / "model.pth")
    assert (size.num_params, size.count.buffers) == (total, buffers + 40)


def test_nothing_at_all():
    assert str(count({}, {}, ())) == "0.0% of 0 parameters"


def test_the_state_dict_of_a_packed_file(saved):
    folder, _, (total, quantized, _) = saved("rnnt")
    pack.main(["--asr_model_file", str(folder / "model.pth")])
    names = parameters_of(folder / "model.pth")
    state = unpack_state_dict(load_state_dict(folder / "model.packed.pth"))
    assert sum(v.numel() for k, v in state.items() if k in names) == total
    result = report(Checkpoint.read(folder / "model.packed.pth"), names)
    assert result.parameters == total
    assert sum(t.parameters for t in result.tensors) == quantized
    assert result.rest.parameters == total - quantized
