"""What an attribute such as `layer.weight` of a quantized layer is.

Layers compute with the quantized form of their parameters. Other code that computes
with a layer's attribute (PyTorch's fast paths of its Transformer layers, a tied output
projection `F.linear(x, embedding.weight)`, a regularizer) has to see the same values,
while code that writes to it, or asks for its shape, means the parameter itself.
"""

from typing import TYPE_CHECKING, Any, Optional

import torch
from torch.utils._pytree import tree_map_only

if TYPE_CHECKING:
    from espnet_gq.nn.layers import QuantizedLayer

_COMPUTED = frozenset(("T", "mT", "H", "mH", "real", "imag"))
"""Attributes of a tensor whose values are computed from it."""
_DESCRIBES = frozenset(
    (
        *("size", "dim", "ndimension", "numel", "nelement", "stride", "__len__"),
        *("storage_offset", "data_ptr", "untyped_storage", "storage", "element_size"),
        *(
            "is_contiguous",
            "is_floating_point",
            "is_complex",
            "get_device",
            "is_pinned",
        ),
        *("is_shared", "is_inference", "is_same_size", "is_set_to", "__hash__"),
        *("__repr__", "__deepcopy__", "__reduce_ex__", "register_hook", "retain_grad"),
        "register_post_accumulate_grad_hook",
    )
)
"""Methods that ask about the parameter itself, not about the values in use."""
_WRITES = frozenset(
    ("__setitem__",)
    + tuple(
        f"__i{name}__"
        for name in (
            *("add", "sub", "mul", "div", "truediv", "floordiv", "mod", "pow"),
            *("and", "or", "xor", "lshift", "rshift"),
        )
    )
)


def _means_parameter(func: Any, kwargs: Any) -> bool:
    """Return whether an operation describes or writes to the tensor it is called on."""
    name = getattr(func, "__name__", "")
    if name == "__get__":
        attribute = getattr(getattr(func, "__self__", None), "__name__", "")
        return attribute not in _COMPUTED
    if name == "__set__" or name in _DESCRIBES or kwargs.get("out") is not None:
        return True
    if name.startswith("__"):
        return name in _WRITES
    return name.endswith("_")


class WeightView(torch.Tensor):
    """A quantized layer's attribute for one of its parameters.

    Operations that compute with it use the quantized weights, with their gradient;
    `.data`, `.grad`, `.shape` and the like, and everything that writes in place, are
    the parameter's own. The parameter itself is in `layer.parameters()`.
    """

    _layer: "QuantizedLayer"
    _parameter_name: str

    @classmethod
    def of(
        cls, layer: "QuantizedLayer", name: str, parameter: torch.Tensor
    ) -> "WeightView":
        """Return the view of a layer's parameter; it shares the parameter's memory."""
        view = parameter.detach().as_subclass(cls)
        view._layer, view._parameter_name = layer, name
        return view

    @property
    def latent(self) -> torch.Tensor:
        """The parameter itself, as it is trained."""
        return self._layer.latent_weight(self._parameter_name)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Optional[dict] = None
    ) -> Any:
        kwargs = kwargs or {}
        itself = _means_parameter(func, kwargs)

        def replaced(view: "WeightView") -> torch.Tensor:
            if itself:
                return view.latent
            return view._layer.weight_in_use(view._parameter_name)

        with torch._C.DisableTorchFunctionSubclass():
            args, kwargs = tree_map_only(WeightView, replaced, (args, kwargs))
            return func(*args, **kwargs)
