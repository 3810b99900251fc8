"""Layers that compute with packed weights, and the native kernels they call."""

from espnet_gq.runtime import ops  # noqa: F401  registers the operator
from espnet_gq.runtime.library import available, instruction_sets
from espnet_gq.runtime.module import install, packed_class, set_mode, skeleton
from espnet_gq.runtime.weight import PackedWeight

__all__ = [
    "PackedWeight",
    "available",
    "install",
    "instruction_sets",
    "packed_class",
    "set_mode",
    "skeleton",
]
