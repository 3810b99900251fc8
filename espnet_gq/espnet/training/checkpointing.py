"""Exact resumption of a training that was interrupted at any moment.

At the end of an epoch ESPnet saves checkpoint.pth and then the epoch's model, sets
links, averages models and removes old ones. As every file is written atomically, an
interruption leaves either the old checkpoint.pth, whose epoch is trained again, or the
new one with some of the later steps missing. `finish_epoch` makes up for these before
the training continues, except for the removal, which the next epoch does.
"""

import dataclasses
from pathlib import Path
from typing import Any, List, Sequence, Tuple

import torch
from espnet2.main_funcs.average_nbest_models import average_nbest_models
from espnet2.train.reporter import Reporter

from espnet_gq._compat import checkpoint_types, tensors_only
from espnet_gq.espnet.training.atomic_files import AtomicPath
from espnet_gq.files import replace_symlink
from espnet_gq.packing import CheckpointError, load_object, save

CHECKPOINT = "checkpoint.pth"


def finish_epoch(options: Any, write: bool) -> Any:
    """Complete the steps that an interruption left out after the last checkpoint.

    Args:
        options: ESPnet's TrainerOptions.
        write: Whether this process writes files; of several, only the first does.

    Returns:
        The options to continue with: without further epochs if the training had stopped
        early.

    Raises:
        CheckpointError: If the checkpoint is damaged.
    """
    folder = Path(options.output_dir)
    states = _read(folder / CHECKPOINT)
    reporter = Reporter()
    reporter.load_state_dict(states["reporter"])
    epoch = reporter.get_epoch()
    if write:
        model = folder / f"{epoch}epoch.pth"
        if not _is_whole(model):
            save(states["model"], model)
        _finish_files(folder, epoch, reporter, options)
    if options.patience is not None:
        criterion = options.early_stopping_criterion
        if reporter.has(*criterion[:2]) and reporter.check_early_stopping(
            options.patience, *criterion
        ):
            return dataclasses.replace(options, max_epoch=epoch)
    return options


def _finish_files(folder: Path, epoch: int, reporter: Reporter, options: Any) -> None:
    """Set links and average as ESPnet does after an epoch."""
    criteria = [c for c in options.best_model_criterion if reporter.has(*c[:2])]
    links = [("latest.pth", epoch)]
    for phase, key, mode in criteria:
        best = reporter.get_best_epoch(phase, key, mode)
        links.append((f"{phase}.{key}.best.pth", best))
    for name, target in links:
        if (folder / f"{target}epoch.pth").exists():
            replace_symlink(folder / name, f"{target}epoch.pth")
    keep = options.keep_nbest_models
    keep = [keep] if isinstance(keep, int) else list(keep) or [1]
    interval = options.nbest_averaging_interval
    if interval > 0 and epoch % interval == 0:
        suffix = f"till{epoch}epoch"
        done = [
            folder / f"{phase}.{key}.ave.{suffix}.pth" for phase, key, _ in criteria
        ]
        if not all(path.exists() for path in done):
            with tensors_only():
                average_nbest_models(
                    reporter=reporter,
                    output_dir=AtomicPath(folder),
                    best_model_criterion=options.best_model_criterion,
                    nbest=keep,
                    suffix=suffix,
                )


def _is_whole(path: Path) -> bool:
    try:
        load_object(path, mmap=True)
    except (OSError, CheckpointError):
        return False
    return True


def _read(path: Path) -> Any:
    """Return the contents of checkpoint.pth; tensors are mapped, not read.

    Raises:
        CheckpointError: If it is damaged; the message says what to do.
    """
    try:
        with torch.serialization.safe_globals(checkpoint_types()):
            states = load_object(path, mmap=True)
        if not {"model", "reporter"} <= states.keys():
            raise CheckpointError("it is not that of a training")
        return states
    except CheckpointError as e:
        whole = [model for _, model in _models(path.parent) if _is_whole(model)]
        start = f", from the last whole model: --init_param {whole[0]}" if whole else ""
        raise CheckpointError(
            f"{path} is not a whole checkpoint, as an interrupted training may leave "
            f"it; allowed: to remove it and train anew{start}"
        ) from e


def _models(folder: Path) -> Sequence[Tuple[int, Path]]:
    """Return (epoch, file) of the models of a training, newest first."""
    found: List[Tuple[int, Path]] = []
    for path in folder.glob("*epoch.pth"):
        number = path.name.removesuffix("epoch.pth")
        if number.isdigit():
            found.append((int(number), path))
    return sorted(found, reverse=True)
