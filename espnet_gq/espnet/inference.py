"""ESPnet's `quantize_asr_model` on a packed model: int8 in place of the float centroids.

ESPnet would turn Linear layers into PyTorch's dynamic int8 ones. A packed model has
none; its own int8 mode is what the option asks for.
"""

import functools
import inspect
import logging
from types import ModuleType

from espnet_gq.runtime import set_mode


def serve_quantize_option(module: ModuleType) -> None:
    """Let the Speech2Text of one of ESPnet's inference modules take packed models."""
    cls = module.Speech2Text
    original = cls.__init__
    if getattr(original, "gq", False):
        return
    signature = inspect.signature(original)

    @functools.wraps(original)
    def __init__(self, *args, **kwargs):
        given = signature.bind(self, *args, **kwargs)
        wanted = given.arguments.get("quantize_asr_model")
        packed = wanted and _runs_packed(given.arguments)
        if packed:
            given.arguments["quantize_asr_model"] = False
        original(*given.args, **given.kwargs)
        if packed:
            count = set_mode(self.asr_model, "int8")
            logging.info(f"{count} packed weights compute in int8")

    __init__.gq = True
    cls.__init__ = __init__


def _runs_packed(arguments) -> bool:
    """Return whether the model of a Speech2Text call will have packed weights."""
    from espnet_gq.espnet.loading import runs_packed

    model_file = arguments.get("asr_model_file")
    return model_file is not None and runs_packed(
        model_file, arguments.get("device", "cpu")
    )
