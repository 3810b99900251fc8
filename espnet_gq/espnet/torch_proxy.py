"""`torch` as some of ESPnet's modules see it (see `holds`).

Forwards to PyTorch's, except where ESPnet's calls have to do more:

    torch.save                             writes atomically
    torch.load                             reads only tensors within `tensors_only`
    torch.nn.utils.clip_grad_norm_         names what is not finite
    torch.quantization.quantize_dynamic    serves packed models
"""

from types import ModuleType
from typing import Any

import torch as original

from espnet_gq._compat import load
from espnet_gq.espnet.inference.int8_option import quantize_dynamic
from espnet_gq.espnet.training.atomic_files import save
from espnet_gq.espnet.training.gradients import clip_grad_norm_


class ModuleProxy(ModuleType):
    """A module in which some names are replaced; it forwards all others.

    Args:
        module: The module to stand in for, which stays as it is.
        **names: What differs in it.
    """

    def __init__(self, module: ModuleType, **names: Any):
        super().__init__(module.__name__, module.__doc__)
        self.__dict__.update(names, __wrapped__=module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["__wrapped__"], name)


torch = ModuleProxy(
    original,
    save=save,
    load=load,
    nn=ModuleProxy(
        original.nn,
        utils=ModuleProxy(original.nn.utils, clip_grad_norm_=clip_grad_norm_),
    ),
    quantization=ModuleProxy(
        original.quantization,
        quantize_dynamic=quantize_dynamic(original.quantization.quantize_dynamic),
    ),
)
