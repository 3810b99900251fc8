"""ESPnet's writers of checkpoints, figures, configurations and results, writing aside.

ESPnet writes in place: a killed process, or a full disk, leaves half a file.
"""

import contextlib
import functools
import os
from pathlib import Path
from types import ModuleType
from typing import Any, Iterator, Type

import torch

from espnet_gq.files import AsideText, link_aside, written_aside


@contextlib.contextmanager
def saved_aside() -> Iterator[None]:
    """Let every `torch.save` to a path within the block write aside."""
    original = torch.save

    @functools.wraps(original)
    def save(obj, f, *args, **kwargs):
        if not isinstance(f, (str, os.PathLike)):
            return original(obj, f, *args, **kwargs)
        # A file, not a name: torch.save would write the temporary name into it.
        with written_aside(Path(f)) as temporary, open(temporary, "wb") as file:
            original(obj, file, *args, **kwargs)

    torch.save = save
    try:
        yield
    finally:
        torch.save = original


@contextlib.contextmanager
def linked_aside() -> Iterator[None]:
    """Let a symbolic link that is set anew within the block be there all the time.

    ESPnet removes it first: a link that is removed stays until it is set.
    """
    unlink, symlink_to = Path.unlink, Path.symlink_to

    def unlink_file(self, missing_ok=False):
        if not self.is_symlink():
            unlink(self, missing_ok)

    def link(self, target, target_is_directory=False):
        link_aside(self, target)

    setattr(Path, "unlink", unlink_file)
    setattr(Path, "symlink_to", link)
    try:
        yield
    finally:
        setattr(Path, "unlink", unlink)
        setattr(Path, "symlink_to", symlink_to)


@contextlib.contextmanager
def plotted_aside() -> Iterator[None]:
    """Let every figure that matplotlib saves to a path within the block write aside."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        yield
        return
    original = Figure.savefig

    @functools.wraps(original)
    def savefig(self, fname, **kwargs):
        if not isinstance(fname, (str, os.PathLike)):
            return original(self, fname, **kwargs)
        kwargs.setdefault("format", Path(fname).suffix.lstrip(".") or "png")
        with written_aside(Path(fname), sync=False) as temporary:
            original(self, temporary, **kwargs)

    setattr(Figure, "savefig", savefig)
    try:
        yield
    finally:
        setattr(Figure, "savefig", original)


@contextlib.contextmanager
def _next_text_aside(path: Path) -> Iterator[None]:
    """Let the next `path.open("w")` within the block write aside."""
    original = Path.open

    def open_text(self, mode="r", *args, **kwargs):
        if mode != "w" or self != path:
            return original(self, mode, *args, **kwargs)
        setattr(Path, "open", original)
        return AsideText(self)

    setattr(Path, "open", open_text)
    try:
        yield
    finally:
        setattr(Path, "open", original)


def write_config_aside(task: Type[Any]) -> None:
    """Let a task write config.yaml aside.

    It does so at every start: a training that cannot continue would otherwise take
    the models that it had finished with it.
    """
    worker = task.main_worker.__func__
    if getattr(worker, "gq_aside", False):
        return

    @functools.wraps(worker)
    def main_worker(cls, args):
        with contextlib.ExitStack() as stack:
            if args.output_dir is not None:
                config = Path(args.output_dir) / "config.yaml"
                stack.enter_context(_next_text_aside(config))
            return worker(cls, args)

    setattr(main_worker, "gq_aside", True)
    task.main_worker = classmethod(main_worker)


def average_aside(callback: type) -> None:
    """Let a Lightning callback that averages checkpoints write the average aside."""
    for name in ("on_fit_end", "on_validation_end"):  # ESPnet2, ESPnet3
        average = vars(callback).get(name)
        if average is not None and not hasattr(average, "gq_aside"):
            average = saved_aside()(average)
            average.gq_aside = True
            setattr(callback, name, average)


def write_results_aside(module: ModuleType) -> None:
    """Let the texts of `DatadirWriter` appear when it is left, whole or not at all.

    Args:
        module: espnet2.fileio.datadir_writer.
    """
    writer = module.DatadirWriter
    write, leave = writer.__setitem__, writer.__exit__
    if getattr(write, "gq", False):
        return

    @functools.wraps(write)
    def __setitem__(self, key, value):
        if self.fd is None and not self.has_children:
            self.fd = AsideText(self.path)
        write(self, key, value)

    @functools.wraps(leave)
    def __exit__(self, kind, error, trace):
        # SystemExit: the program ends as it meant to, and what it wrote is whole.
        if kind is not None and not issubclass(kind, SystemExit):
            _discard(self)
        try:
            return leave(self, kind, error, trace)
        except BaseException:  # the disk is full: of the texts that are left, too
            _discard(self)
            raise

    setattr(__setitem__, "gq", True)
    writer.__setitem__, writer.__exit__ = __setitem__, __exit__


def _discard(writer) -> None:
    for child in writer.chilidren.values():
        _discard(child)
    if isinstance(writer.fd, AsideText):
        writer.fd.discard()
