"""Building a trained model from its files, packed or not."""

import contextlib
import logging
from pathlib import Path
from typing import Any, Callable, Iterator, List, Mapping, Optional, Union

import torch

from espnet_gq._compat import tensors_only
from espnet_gq.espnet.training.checkpointing import CHECKPOINT
from espnet_gq.nn.finite import NotFiniteError
from espnet_gq.nn.prepare import harden_, quantized_weights
from espnet_gq.packing import (
    CheckpointError,
    is_packed,
    load_object,
    load_packed,
    quantized_names,
    unpack_state_dict,
)
from espnet_gq.packing.loading import first_mismatch
from espnet_gq.quantizer.state import StateError
from espnet_gq.runtime import available, skeleton
from espnet_gq.runtime.weight import PackedWeight

MADE_BY = {
    "packed": "stage 14 (--skip_packing false), or by espnet-gq pack",
    "float": "espnet-gq pack --format float",
}
"""Form of a checkpoint, as in the suffix of its name -> the command that makes it."""
MOST_NAMED = 8
"""Most files that an error message names."""


class MissingFileError(CheckpointError, FileNotFoundError):
    """A file of a model does not exist; the message says how to make it."""


def check_files(
    config_file: Union[str, Path, None], model_file: Union[str, Path, None]
) -> None:
    """Refuse files of a model that do not exist.

    Args:
        config_file: config.yaml of the training, or None to skip the check.
        model_file: Checkpoint, packed or not, or None to skip the check.

    Raises:
        MissingFileError: If one does not exist; the message says how to make it.
    """
    if model_file is not None and not Path(model_file).is_file():
        raise MissingFileError(_missing_model(Path(model_file)))
    if config_file is not None and not Path(config_file).is_file():
        raise MissingFileError(
            f"{config_file}: no such file; allowed: config.yaml, which a training "
            "writes beside its checkpoints"
        )


def _missing_model(path: Path) -> str:
    missing = f"{path}: no such file"
    if not path.parent.is_dir():
        return f"{missing}, and no such folder; allowed: a checkpoint of a training"
    stem, _, form = path.name.removesuffix(".pth").rpartition(".")
    source = path.with_name(f"{stem}.pth")
    if form in MADE_BY and path.suffix == ".pth" and source.is_file():
        return f"{missing}; it is made by {MADE_BY[form]} --asr_model_file {source}"
    others = sorted(
        file.name
        for file in path.parent.glob("*.pth")
        if file.is_file() and file.name != CHECKPOINT
    )
    if not others:
        return f"{missing}, and no other checkpoint there: train first (stage 11)"
    named = ", ".join(others[:MOST_NAMED])
    more = len(others) - MOST_NAMED
    return f"{missing}; allowed: " + named + (f" and {more} more" if more > 0 else "")


@contextlib.contextmanager
def fitting(path: Union[str, Path]) -> Iterator[None]:
    """Within the block, errors say in one sentence that a checkpoint does not fit.

    Raises:
        CheckpointError: In place of errors of PyTorch, quantizers or the packed format.
    """
    try:
        yield
    except CheckpointError as e:
        message = str(e)
        if str(path) not in message:
            message = f"{path}: {message}"
        raise CheckpointError(message) from None
    except (StateError, NotFiniteError) as e:
        raise CheckpointError(f"{path}: {e}") from None
    except RuntimeError as e:
        if "state_dict" not in str(e):
            raise
        raise CheckpointError(
            f"{path} is not a checkpoint of this configuration: {first_mismatch(e)}"
        ) from None


def _check_names(model: torch.nn.Module, loaded: Any) -> None:
    """Refuse missing and unexpected names, which ESPnet ignores.

    Only if the model or the checkpoint is quantized; float ones are left to ESPnet.

    Raises:
        CheckpointError: If the checkpoint lacks tensors, or has others.
    """
    if not isinstance(loaded, Mapping) or not all(
        map(torch.is_tensor, loaded.values())
    ):
        return
    if not quantized_names(loaded) and not any(True for _ in quantized_weights(model)):
        return
    found = model.load_state_dict(loaded, strict=False)
    missing = [name for name in found.missing_keys if "_quantizer." not in name]
    for what, names in (("lacks", missing), ("also has", found.unexpected_keys)):
        if names:
            raise CheckpointError(
                f"it is not a checkpoint of this configuration: it {what} "
                f"{len(names)} tensors, such as '{names[0]}'"
            )


def without_weights(build: Callable[[], Any]) -> Any:
    """Build a model without memory for its weights, if its classes allow that.

    Some of ESPnet's classes compute with their weights while they are built; their
    models are built as usual.

    Args:
        build: Builds the model.
    """
    try:
        with skeleton():
            return build()
    except Exception as e:  # another error than that comes again
        logging.info(f"the model is built with memory for its weights: {e}")
        return build()


def build_model_from_file(original: Callable) -> Callable:
    """Wrap a task's `build_model_from_file`: it accepts packed checkpoints as well.

    On a CPU, the model of a packed file computes with packed weights
    (`espnet_gq.runtime`). Any other model is hardened: its float layers have every
    quantized weight on its centroid. Decoding then costs no quantization, and all forms
    of a checkpoint give the same result.
    """

    def build_model_from_file(
        cls,
        config_file: Optional[Union[Path, str]] = None,
        model_file: Optional[Union[Path, str]] = None,
        device: str = "cpu",
    ):
        if config_file is None and model_file is not None:
            check_files(None, model_file)
            config_file = Path(model_file).parent / "config.yaml"
        check_files(config_file, model_file)
        if model_file is None:
            model, args = original(cls, config_file, None, device)
            return harden_(model), args
        loaded = load_object(model_file, mmap=True)
        with fitting(model_file):
            if not is_packed(loaded):
                with tensors_only():
                    model, args = original(cls, config_file, model_file, device)
                _check_names(model, loaded)
            else:
                if torch.device(device).type == "cpu" and available():
                    model, args = without_weights(
                        lambda: original(cls, config_file, None, device)
                    )
                    model = load_packed(model, model_file)
                    _copied(getattr(model, "decoder", None))
                    return model, args
                state = unpack_state_dict(loaded)
                model, args = original(cls, config_file, None, device)
                model.load_state_dict(state)
            _warn_unfitted(model, model_file)
            harden_(model)
        return model, args

    return build_model_from_file


def _copied(decoder: Any) -> None:
    """Let ESPnet copy a decoder of Hugging Face Transformers.

    ESPnet may decode with a new model of that library into which it loads the decoder's
    state: there it needs float weights.
    """
    if type(decoder).__name__ == "HuggingFaceTransformersDecoder":
        for part in (decoder.decoder, decoder.lm_head):
            part.register_state_dict_post_hook(_float_state)


def _float_state(part: torch.nn.Module, state, prefix: str, _metadata) -> None:
    for name, weight in part.named_modules():
        if isinstance(weight, PackedWeight):
            for buffer in weight.state_dict():
                del state[f"{prefix}{name}.{buffer}"]
            state[f"{prefix}{name}"] = weight.dense()


def _warn_unfitted(model: torch.nn.Module, model_file: Union[str, Path]) -> None:
    unfitted: List[str] = [
        name for name, _, quantizer in quantized_weights(model) if not quantizer.fitted
    ]
    if unfitted:
        logging.warning(
            f"{model_file} has no trained codebook for {len(unfitted)} tensors that "
            f"the configuration quantizes (such as {unfitted[0]}): they are fitted to "
            "the weights (post-training quantization)"
        )


def load_pretrained_model(original: Callable) -> Callable:
    """Wrap `load_pretrained_model` (--init_param): errors are one sentence."""

    def load_pretrained_model(init_param: str, *args, **kwargs):
        path = init_param.split(":")[0]
        if is_packed(load_object(path, mmap=True)):
            raise CheckpointError(
                f"{path} is packed; allowed as --init_param: a checkpoint of a "
                "training, or the float form of the packed one (espnet-gq "
                "pack --format float)"
            )
        with fitting(path), tensors_only():
            return original(init_param, *args, **kwargs)

    return load_pretrained_model
