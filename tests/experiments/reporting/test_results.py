"""Error rates, intervals and differences of stored results."""

import json

import pytest

from espnet_gq.analysis import wer
from experiments.cells import Grid, GridError
from experiments.reporting.document import Report
from experiments.reporting.results import ALL, Key, Rates, Results, units
from tests.experiments.records import SETS


def test_rates_are_those_of_the_bootstrap(folder):
    results = Results(folder)
    first, second = list(results.records.values())[:2]
    for name in (*SETS, ALL):
        counts = {"a": units(first, name), "b": units(second, name)}
        rates = Rates(counts)
        assert rates.interval("a") == wer.bootstrap(counts["a"])
        paired = wer.paired_bootstrap(counts["a"], counts["b"])
        assert rates.difference("a", "b")[:3] == pytest.approx(paired, abs=1e-9)
    same = Rates({"a": counts["a"], "b": counts["a"]}).difference("a", "b")
    assert same.verdict == "tied" and same.p == 1.0


def test_results_on_other_data_are_not_mixed(folder, tmp_path):
    for path in folder.glob("*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    path = sorted(tmp_path.glob("*.json"))[-1]
    record = json.loads(path.read_text())
    record["sets"]["test_far"]["digest"] = "other"
    path.write_text(json.dumps(record))
    with pytest.raises(GridError, match="measured on different data .test_far."):
        Results(tmp_path)


def test_models_from_different_starts_are_not_compared(folder, tmp_path):
    for path in folder.glob("*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    path = tmp_path / "conformer-trained-uniform-2b-s1.json"
    record = json.loads(path.read_text())
    record["start_figures"]["kurtosis_before"] = 4.0
    path.write_text(json.dumps(record))
    gq, uniform, lsq = (
        Key("conformer", "trained", method, 2) for method in ("gq", "uniform", "lsq")
    )
    before, after = Results(folder), Results(tmp_path)
    assert before.pair(uniform, gq) and before.pair(lsq, gq) and after.pair(lsq, gq)
    assert after.pair(uniform, gq) is None
    assert before.from_other_starts() == []
    assert after.from_other_starts() == [path.stem]
    text = Report(Grid(), after).document("report", "tables", [])
    assert f"compared with no other cell: {path.stem}." in text
