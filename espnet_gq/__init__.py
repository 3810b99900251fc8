"""GQ, the General Quantizer, for ESPnet and for any torch module.

    espnet_gq.prepare(module, GQConfig(bits=5))   make a module quantization-aware
    espnet_gq.advance(module)                     count an optimizer step
    espnet_gq.harden(module)                      float copy, weights on centroids
    espnet_gq.pack(module)                        packed state dict

`import espnet_gq.espnet` registers the quantized classes with ESPnet.
"""

from espnet_gq._version import __version__
from espnet_gq.nn import GQConfig, GQConfigError, Rule, advance, harden, prepare
from espnet_gq.packing import pack
from espnet_gq.quantizer import Annealing, GeneralQuantizer

__all__ = [
    "Annealing",
    "GQConfig",
    "GQConfigError",
    "GeneralQuantizer",
    "Rule",
    "__version__",
    "advance",
    "harden",
    "pack",
    "prepare",
]
