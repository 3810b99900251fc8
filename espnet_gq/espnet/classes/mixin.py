"""The mixin that makes a quantized class of one of ESPnet's."""

import inspect
from typing import Any, Dict, Optional, Sequence

from torch import nn

from espnet_gq._compat import RENAMED_LAYERS
from espnet_gq.nn import GQConfigError, prepare


class QuantizedByConf(nn.Module):
    """Adds `gq_conf` to the arguments of the class it is mixed into.

    List it before the ESPnet class. ESPnet reads default values from the signature,
    which is that of the ESPnet class plus `gq_conf`.
    """

    gq_name: str
    """Name of the class in ESPnet's configuration, used in error messages."""
    gq_optional = False
    """Whether the module stays float without a `gq_conf`."""

    def __init__(self, *args, gq_conf: Optional[Dict[str, Any]] = None, **kwargs):
        super().__init__(*args, **kwargs)
        if gq_conf is None and self.gq_optional:
            return
        try:
            self._quantize(gq_conf)
        except GQConfigError as e:
            raise GQConfigError(f"{self.gq_name}: {e}") from None
        self.register_load_state_dict_pre_hook(rename_quantizers)

    def _quantize(self, gq_conf: Optional[Dict[str, Any]]) -> None:
        prepare(self, gq_conf)

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        base: Any = cls.__mro__[cls.__mro__.index(QuantizedByConf) + 1]
        signature = inspect.signature(base.__init__)
        parameters = list(signature.parameters.values())[1:]
        gq_conf = inspect.Parameter(
            "gq_conf",
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Optional[Dict[str, Any]],
        )
        at = len(parameters)
        if parameters and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD:
            at -= 1
        parameters.insert(at, gq_conf)
        setattr(cls, "__signature__", signature.replace(parameters=parameters))


def rename_quantizers(module: nn.Module, state: Dict[str, Any], prefix: str, *_):
    """Rename quantizers in a checkpoint of another ESPnet release (RENAMED_LAYERS)."""
    names = None
    for old, new in RENAMED_LAYERS:
        for key in [k for k in state if k.startswith(prefix) and "_quantizer." in k]:
            head, found, tail = f".{key[len(prefix):]}".partition(f".{old}")
            if found:
                name = f"{head}.{new}{tail}"[1:]
                names = names or set(module.state_dict())
                if name in names:
                    state[prefix + name] = state.pop(key)


def prepare_parts(
    model: nn.Module, names: Sequence[str], gq_conf: Optional[Dict[str, Any]]
) -> None:
    """Quantize some children of a model; patterns match names relative to the model.

    Args:
        model: ESPnet's model.
        names: Children to quantize; names that the model lacks are ignored.
        gq_conf: See `espnet_gq.nn.GQConfig`.
    """
    holder = nn.Module()
    for name in names:
        part = getattr(model, name, None)
        if part is not None:
            holder.add_module(name, part)
    prepare(holder, gq_conf)
    for name, part in holder.named_children():
        setattr(model, name, part)
