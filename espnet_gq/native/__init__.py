"""The native library of the package, called through ctypes.

One C++ library (`csrc/`) holds the quantizer's fused pass and the packed kernels. Where
it could not be built, PyTorch operations take its place.
"""

from espnet_gq.native.library import (
    address,
    available,
    instruction_sets,
    loaded,
    torch_team,
)

__all__ = ["address", "available", "instruction_sets", "loaded", "torch_team"]
