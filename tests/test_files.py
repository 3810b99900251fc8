import os

import pytest

from espnet_gq.files import write_json, write_text, written_aside


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "results.txt"
    write_text(path, "old\n")
    with pytest.raises(RuntimeError):
        with written_aside(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError
    assert path.read_text() == "old\n"
    assert os.listdir(tmp_path) == ["results.txt"]


def test_a_written_file_has_the_usual_permissions(tmp_path):
    usual = tmp_path / "usual"
    usual.write_text("")
    path = tmp_path / "new" / "figures.json"
    write_json(path, {"bits": 5})
    assert path.read_text() == '{\n  "bits": 5\n}\n'
    assert path.stat().st_mode == usual.stat().st_mode
