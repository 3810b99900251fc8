"""Running a cell: bit widths, model and figures."""

from dataclasses import replace

import pytest
import torch
import yaml

from experiments.cells import Cell
from experiments.running import allocation
from experiments.running import cell as cell_module
from experiments.running import evaluate
from experiments.running.place import StepFailed, Workplace


def test_widths_of_an_allocation_replace_those_of_the_cell(
    declared, tmp_path, monkeypatch
):
    chosen = {"gq_conf": {"bits": 2, "rules": [{"pattern": "enc.*", "bits": 6}]}}
    (tmp_path / "chosen.yaml").write_text(yaml.safe_dump({"encoder_conf": chosen}))
    found = allocation.read(tmp_path / "chosen.yaml")
    monkeypatch.setattr(cell_module, "allocation", lambda *_: found)
    place = Workplace(tmp_path / "place", declared, None, 1)
    cell = Cell("conformer", "trained", "gq", 4, "allocated_4", 1)
    confs = cell_module._gq_confs(place, cell)
    assert confs["encoder"] == chosen["gq_conf"] and confs["model"] == {"bits": 4}
    config = declared.cell_config(cell, confs)
    assert config["encoder_conf"]["gq_conf"] == chosen["gq_conf"]


def test_a_recalibrated_model_is_that_of_another_cell(declared, tmp_path):
    cell = Cell("conformer", "trained", "gq", 2, "recalibrated", 1)
    place = Workplace(tmp_path, declared, None, 1)
    assert not declared.trains(cell) and declared.trains(replace(cell, ablation=None))
    with pytest.raises(StepFailed, match="conformer-trained-gq-2b-s1"):
        cell_module._finished(place, cell)


def test_batch_norm_statistics_are_those_of_the_data(tmp_path, monkeypatch):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(1)

        def encode(self, speech, lengths):
            return self.norm(speech.view(-1, 1))

    model, speech = Model().eval(), torch.randn(6, 50) * 3 + 7
    batches = [(s[None], torch.tensor([50]), None, None) for s in speech]
    monkeypatch.setattr(evaluate, "batches", lambda model, data: iter(batches))
    evaluate.recalibrate(model, tmp_path)
    used = speech[::2]
    torch.testing.assert_close(model.norm.running_mean[0], used.mean())
    torch.testing.assert_close(model.norm.running_var[0], used.var(dim=1).mean())
    assert not model.norm.training


def test_training_figures_come_from_all_logs(tmp_path):
    line = (
        "{}epoch results: [train] acc=1, train_time={}, time=3 seconds, total_count={},"
    )
    (tmp_path / "train.log").write_text(line.format(3, 0.5, 30))
    first = [line.format(1, 0.25, 10), line.format(2, 0.375, 20)]
    (tmp_path / "train.1.log").write_text("\n".join(first))
    found = cell_module._training_figures(tmp_path)
    assert found == {"steps": 30, "seconds_a_step": 0.375}
