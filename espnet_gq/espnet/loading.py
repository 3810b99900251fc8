"""Building a trained model from its files, packed or not."""

import logging
from pathlib import Path
from typing import Optional, Union

import torch

from espnet_gq.espnet.inference import serve_quantize_option
from espnet_gq.nn.prepare import harden_, quantized_weights
from espnet_gq.packing import (
    is_packed,
    load_packed,
    load_state_dict,
    unpack_state_dict,
)
from espnet_gq.runtime import available, skeleton


def _read_packed(model_file: Union[str, Path]) -> Optional[dict]:
    """Return the packed dict of a file, None where it is something else."""
    try:
        state = load_state_dict(model_file, mmap=True)
    except (ValueError, OSError):
        return None  # ESPnet says itself what is wrong with a file of its own kind
    return state if is_packed(state) else None


def extend_build_model_from_file(task) -> None:
    """Let a task's `build_model_from_file` take packed checkpoints as well.

    On a CPU a packed file's model computes with packed weights (`espnet_gq.runtime`).
    Any other comes back hardened: float layers with every quantized weight on its
    centroid, so that decoding costs no quantization and all forms of a checkpoint give
    the same result.
    """
    original = task.build_model_from_file.__func__
    if getattr(original, "gq", False):
        return

    def build_model_from_file(
        cls,
        config_file: Optional[Union[Path, str]] = None,
        model_file: Optional[Union[Path, str]] = None,
        device: str = "cpu",
    ):
        packed = _read_packed(model_file) if model_file is not None else None
        if packed is None:
            model, args = original(cls, config_file, model_file, device)
        else:
            if config_file is None:
                config_file = Path(model_file).parent / "config.yaml"
            if torch.device(device).type == "cpu" and available():
                serve_quantize_option()
                with skeleton():
                    model, args = original(cls, config_file, None, device)
                return load_packed(model, model_file), args
            state = unpack_state_dict(packed)
            model, args = original(cls, config_file, None, device)
            model.load_state_dict(state)
        unfitted = [
            name
            for name, _, quantizer in quantized_weights(model)
            if not quantizer.fitted
        ]
        if unfitted and model_file is not None:
            logging.warning(
                f"{model_file} has no trained codebook for {len(unfitted)} tensors "
                f"that the configuration quantizes (such as {unfitted[0]}): they are "
                "fitted to the weights (post-training quantization)"
            )
        harden_(model)
        return model, args

    build_model_from_file.gq = True
    task.build_model_from_file = classmethod(build_model_from_file)
