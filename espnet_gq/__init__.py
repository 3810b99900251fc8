"""GQ, the General Quantizer, for ESPnet and for any torch module.

    espnet_gq.prepare(module, GQConfig(bits=5, annealing={"steps": 1000}))
                                                  make a module quantization-aware,
                                                  for a training of 1,000 steps
    espnet_gq.summarize(module)                   what is quantized, what is not and why
    espnet_gq.advance(module)                     count an optimizer step
    espnet_gq.harden(module)                      float copy with hardened weights
    espnet_gq.pack(module)                        packed state dict
    espnet_gq.Speech2Text.from_pretrained(model)  a shared ESPnet model, ready to decode

`import espnet_gq.espnet` registers the quantized classes with ESPnet.
"""

import importlib
from typing import TYPE_CHECKING, Any, List

from espnet_gq._version import __version__

if TYPE_CHECKING:
    from espnet_gq.nn.config import GQConfig, GQConfigError, Rule
    from espnet_gq.nn.prepare import harden, prepare
    from espnet_gq.nn.summary import Summary, summarize
    from espnet_gq.nn.training import advance
    from espnet_gq.packing import pack
    from espnet_gq.quantizer import Annealing, GeneralQuantizer

_HOMES = {
    **dict.fromkeys(("GQConfig", "GQConfigError", "Rule", "Summary"), "nn"),
    **dict.fromkeys(("advance", "harden", "prepare", "summarize"), "nn"),
    "pack": "packing",
    **dict.fromkeys(("Annealing", "GeneralQuantizer"), "quantizer"),
    **dict.fromkeys(
        ("Speech2Text", "Speech2TextStreaming"), "espnet.sharing.pretrained"
    ),
}
"""Module of each name. Modules are imported at the first use of a name, so that
`espnet-gq --help` waits neither for torch nor for ESPnet."""
_ROOMS = ("analysis", "device", "nn", "packing", "quantizer", "runtime")

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


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        home = importlib.import_module(f"{__name__}.{_HOMES[name]}")
        return globals().setdefault(name, getattr(home, name))
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> List[str]:
    return sorted({*globals(), *_HOMES, *_ROOMS})
