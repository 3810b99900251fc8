"""Running cells in parallel, and the folder in which they run."""

import sys

import pytest

from experiments.cells import GridError
from experiments.running import queue
from experiments.running.cell import write_result
from experiments.running.place import StepFailed, Stopped, Workplace
from tests.experiments.records import record_of


@pytest.fixture
def place(tmp_path, declared, monkeypatch):
    monkeypatch.setattr(Workplace, "prepare_data", lambda self: None)
    return Workplace(tmp_path, declared, None, 1)


def test_cells_with_a_result_are_skipped_and_a_failed_one_does_not_stop_the_run(
    place, declared, monkeypatch, capsys
):
    cells, ran = declared.cells[:4], []

    def run_cell(place, cell):
        ran.append(cell)
        if cell == cells[1]:
            raise StepFailed("ValueError: no data (see a.log)")
        record = record_of(cell)
        write_result(place.results / f"{cell.name}.json", record)
        return record

    monkeypatch.setattr(queue, "run_cell", run_cell)
    write_result(place.results / f"{cells[0].name}.json", record_of(cells[0]))
    assert queue.run(place, cells) == 1
    assert ran == cells[1:]
    failed = place.results / f"{cells[1].name}.failed"
    assert failed.read_text() == "ValueError: no data (see a.log)\n"
    printed = capsys.readouterr().out
    assert "1 of 4 cells have results" in printed
    assert f"[1/3] {cells[1].name}: FAILED: ValueError" in printed
    assert "[3/3]" in printed and "0 h 00 min left" in printed
    # The next run retries the failed cell only.
    monkeypatch.setattr(queue, "run_cell", lambda place, cell: record_of(cell))
    assert queue.run(place, cells) == 0
    assert not failed.exists()


def test_two_runs_do_not_share_a_folder(place, declared):
    with pytest.raises(GridError, match="in use by another run"):
        Workplace(place.root, declared, None, 1)


def test_a_failing_command_gives_the_reason(place, tmp_path):
    code = "print('x'); raise RuntimeError('no such tensor')"
    log = tmp_path / "a.log"
    with pytest.raises(StepFailed, match="RuntimeError: no such tensor"):
        place.call([sys.executable, "-c", code], log)
    place.stop()
    with pytest.raises(Stopped):
        place.call([sys.executable, "-c", ""], log)
