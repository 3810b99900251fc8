"""Batch-norm statistics of a model whose weights were quantized.

The statistics that a training left are those of all its data; the calibration data are
some minutes. So they are not replaced but moved by what quantizing changes on the same
data: with mean m and variance v of a layer's input before and after,

    running_mean += m_after - m_before,    running_var *= v_after / v_before.
"""

from typing import Tuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

Moments = Tuple[torch.Tensor, torch.Tensor]


def is_norm(module: nn.Module) -> bool:
    """Return whether a module normalizes by running statistics."""
    return isinstance(module, _BatchNorm) and module.running_mean is not None


class MomentSums:
    """Sums of a batch norm's inputs (N, C, ...), float64."""

    def __init__(self, channels: int):
        self.sums = torch.zeros(2, channels, dtype=torch.float64)
        self.count = 0

    def add(self, x: torch.Tensor) -> None:
        """Add inputs."""
        rows = x.double().transpose(0, 1).flatten(1)
        self.sums += torch.stack([rows.sum(1), rows.square().sum(1)])
        self.count += rows.shape[1]

    def moments(self) -> Moments:
        """Return mean and variance per channel."""
        mean, square = self.sums / max(self.count, 1)
        return mean, (square - mean.square()).clamp_min(0)


@torch.no_grad()
def moved(norm: nn.Module, before: Moments, after: Moments) -> Moments:
    """Return the running mean and variance to use after quantizing."""
    mean, var = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    # A channel that hardly varies in these minutes says nothing of its variance.
    ratio = (after[1] + 1e-8) / (before[1] + 1e-8)
    new_mean = mean.double() + after[0] - before[0]
    new_var = var.double() * ratio.clamp(0.25, 4.0)
    return new_mean.to(mean.dtype), new_var.to(var.dtype)
