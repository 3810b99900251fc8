"""The attributes of a quantized layer, such as `layer.weight`.

Layers compute with the quantized form of their parameters. Other code that computes
with a layer's attribute (PyTorch's fast paths of its Transformer layers, a tied output
projection `F.linear(x, embedding.weight)`, a regularizer) has to see the same values,
while code that writes to it, or asks for its shape, means the parameter itself.
"""

import copy
from typing import Any, Callable, Optional, Protocol, Tuple

import torch
from torch.utils._pytree import tree_map_only

_COMPUTED = frozenset(("T", "mT", "H", "mH", "real", "imag"))
"""Attributes of a tensor whose values are computed from it."""
_PARTS = frozenset(
    (
        *("__getitem__", "select", "narrow", "diagonal", "detach", "view", "view_as"),
        *("reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "expand", "T"),
        *("t", "transpose", "swapaxes", "swapdims", "permute", "movedim", "mT"),
    )
)
"""Operations that may return a view: writes to it are writes to the tensor."""
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
        *("__repr__", "register_hook", "retain_grad"),
        "register_post_accumulate_grad_hook",
    )
)
"""Methods that describe the parameter itself, not the values in use."""
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


def _name(func: Any) -> str:
    """Return the name of an operation, or of the attribute that it reads."""
    name = getattr(func, "__name__", "")
    if name == "__get__":
        return getattr(getattr(func, "__self__", None), "__name__", name)
    return name


def _means_parameter(func: Any) -> bool:
    """Return whether an operation describes or writes to the tensor it is called on."""
    name = getattr(func, "__name__", "")
    if name == "__get__":
        return _name(func) not in _COMPUTED
    if name == "__set__" or name in _DESCRIBES:
        return True
    if name.startswith("__"):
        return name in _WRITES
    return name.endswith("_")


Step = Callable[[torch.Tensor], torch.Tensor]


class _Layer(Protocol):
    """What a view needs of its layer."""

    def latent_weight(self, name: str) -> torch.Tensor:
        """Return the trained parameter."""

    def weight_in_use(self, name: str) -> torch.Tensor:
        """Return the quantized weights."""


class WeightView(torch.Tensor):
    """A quantized layer's attribute for one of its parameters, or a part of it.

    Operations that compute with it use the quantized weights, with their gradient;
    `.data`, `.grad`, `.shape` and the like, and everything that writes in place, act on
    the parameter itself, also through a part such as `layer.weight[0]`. The parameter
    itself is in `layer.parameters()`.
    """

    _layer: _Layer
    _parameter_name: str
    _steps: Tuple[Step, ...]
    """Operations that select this part of the parameter."""

    @classmethod
    def of(
        cls,
        layer: _Layer,
        name: str,
        memory: torch.Tensor,
        steps: Tuple[Step, ...] = (),
    ) -> "WeightView":
        """Return a view of a layer's parameter.

        Args:
            layer: The layer.
            name: The parameter's name in it.
            memory: The parameter, or the part of it; the view shares its memory.
            steps: Operations that select the part of the parameter.
        """
        view = memory.detach().as_subclass(cls)
        view._layer, view._parameter_name, view._steps = layer, name, steps
        return view

    def _part(self, whole: torch.Tensor) -> torch.Tensor:
        for step in self._steps:
            whole = step(whole)
        return whole

    @property
    def latent(self) -> torch.Tensor:
        """The trained parameter, or the part of it."""
        return self._part(self._layer.latent_weight(self._parameter_name))

    @property
    def in_use(self) -> torch.Tensor:
        """The quantized weights, or the part of them."""
        return self._part(self._layer.weight_in_use(self._parameter_name))

    def set_(self, *source: Any, **named: Any) -> "WeightView":
        """Give the parameter other memory; PyTorch does not dispatch this method."""
        self.latent.set_(*source, **named)
        return self

    def __deepcopy__(self, memo: dict) -> torch.Tensor:
        return copy.deepcopy(self.latent, memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.latent.__reduce_ex__(protocol)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Optional[dict] = None
    ) -> Any:
        named: dict = kwargs or {}
        itself = _means_parameter(func)
        with torch._C.DisableTorchFunctionSubclass():
            if not itself and args and type(args[0]) is cls and _name(func) in _PARTS:
                part = args[0]._smaller(lambda t: func(t, *args[1:], **named))
                if part is not None:
                    return part
            if named.get("out") is not None:
                out = tree_map_only(WeightView, lambda v: v.latent, named["out"])
                named = {**named, "out": out}
            args, named = tree_map_only(
                WeightView, lambda v: v.latent if itself else v.in_use, (args, named)
            )
            return func(*args, **named)

    def _smaller(self, step: Step) -> Optional["WeightView"]:
        """Return the part that a step selects, None where the step copies."""
        memory = step(self.latent.detach())
        whole = self._layer.latent_weight(self._parameter_name)
        if memory.untyped_storage()._cdata != whole.untyped_storage()._cdata:
            return None
        steps = (*self._steps, step)
        return self.of(self._layer, self._parameter_name, memory, steps)
