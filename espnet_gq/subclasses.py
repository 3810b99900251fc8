"""Classes made at run time: a user's class extended by a class of this project."""

import copyreg
import types
from typing import Any, Iterable, Optional, Tuple, Type
from weakref import WeakValueDictionary

from torch import nn

_MADE: "WeakValueDictionary[Tuple[type, type], type]" = WeakValueDictionary()


def extended(cls: Type[nn.Module], extension: type, prefix: str) -> type:
    """Return a class whose objects are those of a class and of an extension of it.

    The class comes first: its own methods run, and what they reach with `super()` is
    the extension. Its objects can be copied and pickled wherever those of `cls` can.

    Args:
        cls: A subclass of `extension.float_class`, or that class itself.
        extension: Has an attribute `float_class`; of the new class it is `cls`.
        prefix: Of the new class's name.

    Raises:
        TypeError: If Python cannot combine the two.
    """
    if cls is extension.float_class:  # type: ignore[attr-defined]
        return extension
    found = _MADE.get((cls, extension))
    if found is None:
        names = {
            "float_class": cls,
            "__reduce_ex__": _reduce,
            "__doc__": cls.__doc__,
            "__module__": cls.__module__,
        }
        found = types.new_class(
            prefix + cls.__name__, (cls, extension), exec_body=lambda d: d.update(names)
        )
        found = _MADE.setdefault((cls, extension), found)
    return found


def obstacle(
    layer: nn.Module, extension: type, prefix: str, reserved: Iterable[str]
) -> Optional[str]:
    """Return why an object cannot become one of an extended class, None if it can.

    Args:
        layer: The object.
        extension, prefix: See `extended`.
        reserved: Names that are the extension's.
    """
    cls = type(layer)
    name = cls.__name__
    clash = [n for n in reserved if hasattr(cls, n) or n in layer.__dict__]
    if clash:
        return f"{name} has a member '{clash[0]}' of its own"
    try:
        probe = object.__new__(cls)
        object.__setattr__(probe, "__class__", extended(cls, extension, prefix))
    except Exception as e:  # metaclasses and __init_subclass__ raise what they like
        return f"the class {name} cannot be extended ({type(e).__name__})"
    return None


def _reduce(self: Any, protocol: Any) -> Tuple[Any, ...]:
    cls: Any = type(self)
    return _new, (cls.float_class, cls.__bases__[1], cls.__name__), self.__getstate__()


def _new(cls: Type[nn.Module], extension: type, name: str) -> Any:
    made = extended(cls, extension, name.removesuffix(cls.__name__))
    return copyreg.__newobj__(made)  # type: ignore[attr-defined]
