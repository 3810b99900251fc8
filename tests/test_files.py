import contextlib
import os
import signal

import pytest

from espnet_gq import files
from espnet_gq.files import (
    AtomicText,
    atomic_files,
    atomic_folder,
    atomic_write,
    replace_symlink,
    write_json,
    write_text,
)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "results.txt"
    write_text(path, "old\n")
    with pytest.raises(RuntimeError):
        with atomic_write(path) as temporary:
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


def killed_writer(path, write=atomic_write):
    """Have a process killed while it writes; return what it leaves."""
    child = os.fork()
    if child == 0:
        with write(path) as temporary:
            (temporary / "a" if temporary.is_dir() else temporary).write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    (left,) = [name for name in os.listdir(path.parent) if name != path.name]
    return left


def test_what_a_killed_writer_leaves_is_removed_by_the_next(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pth"
    left = killed_writer(path)
    assert left.startswith(".checkpoint.pth.") and not path.exists()
    others = [tmp_path / ".checkpoint.pth.swp", tmp_path / f"notes{files.SUFFIX}"]
    for other in others:
        other.write_text("of somebody else")
    monkeypatch.setattr(files, "_swept", set())  # as another process
    write_text(path, "whole\n")
    assert sorted(tmp_path.iterdir()) == sorted([path, *others])


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "model"
    with pytest.raises(RuntimeError):
        with atomic_folder(path) as temporary:
            (temporary / "a").write_text("half")
            raise RuntimeError
    assert os.listdir(path.parent) == []
    left = killed_writer(path, atomic_folder)
    assert left.startswith(".model.") and not path.exists()
    with atomic_folder(path) as temporary:
        (temporary / "a").write_text("whole")
        files.remove_leftovers(path.parent)
        assert not path.exists()
    assert os.listdir(path.parent) == ["model"]
    assert (path / "a").read_text() == "whole"


def test_what_a_living_writer_writes_stays(tmp_path):
    with atomic_write(tmp_path / "a") as temporary:
        temporary.write_text("whole\n")
        files.remove_leftovers(tmp_path)
        assert temporary.exists()
    assert (tmp_path / "a").read_text() == "whole\n"


def killed_linker(folder):
    """Replace a link in a process that is killed before the last step."""
    child = os.fork()
    if child == 0:
        os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        replace_symlink(folder / "latest.pth", "5epoch.pth")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_a_link_is_replaced_in_one_step(tmp_path):
    (tmp_path / "5epoch.pth").write_text("model\n")
    path = tmp_path / "latest.pth"
    replace_symlink(path, "4epoch.pth")
    killed_linker(tmp_path)
    assert os.readlink(path) == "4epoch.pth" and len(os.listdir(tmp_path)) == 3
    (tmp_path / f".other{files.SUFFIX}").symlink_to("5epoch.pth")  # not ours
    files.remove_leftovers(tmp_path)
    names = [f".other{files.SUFFIX}", "5epoch.pth", "latest.pth"]
    assert sorted(os.listdir(tmp_path)) == names
    replace_symlink(path, "5epoch.pth")
    assert path.read_text() == "model\n"
    assert sorted(os.listdir(tmp_path)) == names


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, call):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    path = tmp_path / "results.txt"
    write_text(path, "old\n")
    monkeypatch.setattr(*(os, call) if call == "fsync" else (files.Path, call), full)
    with pytest.raises(OSError, match="No space"):
        write_text(path, "new\n")
    assert path.read_text() == "old\n"
    assert os.listdir(tmp_path) == ["results.txt"]


def test_a_text_appears_when_it_is_closed(tmp_path):
    path = tmp_path / "text"
    file = AtomicText(path)
    file.write("one\n")
    file.flush()
    assert not path.exists()
    file.close()
    file.close()
    assert path.read_text() == "one\n"
    file = AtomicText(path)
    file.write("two\n")
    file.discard()
    file.close()
    assert path.read_text() == "one\n"
    assert os.listdir(tmp_path) == ["text"]


@pytest.mark.parametrize("fails", [False, True])
def test_files_of_a_folder_are_replaced_together(tmp_path, fails):
    folder = tmp_path / "images"
    for name in ("a.png", "sub/b.png"):
        write_text(folder / name, "old")
    with pytest.raises(OSError) if fails else contextlib.nullcontext():
        with atomic_files(folder) as temporary:
            (temporary / "sub").mkdir()
            (temporary / "sub" / "b.png").write_text("new")
            (temporary / "new").mkdir()
            (temporary / "new" / "c.png").write_text("new")
            assert (folder / "sub" / "b.png").read_text() == "old"
            if fails:
                raise OSError
    found = {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*.png")
    }
    new = "old" if fails else "new"
    expected = {"a.png": "old", "sub/b.png": new}
    assert found == (expected if fails else {**expected, "new/c.png": "new"})
    assert os.listdir(tmp_path) == ["images"]
