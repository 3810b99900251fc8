"""GQ, the General Quantizer, for ESPnet and for any torch module.

    espnet_gq.prepare(module, GQConfig(bits=5, annealing={"steps": 1000}))
                                                  make a module quantization-aware,
                                                  for a training of 1,000 steps
    espnet_gq.summarize(module)                   what is quantized, what is not and why
    espnet_gq.advance(module)                     count an optimizer step
    espnet_gq.harden(module)                      float copy, weights on centroids
    espnet_gq.pack(module)                        packed state dict
    espnet_gq.Speech2Text.from_pretrained(model)  a shared ESPnet model, ready to decode

`import espnet_gq.espnet` registers the quantized classes with ESPnet.
"""

from espnet_gq._version import __version__
from espnet_gq.nn import (
    GQConfig,
    GQConfigError,
    Rule,
    Summary,
    advance,
    harden,
    prepare,
    summarize,
)
from espnet_gq.packing import pack
from espnet_gq.quantizer import Annealing, GeneralQuantizer

_OF_ESPNET = ("Speech2Text", "Speech2TextStreaming")
"""Found when they are asked for: importing this package does not import ESPnet."""

__all__ = [
    "Annealing",
    "GQConfig",
    "GQConfigError",
    "GeneralQuantizer",
    "Rule",
    "Summary",
    "__version__",
    "advance",
    "harden",
    "pack",
    "prepare",
    "summarize",
]


def __getattr__(name: str):
    if name in _OF_ESPNET:
        from espnet_gq.espnet.sharing import pretrained

        return getattr(pretrained, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_OF_ESPNET})
