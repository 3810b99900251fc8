"""A packed weight where code expects the tensor it replaces.

PyTorch's functions take any object with `__torch_function__` for a tensor. Those that
apply a layer (`linear`, `embedding`, `lstm`, ...) compute with the packed weight; any
other gets the unpacked one. PyTorch's fused fast paths, which read weights from memory,
ask for `__torch_function__` and leave such objects to its ordinary code.
"""

from typing import Any, Callable, Dict, Optional, Self

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_map

HANDLERS: Dict[Callable, Callable] = {}
"""Functions that compute with a packed weight as it is: by PyTorch's function. A
handler returns NotImplemented where it does not apply."""

FROZEN = (
    "a packed weight is frozen, so {what} is refused; allowed: reading it, its values "
    "with dense()"
)

_MEMORY = ("data", "data_ptr", "storage", "untyped_storage", "typed_storage")


def handles(*functions: Callable) -> Callable[[Callable], Callable]:
    """Register the handler of functions of PyTorch."""

    def register(handler: Callable) -> Callable:
        HANDLERS.update({function: handler for function in functions})
        return handler

    return register


def _writes(name: str) -> bool:
    in_place = name.endswith("_") and not name.endswith("__")
    return in_place or (
        name.startswith("__i") and name not in ("__index__", "__invert__")
    )


class TensorLike:
    """Mix-in of a module that stands for the tensor that its `dense()` returns.

    Attributes and methods of tensors that a module lacks are those of `dense()`.
    Writing to it is an error.
    """

    requires_grad = False
    is_leaf = True
    is_nested = is_sparse = is_quantized = is_mkldnn = is_sparse_csr = False
    layout = torch.strided
    grad = grad_fn = None

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        handler = HANDLERS.get(func)
        if handler is not None:
            result = handler(*args, **kwargs)
            if result is not NotImplemented:
                return result
        name = getattr(func, "__name__", str(func))
        written = [kwargs.get("out")]
        if _writes(name) or kwargs.get("inplace") is True:
            written += [*args, *kwargs.values()][:1]
        if any(isinstance(leaf, TensorLike) for leaf in tree_flatten(written)[0]):
            raise RuntimeError(FROZEN.format(what=name))
        args, kwargs = tree_map(_unpacked, (args, kwargs))
        return func(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)  # type: ignore[misc]  # nn.Module's
        except AttributeError:
            if name.startswith("_") or not hasattr(torch.Tensor, name):
                raise
        if name in _MEMORY or _writes(name):
            raise AttributeError(FROZEN.format(what=name))
        return getattr(self.dense(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        thaws = name == "requires_grad" and value
        if name == "data" or thaws or (name == "grad" and value is not None):
            raise AttributeError(FROZEN.format(what=f"setting {name}"))
        if name not in ("requires_grad", "grad"):
            super().__setattr__(name, value)

    # --- cheap answers ---------------------------------------------------------------

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    @property
    def is_cpu(self) -> bool:
        """Whether it is in the memory of the CPU."""
        return self.device.type == "cpu"

    @property
    def is_cuda(self) -> bool:
        """Whether it is on a GPU."""
        return self.device.type == "cuda"

    @property
    def is_meta(self) -> bool:
        """Whether it has no memory."""
        return self.device.type == "meta"

    def size(self, dim: Optional[int] = None):
        """Return the shape, or one size of it."""
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        """Return the number of dimensions."""
        return len(self.shape)

    def numel(self) -> int:
        """Return the number of values."""
        return self.shape.numel()

    def is_floating_point(self) -> bool:
        """Return whether the values are floating-point numbers."""
        return self.dtype.is_floating_point

    def is_complex(self) -> bool:
        """Return whether the values are complex numbers."""
        return self.dtype.is_complex

    def detach(self) -> Self:
        """Return the weight: it has no gradient."""
        return self

    def __len__(self) -> int:
        return len(torch.empty(self.shape, device="meta"))

    def __bool__(self) -> bool:
        return True  # it is a module: not whether it has rows

    # --- conversions: of a tensor, they leave it as it is ----------------------------

    def _converted(self, convert: Callable, *args, **kwargs) -> Self:
        new = self.__class__.__new__(self.__class__)
        new.__dict__.update(self.__dict__)
        new.__dict__["_buffers"] = self._buffers.copy()
        return convert(new, *args, **kwargs)

    def to(self, *args, **kwargs) -> Any:
        """Return a weight of another type or on another device, this one if both are
        its own; of a type that is not floating-point, the unpacked weight."""
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        if dtype is not None and not dtype.is_floating_point:
            return self.dense().to(*args, **kwargs)
        same_type = dtype is None or dtype is self.dtype
        if same_type and (device is None or device == self.device):
            return self
        return self._converted(nn.Module.to, *args, **kwargs)

    def type(self, dst_type=None):
        """Return the name of the type, or a weight of another type."""
        if dst_type is None:
            return self.dense().type()
        return self._converted(nn.Module.type, dst_type)


def _unpacked(value: Any) -> Any:
    return value.dense() if isinstance(value, TensorLike) else value


def _conversion(name: str) -> Callable:
    def method(self, *args, **kwargs):
        return self._converted(getattr(nn.Module, name), *args, **kwargs)

    method.__name__ = name
    method.__doc__ = f"Return a weight as nn.Module.{name} makes it; this one stays."
    return method


def _operator(name: str) -> Callable:
    def method(self, *args):
        if _writes(name) or name == "__setitem__":
            raise TypeError(FROZEN.format(what=name))
        return getattr(self.dense(), name)(*args)

    method.__name__ = name
    method.__doc__ = f"As {name} of a tensor."
    return method


for _name in ("float", "double", "half", "bfloat16", "cuda", "cpu"):
    setattr(TensorLike, _name, _conversion(_name))
for _name in (
    *("add", "sub", "mul", "truediv", "matmul", "pow", "mod", "floordiv"),
    *("radd", "rsub", "rmul", "rtruediv", "rmatmul", "rpow"),
    *("iadd", "isub", "imul", "itruediv", "imatmul", "ipow", "imod", "ifloordiv"),
    *("lt", "le", "gt", "ge", "neg", "pos", "abs", "getitem", "setitem", "array"),
):
    setattr(TensorLike, f"__{_name}__", _operator(f"__{_name}__"))
