"""Atomic forms of ESPnet's writers: checkpoints, links, plots, configuration, results.

ESPnet writes in place: a killed process, or a full disk, leaves half a file.
"""

import os
from pathlib import Path, PosixPath
from typing import Any, Callable

import torch

from espnet_gq.files import AtomicText, atomic_files, atomic_write, replace_symlink


def save(obj: Any, f: Any, *args: Any, **kwargs: Any) -> None:
    """Save as `torch.save` does, and atomically where `f` is a path."""
    if not isinstance(f, (str, os.PathLike)):
        torch.save(obj, f, *args, **kwargs)
        return
    # A file, not a name: torch.save would write the temporary name into it.
    with atomic_write(Path(f)) as temporary, open(temporary, "wb") as file:
        torch.save(obj, file, *args, **kwargs)


class _AnyPath(type):
    """Counts every path as an instance: ESPnet checks the types of its arguments."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, Path)


class AtomicPath(PosixPath, metaclass=_AnyPath):
    """A path whose text files and symbolic links are replaced in one step.

    ESPnet replaces a link by `unlink` and `symlink_to`. Here `unlink` leaves a link
    where it is, and `symlink_to` replaces it.
    """

    def open(self, mode="r", *args, **kwargs):
        """Open the file; with mode "w" it is written atomically, as UTF-8."""
        if mode == "w":
            return AtomicText(self)
        return super().open(mode, *args, **kwargs)

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the file, unless it is a symbolic link."""
        if not self.is_symlink():
            super().unlink(missing_ok)

    def symlink_to(self, target, target_is_directory: bool = False) -> None:
        """Make the symbolic link, or replace the one that is there."""
        replace_symlink(self, os.fspath(target))


def matplotlib_plot(original: Callable) -> Callable:
    """Wrap `Reporter.matplotlib_plot`: the plots of an epoch appear whole."""

    def matplotlib_plot(self, output_dir):
        with atomic_files(output_dir) as temporary:
            original(self, temporary)

    return matplotlib_plot


def setitem(original: Callable) -> Callable:
    """Wrap `DatadirWriter.__setitem__`: a text appears when its writer is closed."""

    def __setitem__(self, key, value):
        if self.fd is None and not self.has_children:
            self.fd = AtomicText(self.path)
        original(self, key, value)

    return __setitem__


def exit(original: Callable) -> Callable:
    """Wrap `DatadirWriter.__exit__`: after an error no text appears."""

    def __exit__(self, kind, error, trace):
        # SystemExit: the program ends as it meant to, and what it wrote is whole.
        if kind is not None and not issubclass(kind, SystemExit):
            _discard(self)
        try:
            return original(self, kind, error, trace)
        except BaseException:  # the disk is full: of the texts that are left, too
            _discard(self)
            raise

    return __exit__


def _discard(writer) -> None:
    for child in writer.chilidren.values():
        _discard(child)
    if isinstance(writer.fd, AtomicText):
        writer.fd.discard()
