"""Build ESPnet models from their options, float or with GQ's classes."""

import argparse
import copy
import math
from typing import Any, Dict, Mapping

import torch
from torch import nn

from espnet_gq.espnet.tasks import TASKS
from espnet_gq.nn.prepare import quantized_weights

PARTS = ("encoder", "decoder", "model")
Config = Dict[str, Any]
Model = Any
"""An ESPnet model; its attributes are not typed."""


def quantized(config: Mapping[str, Any], gq_confs: Mapping[str, Config]) -> Config:
    """Replace ESPnet's classes in a training config by the quantized ones.

    Args:
        config: Options of a float training.
        gq_confs: The gq_conf of the "encoder", the "decoder" and the "model".
    """
    result = dict(copy.deepcopy(config))
    for part in PARTS:
        if part == "model":
            result["model"] = "gq_espnet"
        elif result.get(part) is None:
            continue
        else:
            result[part] = f"gq_{result[part]}"
        conf = result.get(f"{part}_conf") or {}
        result[f"{part}_conf"] = {**conf, "gq_conf": copy.deepcopy(gq_confs[part])}
    return result


def options(chosen: Mapping[str, Any], vocabulary: int, task: str = "asr") -> Config:
    """Return all options of an ESPnet training: its defaults, updated with `chosen`.

    Args:
        chosen: Classes and their arguments.
        vocabulary: Number of tokens.
        task: ESPnet's task, see `espnet_gq.espnet.tasks`.
    """
    tokens = ["<blank>", "<unk>", *(f"t{i}" for i in range(vocabulary - 3))]
    found = vars(TASKS[task].load().get_parser().parse_args([]))
    return {**found, **chosen, "token_list": [*tokens, "<sos/eos>"]}


def build(given: Mapping[str, Any], task: str = "asr") -> Model:
    """Build the model from all options of a training in one of ESPnet's tasks."""
    return TASKS[task].load().build_model(argparse.Namespace(**given))


@torch.no_grad()
def set_codebooks(model: nn.Module) -> None:
    """Set the scale of every codebook from the standard deviation of its weights.

    Fitting large models takes minutes, and the positions of the centroids affect
    neither time nor memory.
    """
    for _, weight, quantizer in quantized_weights(model):
        spread = {1: 1.0, 2: 1.5}.get(quantizer.bits, 2.0) * float(weight.std())
        quantizer.log_scale.fill_(math.log(max(spread, 1e-6)))
        quantizer.fitted = True
