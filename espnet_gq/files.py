"""Atomic writes: a reader sees the old file or the complete new one.

Temporary files are hidden and end in SUFFIX; the next writer to the folder deletes
stale ones.
"""

import contextlib
import fcntl
import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any, Iterator, Set, TextIO, Tuple, Union

PathLike = Union[str, Path]

SUFFIX = ".aside"
"""Suffix of temporary files, also of those that the recipes' shell scripts write."""
_swept: Set[Path] = set()
"""Folders in which this process has deleted stale files."""


@contextlib.contextmanager
def atomic_write(path: PathLike, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to, and rename it at the end.

    After an exception within the block the temporary file is removed and `path` is
    unchanged. Missing folders are created.

    Args:
        path: The file to write.
        sync: Flush the file to the disk before it is renamed, so that even a power
            failure leaves no partial file. Many small files are faster without.
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
def atomic_folder(path: PathLike) -> Iterator[Path]:
    """Yield a temporary folder beside `path` to fill, and rename it at the end.

    As `atomic_write`, but `path` must not exist, and the files are not flushed to the
    disk.
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
def atomic_files(folder: PathLike) -> Iterator[Path]:
    """Yield a temporary folder to fill, and move its files to `folder` at the end.

    Each file atomically replaces the one of the same name. After an exception within
    the block none is moved.
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


def replace_symlink(path: PathLike, target: str) -> None:
    """Create a symlink, or atomically replace the one that is there."""
    path = Path(path)
    # In a folder, which can be locked: a symlink cannot.
    handle, temporary = _create(path, folder=True)
    try:
        os.symlink(target, temporary / path.name)
        os.replace(temporary / path.name, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(handle)


def remove_leftovers(folder: PathLike) -> None:
    """Delete temporary files of killed writers in a folder."""
    for path in Path(folder).glob(f".*{SUFFIX}"):
        with contextlib.suppress(OSError):  # locked by a running writer, or gone
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path) if path.is_dir() else os.unlink(path)
            finally:
                os.close(handle)


def _create(path: Path, folder: bool = False) -> Tuple[int, Path]:
    """Create a file or folder beside `path`; return its locked handle and its name.

    The lock lasts until the handle is closed: what can be locked by others is stale.
    """
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
        os.close(handle)  # another process deleted it before it was locked


def _sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk if the file system supports it."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class AtomicText:
    """A UTF-8 text file, open for writing, that appears at its path when closed.

    Args:
        path: The file to write.
    """

    def __init__(self, path: PathLike):
        with contextlib.ExitStack() as stack:
            temporary = stack.enter_context(atomic_write(path))
            file = open(temporary, "w", encoding="utf-8")
            self._file: TextIO = stack.enter_context(file)
            self._stack = stack.pop_all()

    def write(self, text: str) -> int:
        """Write text; return its length."""
        return self._file.write(text)

    def flush(self) -> None:
        """Flush the buffer to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Rename the file to its path; does nothing if closed or discarded."""
        self._stack.close()

    def discard(self) -> None:
        """Delete the temporary file; the path is unchanged."""
        error = InterruptedError()
        with contextlib.suppress(OSError):  # the disk may be full
            self._stack.__exit__(type(error), error, None)

    def __enter__(self) -> "AtomicText":
        return self

    def __exit__(self, kind, error, trace) -> None:
        self._stack.__exit__(kind, error, trace)


def write_text(path: PathLike, text: str) -> None:
    """Write UTF-8 text atomically."""
    with AtomicText(path) as file:
        file.write(text)


def write_json(path: PathLike, value: Any) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")
