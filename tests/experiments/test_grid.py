"""The commands of the grid: list, report, tables, check."""

import copy
import json
import re

import numpy as np
import pytest

from benchmarks import ROOT
from experiments import grid
from experiments.cells import Cell, Grid
from experiments.reporting.document import Report
from experiments.reporting.results import Results
from experiments.running import queue
from experiments.running.cell import write_result
from experiments.running.place import Workplace
from tests.experiments.records import record_of


def test_no_such_cell(capsys):
    with pytest.raises(SystemExit) as stopped:
        grid.main(["list", "--cells", "nothing-*"])
    assert "no cell matches nothing-*" in str(stopped.value)


def report(folder, output):
    command = ["report", "--results", folder, "--output", output / "RESULTS.md"]
    grid.main(list(map(str, [*command, "--plots", output / "docs"])))
    text = (output / "RESULTS.md").read_text()
    return text, sorted((output / "docs").iterdir())


def tables(folder, capsys, *options):
    grid.main(["tables", "--results", str(folder), *options])
    return capsys.readouterr().out


def test_the_report_is_reproducible_byte_for_byte(folder, tmp_path, capsys):
    texts, plots = [], []
    for name in ("one", "two"):
        text, drawn = report(folder, tmp_path / name)
        texts.append(text.replace(str(tmp_path / name), ""))
        plots.append([path.read_bytes() for path in drawn])
        assert [path.name for path in drawn] == ["grid_conformer_trained.svg"]
    assert texts[0] == texts[1] and plots[0] == plots[1]


def test_the_report_lists_wins_ties_and_missing_cells(folder, declared, tmp_path):
    text, _ = report(folder, tmp_path)
    assert "  - float, trained as long: tied at 5 x3 and 2 x3 bits\n" in text
    assert ", better: uniform (FP-QAT) at 2 x3 (-" in text and "p < 0.001)" in text
    assert ", tied: LSQ at 2 x3\n" in text and ", worse:" not in text
    assert "(0 with one seed)" in text
    assert "GQ is better in 1, tied in 1 and worse in 0." in text
    apart = re.search(r"Of 6 .* better in (\d), tied in (\d) and worse in (\d)", text)
    counts = [int(n) for n in apart.groups()]
    assert sum(counts) == 6 and counts[0] > 0
    assert "![conformer, trained weights](docs/grid_conformer_trained.svg)" in text
    assert "2026-01-02" in text
    there = {path.stem for path in folder.glob("*.json")}
    missing = [cell for cell in declared.cells if cell.name not in there]
    total = re.search(r"(\d+) have a result and (\d+) are missing", text)
    assert [int(n) for n in total.groups()] == [len(there), len(missing)]
    by_place = re.findall(r"^- \w+, \w+ weights \((\d+)\): ", text, re.MULTILINE)
    assert sum(map(int, by_place)) == len(missing)
    line = re.search(r"^- conformer, trained weights \(\d+\): .*", text, re.MULTILINE)
    assert "GQ at 4, 3 and 1 (seeds 1, 2 and 3), at 8 and 6 (seed 1);" in line[0]


def test_comparisons_with_one_seed_are_counted(folder, tmp_path):
    for path in folder.glob("*"):
        if not path.stem.endswith(("s2", "s3")):
            (tmp_path / path.name).write_text(path.read_text())
    text, _ = report(tmp_path, tmp_path / "out")
    assert "(2 with one seed)" in text and "tied at 5 and 2 bits" in text


def test_the_tables_contain_what_the_report_omits(folder, capsys):
    text = tables(folder, capsys, "--places", "conformer-tr*")
    for words in (
        *(" x3", "p<0.001 better", "./run.sh --stage 11", "one scale per tensor"),
        *("9.50", "### WER, test_far", "### Seconds per step", "missing"),
    ):
        assert words in text, words
    assert "rnnt, trained weights\n\n###" not in text
    with pytest.raises(SystemExit, match="allowed: patterns that match one of"):
        tables(folder, capsys, "--places", "conformer")


def test_the_tables_give_the_rate_of_each_seed(folder, capsys):
    text = tables(folder, capsys)
    part = text.split("### WER of each seed, all sets\n\n")[1].split("\n\n")[0]
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in part.splitlines()]
    assert rows[0][3:] == ["seed 1", "seed 2", "seed 3", "deviation"]
    (row,) = [row for row in rows if row[:3] == ["uniform (FP-QAT)", "", "2"]]
    expected = []
    for seed in (1, 2, 3):
        name = f"conformer-trained-uniform-2b-s{seed}.json"
        sets = json.loads((folder / name).read_text())["sets"].values()
        errors, words = (sum(s[k] for s in sets) for k in ("errors", "words"))
        expected.append(100 * errors / words)
    assert row[3:] == [f"{v:.2f}" for v in [*expected, np.std(expected, ddof=1)]]


def test_a_set_that_some_results_lack_is_left_out(folder, tmp_path):
    for path in folder.glob("*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    record = json.loads(path.read_text())
    del record["sets"]["test_far"]
    (tmp_path / path.name).write_text(json.dumps(record))
    results = Results(tmp_path)
    assert results.sets == ["test_clean", "test_noisy"]
    text = Report(Grid(), results).document("command", "tables", [])
    assert "`test_far` is left out" in text


@pytest.mark.parametrize("text", ["", "[]", '{"benchmark": "other"}'])
def test_other_files_are_refused_in_one_sentence(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(SystemExit, match="a.json is not a result file of the grid"):
        grid.main(["report", "--results", str(tmp_path), "--output", "unused"])


def test_check_compares_with_the_interval(folder, declared, capsys):
    cell = Cell("conformer", "trained", "gq", 5, None, 1)
    stored = record_of(cell)
    assert all(grid.compare(stored, record_of(cell, seed=1)))
    worse = grid.compare(stored, record_of(cell, 0.4))
    assert not any(worse) and "OUTSIDE" in capsys.readouterr().out
    none = copy.deepcopy(stored)
    for found in none["sets"].values():
        for row in found["units"].values():
            row["errors"] = " ".join(["0"] * 20)
    assert all(grid.compare(none, none))


def test_check_runs_the_cell_in_another_folder(folder, tmp_path, monkeypatch, capsys):
    def run_cell(place, cell):
        record = record_of(cell, seed=1)
        write_result(place.results / f"{cell.name}.json", record)
        return record

    monkeypatch.setattr(Workplace, "prepare_data", lambda self: None)
    monkeypatch.setattr(queue, "run_cell", run_cell)
    command = ["check", "--cell", "conformer-trained-gq-5b-s1"]
    command += ["--results", str(folder)]
    with pytest.raises(SystemExit) as stopped:
        grid.main([*command, "--work", str(tmp_path)])
    assert stopped.value.code == 0
    assert "test_far: " in capsys.readouterr().out
    with pytest.raises(SystemExit, match="holds the stored result; give another"):
        (tmp_path / "same").mkdir()
        (tmp_path / "same/results").symlink_to(folder)
        grid.main([*command, "--work", str(tmp_path / "same")])


def test_results_md_is_up_to_date(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grid.main(["report", "--output", "RESULTS.md", "--plots", "docs/results"])
    kept = (ROOT / "RESULTS.md").read_bytes()
    assert (tmp_path / "RESULTS.md").read_bytes() == kept
    assert len(kept.splitlines()) <= 120
