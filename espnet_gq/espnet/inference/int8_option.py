"""ESPnet's `quantize_asr_model` on a packed model: its int8 mode.

ESPnet hands the model to PyTorch's `quantize_dynamic`, which would find no layer of
its own kinds in it.
"""

import functools
import logging

import torch

from espnet_gq.runtime import set_mode


def _serve(namespace) -> None:
    original = namespace.quantize_dynamic
    if getattr(original, "gq", False):
        return

    @functools.wraps(original)
    def quantize_dynamic(model, *args, **kwargs):
        count = set_mode(model, "int8")
        if not count:
            return original(model, *args, **kwargs)
        logging.info(f"{count} packed weights compute in int8")
        return model

    setattr(quantize_dynamic, "gq", True)
    namespace.quantize_dynamic = quantize_dynamic


def serve_quantize_option() -> None:
    """Let `quantize_dynamic` know packed models; others are as before."""
    for namespace in (torch.ao.quantization, torch.quantization):
        _serve(namespace)
