"""The buffers of a packed weight: planes of indices, a codebook and scales."""

from typing import Dict, Self, Sequence, Tuple

import numpy as np
import torch
from torch import nn

from espnet_gq.runtime.layout import (
    code_bits,
    matrix_shape,
    planes_size,
    stream_to_planes,
)


class PackedStorage(nn.Module):
    """The buffers of a weight w = s * c[index]; how they are moved, copied and saved.

    Args:
        planes: uint8, the indices as `layout` describes them.
        shape: Shape of the weight; dimension 0 counts its rows.
        codebook: Centroids c (2^bits,), float32.
        scale: Scales s (n,), float32: scale i serves the i-th of n equal parts of the
            rows.
        dtype: Type of the model: of activations and of the weight's values. The
            codebook and the scales are always float32.

    Raises:
        ValueError: If the sizes do not fit together.
    """

    planes: torch.Tensor
    codebook: torch.Tensor
    scale: torch.Tensor
    _buffers: Dict[str, torch.Tensor]  # type: ignore[assignment]  # none is missing
    _dtype = torch.float32  # of weights that earlier releases pickled

    def __init__(
        self,
        planes: torch.Tensor,
        shape: Sequence[int],
        codebook: torch.Tensor,
        scale: torch.Tensor,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        self.shape = torch.Size(shape)
        self.rows, self.cols = matrix_shape(self.shape)
        self.bits = code_bits(codebook.numel())
        self._dtype = dtype
        if planes.dtype != torch.uint8:
            raise ValueError(f"the planes are {planes.dtype}; allowed: torch.uint8")
        if planes.numel() != planes_size(self.rows, self.cols, self.bits):
            raise ValueError(
                f"the planes have {planes.numel()} bytes; a {self.bits}-bit weight of "
                f"shape {tuple(shape)} takes "
                f"{planes_size(self.rows, self.cols, self.bits)}"
            )
        if scale.numel() < 1 or self.rows % scale.numel():
            raise ValueError(f"{scale.numel()} scales do not divide {self.rows} rows")
        self.register_buffer("planes", planes.contiguous())
        self.register_buffer("codebook", codebook.float().flatten().contiguous())
        self.register_buffer("scale", scale.float().flatten().contiguous())

    @classmethod
    def from_stream(
        cls,
        stream: np.ndarray,
        shape: Sequence[int],
        codebook: torch.Tensor,
        scale: torch.Tensor,
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Return the weight of a packed file's stream of indices (`layout`)."""
        bits = code_bits(codebook.numel())
        planes = stream_to_planes(stream, *matrix_shape(shape), bits)
        return cls(planes, shape, codebook, scale, dtype)

    def extra_repr(self) -> str:
        return f"{tuple(self.shape)}, bits={self.bits}, mode={self.mode}"

    @property
    def device(self) -> torch.device:
        """Device of the planes."""
        return self._buffers["planes"].device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the model: of activations and of the weight's values."""
        return self._dtype

    def _forget(self) -> None:
        """Drop caches of the buffers."""

    def parts(self) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return planes, codebook and scale."""
        buffers = self._buffers
        return buffers["planes"], buffers["codebook"], buffers["scale"]

    # --- moving, copying, saving -----------------------------------------------------

    def _apply(self, fn, recurse=True):
        probe = torch.empty(0, dtype=self._dtype, device=self.device)
        kept = dict(self._buffers)
        super()._apply(fn, recurse)
        # Planes stay uint8 and the codebook float32 when the model is converted: a
        # detour through float16 would change the weight.
        for name, old in kept.items():
            new = self._buffers[name]
            if new.dtype is not old.dtype:
                self._buffers[name] = old.to(new.device)
        self._dtype = fn(probe).dtype
        self._forget()
        return self

    def __getstate__(self):
        state = self.__dict__.copy()
        for name in ("_described", "_unpacked", "_handles", "_tables", "_dense"):
            state.pop(name, None)  # the last three are of earlier releases
        return state

    def __setstate__(self, state):
        super().__setstate__(state)
        self._forget()

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        metadata = getattr(destination, "_metadata", None)
        if metadata is not None and prefix[:-1] in metadata:
            metadata[prefix[:-1]].update(
                shape=tuple(self.shape), dtype=str(self._dtype).partition(".")[2]
            )

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing, unexpected, errors
    ):
        # The size of the planes does not determine the shape.
        shape = tuple(local_metadata.get("shape", self.shape))
        if shape != tuple(self.shape):
            errors.append(
                f"size mismatch for {prefix[:-1]}: copying a packed weight with shape "
                f"{shape} from checkpoint, the shape in current model is "
                f"{tuple(self.shape)}."
            )
            return
        types = {name: buffer.dtype for name, buffer in self._buffers.items()}
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing, unexpected, errors
        )
        if local_metadata.get("assign_to_params_buffers", False):
            # As in a float layer, the type is the loaded one. Buffers keep theirs.
            given = getattr(torch, str(local_metadata.get("dtype")), None)
            self._dtype = given if isinstance(given, torch.dtype) else self._dtype
            for name, dtype in types.items():
                self._buffers[name] = self._buffers[name].to(dtype).contiguous()
