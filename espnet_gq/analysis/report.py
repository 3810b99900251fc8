"""A checkpoint in figures: each tensor, before and after quantization."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Collection, Dict, List, Optional, Sequence, Tuple, Union

import torch

from espnet_gq.analysis.size import describe
from espnet_gq.packing import (
    StoredQuantizer,
    is_packed,
    load_state_dict,
    quantized_names,
    stored_quantizer,
    unpack_state_dict,
)
from espnet_gq.packing.stored import StateDict, is_quantizer_key
from espnet_gq.quantizer.function import hard_indices
from espnet_gq.quantizer.mulaw import MAX_LOG_MU, MIN_LOG_MU
from espnet_gq.runtime.layout import file_size


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory.

    Attributes:
        path: Where it was read from.
        format: "float", "qat" or "packed".
        state: Its state dict; that of a packed one unpacked.
        quantizers: Name of each quantized tensor -> its `StoredQuantizer`.
    """

    path: Path
    format: str
    state: StateDict
    quantizers: Dict[str, StoredQuantizer]

    @classmethod
    def read(cls, path: Union[str, Path]) -> "Checkpoint":
        """Read a float, QAT or packed checkpoint.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is not such a checkpoint, or not complete.
        """
        state = load_state_dict(path)
        packed = is_packed(state)
        try:
            state = unpack_state_dict(state) if packed else dict(state)
            if not state:
                raise ValueError("it holds no tensor; allowed: a model's checkpoint")
            names = quantized_names(state)
            _check_whole(state, names)
            quantizers = {name: stored_quantizer(state, name) for name in names}
        except ValueError as e:
            raise ValueError(f"{path}: {e}") from None
        form = "packed" if packed else "qat" if names else "float"
        return cls(Path(path), form, state, quantizers)

    @property
    def own(self) -> Dict[str, torch.Tensor]:
        """The tensors of the float model: all but those of the quantizers."""
        names = set(self.quantizers)
        return {k: v for k, v in self.state.items() if not is_quantizer_key(k, names)}

    def normalised(self, name: str) -> torch.Tensor:
        """Return the weights of a quantized tensor over their scales, shape (n, m)."""
        scale = self.quantizers[name].scale
        return self.state[name].float().reshape(len(scale), -1) / scale

    def indices(self, name: str) -> torch.Tensor:
        """Return the index of each weight's centroid, uint8, shape of the tensor."""
        quantizer = self.quantizers[name]
        return hard_indices(
            self.state[name], quantizer.log_scale, quantizer.codebook
        ).contiguous()

    def usage(self, name: str) -> torch.Tensor:
        """Return the number of weights per centroid, int64, shape (levels,)."""
        levels = self.quantizers[name].codebook.numel()
        return torch.bincount(self.indices(name).view(-1), minlength=levels)


@dataclass(frozen=True)
class TensorReport:
    """One tensor in figures; None where a figure does not apply.

    Attributes:
        name: Its key in the state dict.
        shape: Its shape.
        parameters: Number of its values.
        bits: Bit width.
        bytes: Bytes it takes in a packed file, scales and ln mu (or codebook) included;
            of a tensor that is not quantized, at its own precision.
        scale: Least and largest scale.
        mu: Curvature of the mu-law codebook; None for other codebooks and at 1 bit,
            where it has no effect.
        use: Entropy of the indices in bits: equal to `bits` where all centroids have
            equally many weights.
        error: ||w - q(w)|| / ||w||; None in a packed file, where w is q(w).
        kurtosis: Excess kurtosis m4 / m2^2 - 3 of the values: 0 for a Gaussian, 3 for a
            Laplace distribution, -1.2 for a uniform one. None in a packed file.
    """

    name: str
    shape: Tuple[int, ...]
    parameters: int
    bits: Optional[int]
    bytes: int
    scale: Optional[Tuple[float, float]]
    mu: Optional[float]
    use: Optional[float]
    error: Optional[float]
    kurtosis: Optional[float]


@dataclass(frozen=True)
class Rest:
    """The tensors without a row of their own; buffers are not parameters."""

    tensors: int
    parameters: int
    bytes: int


@dataclass(frozen=True)
class Report:
    """A checkpoint in figures.

    Attributes:
        checkpoint: The file.
        format: "float", "qat" or "packed".
        file_bytes: Size of the file.
        parameters: Parameters of the float model.
        buffers: Values in tensors that are not parameters; None if unknown, where they
            count as parameters.
        bits: Mean bits per quantized parameter; 32 where none is.
        unquantized_share: Share of the parameters that are not quantized, 0 to 1.
        packed_bytes: Bytes of all tensors, quantized ones packed; without the header of
            a packed file.
        float32_bytes: Bytes of all values with float32 in place of every float type.
        compression: float32_bytes / packed_bytes.
        tensors: The quantized tensors; of a float checkpoint the matrices (tensors of
            two dimensions or more), among which are all that could be quantized.
        rest: All other tensors.
    """

    checkpoint: str
    format: str
    file_bytes: int
    parameters: int
    buffers: Optional[int]
    bits: float
    unquantized_share: float
    packed_bytes: int
    float32_bytes: int
    compression: float
    tensors: List[TensorReport]
    rest: Rest


def report(
    checkpoint: Checkpoint, parameters: Optional[Collection[str]] = None
) -> Report:
    """Return the figures of a checkpoint and of its tensors.

    Args:
        checkpoint: The checkpoint.
        parameters: Names of its model's parameters; without them buffers count as
            parameters.

    Raises:
        ValueError: If a weight is NaN or infinite; names the tensor.
    """
    own = checkpoint.own
    if checkpoint.quantizers:
        rows = [_quantized(checkpoint, name) for name in checkpoint.quantizers]
    else:
        rows = [
            _unquantized(checkpoint, name)
            for name, tensor in own.items()
            if tensor.dim() >= 2
            and tensor.is_floating_point()
            and (parameters is None or name in parameters)
        ]
    size = describe(checkpoint.path, parameters)
    named = {row.name for row in rows}
    others = [tensor for name, tensor in own.items() if name not in named]
    rest = Rest(
        tensors=len(others),
        parameters=size.num_params - sum(row.parameters for row in rows),
        bytes=sum(_nbytes(tensor) for tensor in others),
    )
    packed = sum(row.bytes for row in rows) + rest.bytes
    float32 = sum(
        4 * tensor.numel() if tensor.is_floating_point() else _nbytes(tensor)
        for tensor in own.values()
    )
    return Report(
        checkpoint=str(checkpoint.path),
        format=checkpoint.format,
        file_bytes=size.file_bytes,
        parameters=size.num_params,
        buffers=size.count.buffers,
        bits=size.bits,
        unquantized_share=1.0 - size.quantized_share,
        packed_bytes=packed,
        float32_bytes=float32,
        compression=float32 / packed if packed else 1.0,
        tensors=rows,
        rest=rest,
    )


def entropy(counts: torch.Tensor) -> float:
    """Return the entropy in bits of a distribution given by its counts (n,)."""
    p = counts[counts > 0].double() / counts.sum()
    return float(-(p * p.log2()).sum()) + 0.0


def excess_kurtosis(w: torch.Tensor) -> Optional[float]:
    """Return m4 / m2^2 - 3 of all values of a tensor, None where they are all equal."""
    values = w.double()
    squares = (values - values.mean()).square()
    variance = squares.mean()
    if not variance > 0:
        return None
    return float(squares.square().mean() / variance.square() - 3.0)


def relative_error(w: torch.Tensor, quantized: torch.Tensor) -> Optional[float]:
    """Return ||w - q|| / ||w||, None where w is all zeros."""
    norm = w.double().norm()
    return float((w.double() - quantized.double()).norm() / norm) if norm else None


def _check_whole(state: StateDict, names: Sequence[str]) -> None:
    for name in names:
        head = f"{name}_quantizer"
        for keys in (
            (name,),
            (f"{head}.log_scale",),
            (f"{head}.log_mu", f"{head}.codebook"),
        ):
            if not any(key in state for key in keys):
                raise ValueError(
                    f"it lacks {' or '.join(keys)}; allowed: a checkpoint with every "
                    "quantized tensor and its quantizer"
                )


def _nbytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _finite(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    tensor = checkpoint.state[name]
    if not tensor.isfinite().all():
        raise ValueError(
            f"{checkpoint.path}: {name} has values that are NaN or infinite; allowed: "
            "a checkpoint with finite weights"
        )
    return tensor


def _quantized(checkpoint: Checkpoint, name: str) -> TensorReport:
    w, quantizer = _finite(checkpoint, name), checkpoint.quantizers[name]
    scale = quantizer.scale
    log_mu = quantizer.log_mu
    side_values = scale.numel() + (quantizer.codebook.numel() if log_mu is None else 1)
    size = file_size(w.numel(), quantizer.bits, side_values)
    error = None
    if checkpoint.format != "packed":
        index = checkpoint.indices(name).view(len(scale), -1).int()
        error = relative_error(w, (scale * quantizer.codebook[index]).view(w.shape))
    mu = None
    if log_mu is not None and quantizer.bits > 1:
        mu = math.exp(min(max(float(log_mu), MIN_LOG_MU), MAX_LOG_MU))
    return TensorReport(
        name=name,
        shape=tuple(w.shape),
        parameters=w.numel(),
        bits=quantizer.bits,
        bytes=size,
        scale=(float(scale.min()), float(scale.max())),
        mu=mu,
        use=entropy(checkpoint.usage(name)),
        error=error,
        kurtosis=None if checkpoint.format == "packed" else excess_kurtosis(w),
    )


def _unquantized(checkpoint: Checkpoint, name: str) -> TensorReport:
    w = _finite(checkpoint, name)
    return TensorReport(
        name=name,
        shape=tuple(w.shape),
        parameters=w.numel(),
        bits=None,
        bytes=_nbytes(w),
        scale=None,
        mu=None,
        use=None,
        error=None,
        kurtosis=excess_kurtosis(w),
    )
