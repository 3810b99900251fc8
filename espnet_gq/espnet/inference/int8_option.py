"""ESPnet's `quantize_asr_model` on a packed model: its int8 mode.

ESPnet calls PyTorch's `quantize_dynamic`, which does not know packed layers.
"""

import logging
from typing import Callable

from espnet_gq.runtime import set_mode


def quantize_dynamic(original: Callable) -> Callable:
    """Wrap `quantize_dynamic`: a packed model computes in int8, in place."""

    def quantize_dynamic(model, *args, **kwargs):
        count = set_mode(model, "int8")
        if not count:
            return original(model, *args, **kwargs)
        logging.info(f"{count} packed weights compute in int8")
        return model

    return quantize_dynamic
