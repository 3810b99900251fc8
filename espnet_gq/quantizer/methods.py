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
    """Return the options (method_conf) only this method has, and their defaults."""
    parameters = inspect.signature(METHODS[method].__init__).parameters.values()
    found = (p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)
    return {p.name: p.default for p in found}


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
