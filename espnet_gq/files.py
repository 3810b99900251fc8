"""Writing files aside: a reader sees the old file or the whole new one.

What a killed writer leaves has a hidden name that ends in SUFFIX; the next one to write
to the same folder takes it away.
"""

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import time
from pathlib import Path
from typing import Any, Iterator, Set, TextIO, Tuple, Union

PathLike = Union[str, Path]

SUFFIX = ".aside"
LINK_SECONDS = 60
"""Age from which a link that was to be moved into place is a killed writer's."""
_swept: Set[Path] = set()
"""Folders that this process has cleared of leftovers."""


@contextlib.contextmanager
def written_aside(path: PathLike, sync: bool = True) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; move it into place at the end.

    After an exception within the block the temporary file is removed and `path` is as
    it was. Missing folders are made.

    Args:
        path: The file to write.
        sync: Have it on the disk before it is moved, so that not even a power failure
            leaves a part of it. Without, many small files are written sooner.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.parent not in _swept:
        remove_leftovers(path.parent)
        _swept.add(path.parent)
    handle, temporary = _create(path)
    try:
        yield temporary
        if sync:
            with open(temporary, "rb") as f:
                os.fsync(f.fileno())
        temporary.replace(path)
        if sync:
            _sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def folder_aside(path: PathLike) -> Iterator[Path]:
    """Give a temporary folder beside `path` to fill; move it into place at the end.

    As `written_aside`, but `path` must not exist, and what was written to the files is
    not forced onto the disk.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    handle, temporary = _create(path, folder=True)
    try:
        yield temporary
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def files_aside(folder: PathLike) -> Iterator[Path]:
    """Give a temporary folder to fill; its files are moved into `folder` at the end.

    Each file replaces the one of its name at once. After an exception within the block
    none is moved.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = _create(folder, folder=True)
    try:
        yield temporary
        for path in sorted(temporary.rglob("*")):
            target = folder / path.relative_to(temporary)
            if path.is_dir():
                target.mkdir(parents=True, exist_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(handle)


def link_aside(path: PathLike, target: str) -> None:
    """Set a symbolic link, or set it anew, without a moment in which there is none."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{SUFFIX}")
    os.symlink(target, temporary)
    try:
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def remove_leftovers(folder: PathLike) -> None:
    """Remove what killed writers left in a folder."""
    for path in Path(folder).glob(f".*{SUFFIX}"):
        with contextlib.suppress(OSError):  # of a living writer, or gone
            if path.is_symlink():  # cannot be locked; a living writer moves it at once
                if time.time() - path.lstat().st_mtime > LINK_SECONDS:
                    os.unlink(path)
                continue
            handle = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path) if path.is_dir() else os.unlink(path)
            finally:
                os.close(handle)


def _create(path: Path, folder: bool = False) -> Tuple[int, Path]:
    """Return a new file or folder beside `path`: its handle, locked while we live, and
    its name."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{SUFFIX}")
        if folder:
            temporary.mkdir()
            try:
                handle = os.open(temporary, os.O_RDONLY)
            except FileNotFoundError:  # as below
                continue
        else:
            handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return handle, temporary
        os.close(handle)  # another process took it for a leftover before it was locked


def _sync_folder(folder: Path) -> None:
    """Have a folder's names on the disk, where the file system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class AsideText:
    """A UTF-8 text file to write to that appears at its path when it is closed.

    Args:
        path: The file to write.
    """

    def __init__(self, path: PathLike):
        with contextlib.ExitStack() as stack:
            temporary = stack.enter_context(written_aside(path))
            file = open(temporary, "w", encoding="utf-8")
            self._file: TextIO = stack.enter_context(file)
            self._stack = stack.pop_all()

    def write(self, text: str) -> int:
        """Write a part of the text; returns its length."""
        return self._file.write(text)

    def flush(self) -> None:
        """Hand what was written to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Move the file into place; after `discard` and a second time, do nothing."""
        self._stack.close()

    def discard(self) -> None:
        """Remove what was written; the path is as it was."""
        error = InterruptedError()
        with contextlib.suppress(OSError):  # the disk may be full
            self._stack.__exit__(type(error), error, None)

    def __enter__(self) -> "AsideText":
        return self

    def __exit__(self, kind, error, trace) -> None:
        self._stack.__exit__(kind, error, trace)


def write_text(path: PathLike, text: str) -> None:
    """Write UTF-8 text aside and move it into place."""
    with AsideText(path) as file:
        file.write(text)


def write_json(path: PathLike, value: Any) -> None:
    """Write JSON aside and move it into place."""
    write_text(path, json.dumps(value, indent=2) + "\n")
