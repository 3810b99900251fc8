"""Layers for PyTorch whose weights stay packed, and the layout of packed bits."""

from espnet_gq.native import available, instruction_sets
from espnet_gq.runtime import ops  # noqa: F401  registers the operator
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
