import json
import sys

import pytest
import torch

import espnet_gq
from espnet_gq.analysis.sensitivity import Cost, Sensitivity, TensorCosts
from espnet_gq.bin import report
from espnet_gq.packing import pack_state_dict, save

PNG = b"\x89PNG\r\n"


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(40, 30), torch.nn.Linear(30, 3))
    save(model.state_dict(), tmp_path / "float.pth")
    espnet_gq.prepare(model, {"bits": 5, "rules": [{"pattern": "1", "bits": 2}]})
    model(torch.zeros(1, 40))
    save(model.state_dict(), tmp_path / "qat.pth")
    save(pack_state_dict(model.state_dict()), tmp_path / "packed.pth")
    return tmp_path


def cells(text, tensor):
    (line,) = [row for row in text.splitlines() if row.startswith(f"| {tensor} ")]
    rows = (text.splitlines()[0], line)
    return dict(zip(*([c.strip() for c in r[2:-2].split(" | ")] for r in rows)))


def test_the_three_forms_of_a_checkpoint(folder, capsys):
    for form in ("qat", "packed", "float"):
        report.main([str(folder / f"{form}.pth"), "--json", str(folder / "r.json")])
        text = capsys.readouterr().out
        written = json.loads((folder / "r.json").read_text())
        assert written["format"] == form
        assert written["parameters"] == 40 * 30 + 30 + 30 * 3 + 3
        row, figures = cells(text, "1.weight"), written["tensors"][1]
        assert (row["shape"], row["parameters"]) == ("3x30", "90")
        assert (figures["name"], figures["shape"]) == ("1.weight", [3, 30])
        if form == "float":
            assert row["bytes"] == "360" and "bits" not in row
            assert "matrices: 1,290 parameters in 2 tensors, 5,160 bytes" in text
            assert "others: 33 parameters (2.5%)" in text
            continue
        assert (row["bits"], row["bytes"]) == ("2", str(24 + 4 + 3 * 4))
        assert row["use, bits"] == f"{figures['use']:.2f} of 2"
        assert ".." in row["scale"] and ".." not in cells(text, "0.weight")["scale"]
        if form == "packed":
            assert row["error"] == row["kurtosis"] == "-"
        else:
            assert row["error"] == f"{100 * figures['error']:.2f}%"
        assert (
            "quantized: 1,290 parameters in 2 tensors (97.5%) at 4.79 effective" in text
        )
        assert "unquantized: 33 parameters (2.5%)" in text
        assert f"{written['compression']:.2f} x smaller than float32 (5,292" in text


@pytest.mark.parametrize("form", ["qat", "packed", "float"])
def test_plots(folder, capsys, form):
    costs = {2: Cost(loss=0.1, second_order=0.1, bytes=304, scales=1)}
    Sensitivity(
        task="asr",
        model="",
        data={},
        bits=[2],
        base_loss=1.0,
        utterances=1,
        unquantized={"numel": 0, "bytes": 0},
        unmeasured=0,
        tensors=[TensorCosts("0.weight", (30, 40), costs)],
    ).write(folder / "s.json")
    plots = folder / "made" / "here"
    command = [str(folder / f"{form}.pth"), "--plots", str(plots)]
    report.main(command)
    text = capsys.readouterr().out
    assert sorted(p.name for p in plots.iterdir()) == ["weights_1.png"]
    assert f"wrote {plots / 'weights_1.png'}" in text
    assert len([n for n in text.splitlines() if n.startswith("no plot of the")]) == 1

    stats = {1: {"valid": {"gq_settled": 0.5}}, 2: {"valid": {"gq_settled": 0.75}}}
    torch.save({"reporter": {"stats": stats}}, folder / "checkpoint.pth")
    report.main([*command, "--sensitivity", str(folder / "s.json")])
    assert "no plot" not in capsys.readouterr().out
    drawn = {p.name: p.read_bytes() for p in plots.iterdir()}
    assert sorted(drawn) == ["annealing.png", "sensitivity.png", "weights_1.png"]
    assert all(content.startswith(PNG) for content in drawn.values())


def fails(*arguments):
    with pytest.raises(SystemExit) as error:
        report.main([str(a) for a in arguments])
    assert error.value.code == 2 and "\n" not in str(error.value)
    return str(error.value)


def test_bad_input_gives_one_line(folder):
    qat, text = folder / "qat.pth", folder / "text"
    text.write_text("hello")
    assert f"{folder / 'none'}: no such file" in fails(folder / "none")
    assert f"{text} is not a checkpoint" in fails(text)
    assert "--sensitivity is given without --plots" in fails(qat, "--sensitivity", text)
    plots = ("--plots", folder / "plots")
    line = fails(qat, *plots, "--sensitivity", folder / "none")
    assert str(folder / "none") in line and "No such file" in line
    assert f"{text} is not JSON" in fails(qat, *plots, "--sensitivity", text)
    assert f"--plots is {text}, a file" in fails(qat, "--plots", text)
    assert not (folder / "plots").exists()


def test_without_matplotlib_the_table_remains(folder, monkeypatch, capsys):
    for name in [n for n in sys.modules if n.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    report.main([str(folder / "qat.pth")])
    capsys.readouterr()
    line = fails(folder / "qat.pth", "--plots", folder / "plots")
    assert "plots need matplotlib" in line and "pip install matplotlib" in line
    assert "| 1.weight" in capsys.readouterr().out
    assert not (folder / "plots").exists()
