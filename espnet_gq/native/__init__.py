"""The native library of the package, and what it is given.

One C++ library (`csrc/`) holds the quantizer's fused pass and the packed kernels; it is
called through ctypes. Where it could not be built, PyTorch operations take its place.
"""

from espnet_gq.native.library import available, instruction_sets, loaded, torch_team
from espnet_gq.native.memory import address

__all__ = ["address", "available", "instruction_sets", "loaded", "torch_team"]
