"""The benchmark of a process without ESPnet runs, and its figures are plausible."""

import json

import pytest

from benchmarks import ROOT
from benchmarks.packed import without_espnet


def test_a_quick_run(tmp_path, capsys):
    json_file = tmp_path / "figures.json"
    without_espnet.main(["--quick", "--bits", "3", "--json", str(json_file)])
    (tree,) = json.loads(json_file.read_text())["trees"]
    assert tree["tree"] == "this"
    stages = list(tree["3 bits"].values())
    assert len(stages) == len(without_espnet.STAGES)
    assert all(stage["loaded"] == [] for stage in stages)
    memory = [stage["rss_bytes"]["median"] for stage in stages]
    assert 0 < memory[0] <= memory[1] <= memory[2] <= memory[-1]
    printed = capsys.readouterr().out
    assert str(ROOT) in printed and "espnet_gq.packing" in printed


def test_a_folder_without_the_package_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        without_espnet.main(["--quick", "--compared", str(tmp_path)])
    assert "allowed: a folder with espnet_gq/ in it" in capsys.readouterr().err
