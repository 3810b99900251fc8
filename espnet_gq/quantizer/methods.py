"""The quantizers by the name that `gq_conf.method` selects them with."""

import inspect
from typing import Any, Dict, Type

from espnet_gq.quantizer.base import Quantizer
from espnet_gq.quantizer.baselines.dkm import DKMQuantizer
from espnet_gq.quantizer.baselines.free import FreeQuantizer
from espnet_gq.quantizer.baselines.lloyd_max import LloydMaxQuantizer
from espnet_gq.quantizer.baselines.lsq import LSQuantizer
from espnet_gq.quantizer.baselines.ternary import TernaryQuantizer
from espnet_gq.quantizer.baselines.uniform import UniformQuantizer
from espnet_gq.quantizer.codebook import Codebook
from espnet_gq.quantizer.general import AnnealedQuantizer, GeneralQuantizer

METHODS: Dict[str, Type[Quantizer]] = {
    "gq": GeneralQuantizer,
    "uniform": UniformQuantizer,
    "lsq": LSQuantizer,
    "lloyd_max": LloydMaxQuantizer,
    "dkm": DKMQuantizer,
    "free": FreeQuantizer,
    "ternary": TernaryQuantizer,
}


def own_options(method: str) -> Dict[str, Any]:
    """Return the options (method_conf) that only this method has, and their defaults.

    They are the keyword-only arguments of its class and of those that it extends.
    """
    return {
        p.name: p.default
        for cls in METHODS[method].__mro__
        if issubclass(cls, Codebook) and "__init__" in vars(cls)
        for p in inspect.signature(vars(cls)["__init__"]).parameters.values()
        if p.kind is inspect.Parameter.KEYWORD_ONLY
    }


def create(method: str = "gq", forward: str = "auto", **options: Any) -> Quantizer:
    """Return a new quantizer.

    Args:
        method: A name of METHODS.
        forward: For methods whose assignment is annealed.
        options: Arguments of the method's class.

    Raises:
        ValueError: If the method does not go with the bit width.
    """
    cls = METHODS[method]
    if issubclass(cls, AnnealedQuantizer):
        options["forward"] = forward
    return cls(**options)
