"""Error rates, intervals and differences of stored results."""

import json

import pytest

from espnet_gq.analysis import wer
from experiments.cells import GridError
from experiments.reporting.results import ALL, Rates, Results, units
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
