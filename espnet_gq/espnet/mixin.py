"""What turns one of ESPnet's classes into its quantized form."""

import inspect
from typing import Any, Dict, Optional

from espnet_gq.nn import GQConfigError, prepare


class QuantizedByConf:
    """Adds `gq_conf` to the arguments of the class it is mixed into.

    List it before the ESPnet class. The signature that ESPnet reads the defaults from
    is that of the ESPnet class plus `gq_conf`.
    """

    def __init__(self, *args, gq_conf: Optional[Dict[str, Any]] = None, **kwargs):
        super().__init__(*args, **kwargs)
        try:
            self._quantize(gq_conf)
        except GQConfigError as e:
            raise GQConfigError(f"{self.gq_name}: {e}") from None

    def _quantize(self, gq_conf: Optional[Dict[str, Any]]) -> None:
        prepare(self, gq_conf)

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        base = cls.__mro__[cls.__mro__.index(QuantizedByConf) + 1]
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
        cls.__signature__ = signature.replace(parameters=parameters)
