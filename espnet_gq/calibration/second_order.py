"""Weights chosen by the error of the layer's output.

For inputs X (n, K) and a row w of the weight, a choice q of centroids costs

    e(q) = ||X (w - q)||^2 = (w - q)^T H (w - q),    H = X^T X,

half of GPTQ's Hessian (Frantar et al., arXiv 2210.17323). As in GPTQ, columns are
rounded one after another, those with the most energy first, and the error of each is
compensated in the remaining columns, through the Cholesky factor of the damped inverse
of H. The differences: the centroids are a codebook's instead of a uniform grid; scale
and curvature are tuned by the same error; and coordinate descent follows, which changes
one weight at a time to the centroid that is best while all others stay.

Where the layer has a bias, it takes the mean of the error, X (w - q) averaged over the
n inputs, so that H is that of the centred inputs.

Convolutions with groups are several matrices, one per group: all tensors have a first
dimension G. Shapes: W (G, R, K) with R rows per group, H (G, K, K).
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Optional, Sequence, Tuple

import torch

from espnet_gq.calibration.codebooks import nearest, weights
from espnet_gq.packing import StoredQuantizer
from espnet_gq.quantizer.function import LOG_SCALES
from espnet_gq.quantizer.mulaw import MAX_LOG_MU, MIN_LOG_MU

BLOCK = 128
"""Columns whose error is passed on to the rest of the matrix at once."""
SCALES = (0.7, 0.8, 0.9, 1.0, 1.1)
"""Multiples of the fitted scale that each row tries."""
CURVATURES = (-0.8, 0.0, 0.8)
"""What is added to the fitted ln mu, on a sample of rows."""
SAMPLED_ROWS = 48
ROUNDING = 1e-6
"""Bound of the rounding errors in H, as a share of the largest value of X^T X."""
ELEMENTS = 2**23
"""Largest working array, in elements; rows are taken in parts of that size."""


@dataclass(frozen=True)
class Method:
    """How weights are chosen.

    Args:
        damping: What is added to the diagonal of H, as a share of its mean.
        tune: Whether scales and curvature are tuned by the second-order error.
        sweeps: Passes of coordinate descent.
        bias: Whether the layer's bias takes the mean of the error.
    """

    damping: float = 0.01
    tune: bool = True
    sweeps: int = 2
    bias: bool = True


class Statistics:
    """Second moments of a weight's inputs, float64.

    Args:
        groups: G.
        columns: K.
    """

    def __init__(self, groups: int, columns: int):
        self.gram = torch.zeros(groups, columns, columns, dtype=torch.float64)
        self.total = torch.zeros(groups, columns, dtype=torch.float64)
        self.count = 0

    def add(self, x: torch.Tensor) -> None:
        """Add inputs (G, n, K)."""
        self.gram += (x.transpose(1, 2) @ x).double()
        self.total += x.sum(1, dtype=torch.float64)
        self.count += x.shape[1]

    def mean(self) -> torch.Tensor:
        """Return the mean input, (G, K)."""
        return self.total / max(self.count, 1)

    def centred(self) -> torch.Tensor:
        """Return H of the centred inputs."""
        mean = self.mean()
        return self.gram - self.count * mean[:, :, None] * mean[:, None, :]


@dataclass(frozen=True)
class Choice:
    """A weight's codebook and centroids.

    Attributes:
        stored: The codebook.
        indices: Number of each weight's centroid, uint8, of the weight's shape.
        bias: What is added to the layer's bias (R of all groups), None without.
        error: Relative error of the layer's output, ||X (w - q)|| / ||X w||.
        nearest_error: The same of the nearest centroids of the given codebook.
    """

    stored: StoredQuantizer
    indices: torch.Tensor
    bias: Optional[torch.Tensor]
    error: float
    nearest_error: float


def error_of(difference: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """Return d^T H d of each row, (G, R)."""
    return ((difference @ h.to(difference.dtype)) * difference).sum(-1)


def inverse_factor(h: torch.Tensor) -> torch.Tensor:
    """Return the upper U with H^-1 = U^T U.

    Raises:
        ValueError: If H is not positive definite.
    """
    lower, info = torch.linalg.cholesky_ex(h)
    if info.any():
        raise ValueError("the inputs of the layer hold NaN or infinite values")
    inverse = torch.cholesky_inverse(lower)
    upper, info = torch.linalg.cholesky_ex(inverse, upper=True)
    if info.any():
        raise ValueError("the second moments of the inputs cannot be inverted")
    return upper


def round_with_feedback(
    w: torch.Tensor, upper: torch.Tensor, scale: torch.Tensor, c: torch.Tensor
) -> torch.Tensor:
    """Return the index of each weight's centroid (G, R, K), int64.

    Args:
        w: Weights, columns in the order in which they are rounded.
        upper: See `inverse_factor`.
        scale: s, (G, R).
        c: Normalized centroids, ascending.
    """
    w, columns = w.clone(), w.shape[-1]
    middle = 0.5 * (c[1:] + c[:-1])
    index = torch.empty(w.shape, dtype=torch.int64)
    for first in range(0, columns, BLOCK):
        last = min(first + BLOCK, columns)
        errors = torch.empty(*w.shape[:-1], last - first, dtype=w.dtype)
        for j in range(first, last):
            column = w[..., j]
            index[..., j] = torch.bucketize(column / scale, middle)
            error = (column - scale * c[index[..., j]]) / upper[:, j, j, None]
            following = upper[:, j, None, j + 1 : last]
            w[..., j + 1 : last] -= error[..., None] * following
            errors[..., j - first] = error
        w[..., last:] -= errors @ upper[:, first:last, last:]
    return index


def descend(
    w: torch.Tensor,
    h: torch.Tensor,
    index: torch.Tensor,
    scale: torch.Tensor,
    c: torch.Tensor,
) -> torch.Tensor:
    """Return indices after a pass of coordinate descent; the error never rises.

    Args: as `round_with_feedback`, and h: H (G, K, K), positive definite.
    """
    middle = 0.5 * (c[1:] + c[:-1])
    index = index.clone()
    difference = scale[..., None] * c[index] - w
    pull = difference @ h
    for j in range(w.shape[-1]):
        diagonal = h[:, j, j, None]
        others = pull[..., j] - difference[..., j] * diagonal
        best = torch.bucketize((w[..., j] - others / diagonal) / scale, middle)
        new = scale * c[best] - w[..., j]
        pull += (new - difference[..., j])[..., None] * h[:, None, j]
        difference[..., j] = new
        index[..., j] = best
    return index


def _best_scale(
    w: torch.Tensor, h: torch.Tensor, z: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """Return the s of least error for given normalized weights z: w H z / z H z."""
    moved = z @ h
    power = (moved * z).sum(-1)
    better = (moved * w).sum(-1) / power.clamp_min(1e-300)
    return torch.where((power > 0) & (better > 0), better, scale)


@dataclass(frozen=True)
class _Problem:
    """Rows of a weight (G, R, K) in the order of rounding, with damped H."""

    w: torch.Tensor
    h: torch.Tensor
    upper: torch.Tensor

    def rows(self, part: slice) -> "_Problem":
        return _Problem(self.w[:, part], self.h, self.upper)

    def solve(
        self, scale: torch.Tensor, c: torch.Tensor, method: Method
    ) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return scales (G, R), indices (G, R, K) and errors (G, R)."""
        w, h = self.w, self.h
        if not method.tune:
            index = round_with_feedback(w, self.upper, scale, c)
            return scale, *self._polished(index, scale, c, method)
        tried = torch.cat([scale * factor for factor in SCALES], 1)
        stacked = w.repeat(1, len(SCALES), 1)
        index = round_with_feedback(stacked, self.upper, tried, c)
        z = c[index]
        refined = _best_scale(stacked, h, z, tried)
        errors = error_of(refined[..., None] * z - stacked, h)
        best = errors.view(len(w), len(SCALES), -1).argmin(1)
        at = best * w.shape[1] + torch.arange(w.shape[1])
        scale = refined.gather(1, at)
        index = index.gather(1, at[..., None].expand(-1, -1, w.shape[-1]))
        index, error = self._polished(index, scale, c, method)
        again = _best_scale(w, h, c[index], scale)
        error = error_of(again[..., None] * c[index] - w, h)
        return again, index, error

    def _polished(self, index, scale, c, method: Method):
        for _ in range(method.sweeps):
            index = descend(self.w, self.h, index, scale, c)
        return index, error_of(scale[..., None] * c[index] - self.w, self.h)


@torch.no_grad()
def choose(
    w: torch.Tensor,
    stored: StoredQuantizer,
    statistics: Statistics,
    method: Method = Method(),
    has_bias: bool = False,
) -> Choice:
    """Choose the centroids of a weight by what its layer computes.

    Args:
        w: The weight; dimension 0 is the output channel.
        stored: Its codebook, fitted to it alone.
        statistics: Of its inputs.
        method: How.
        has_bias: Whether the layer has a bias.

    Raises:
        ValueError: If the inputs hold NaN or infinite values.
    """
    groups, columns = statistics.total.shape
    matrix = w.detach().float().reshape(groups, -1, columns)
    hard = weights(nearest(w, stored), stored).reshape(matrix.shape)
    centred = method.bias and has_bias
    h = statistics.centred() if centred else statistics.gram
    power = float(error_of(matrix.double(), statistics.gram).sum())
    nearest_error = float(error_of((hard - matrix).double(), statistics.gram).sum())
    if not math.isfinite(power) or not bool(h.isfinite().all()):
        raise ValueError("the inputs of the layer hold NaN or infinite values")
    order = h.diagonal(dim1=1, dim2=2).argsort(1, descending=True)
    noise = ROUNDING * statistics.gram.diagonal(dim1=1, dim2=2).amax(1, keepdim=True)
    problem = _problem(matrix, h, order, method.damping, noise)
    found, index = _solve(problem, stored, method)
    back = order.argsort(1)[:, None].expand_as(index)
    indices = index.gather(2, back).to(torch.uint8).reshape(w.shape)
    hard = weights(indices, found).reshape(matrix.shape)
    difference = (hard - matrix).double()
    error = float(error_of(difference, h).clamp_min(0).sum())
    bias = None
    if centred:
        bias = -(difference @ statistics.mean()[..., None]).reshape(-1)
    scale = max(power, 1e-300)
    return Choice(
        stored=found,
        indices=indices,
        bias=bias,
        error=(error / scale) ** 0.5,
        nearest_error=(max(nearest_error, 0.0) / scale) ** 0.5,
    )


def _problem(
    matrix: torch.Tensor,
    h: torch.Tensor,
    order: torch.Tensor,
    damping: float,
    noise: torch.Tensor,
) -> _Problem:
    dtype = torch.float64 if matrix.numel() <= 2**20 else torch.float32
    columns = h.shape[-1]
    diagonal = h.diagonal(dim1=1, dim2=2)
    mean = diagonal.mean(1, keepdim=True)
    # Where an input is constant, or always zero, any choice is as good, and what is
    # left of the centred moments is rounding.
    added = torch.maximum(damping * mean, noise).clamp_min(1e-12)
    damped = h + torch.diag_embed(added.expand_as(diagonal))
    rows = order[:, :, None].expand(-1, -1, columns)
    damped = damped.gather(1, rows).gather(2, rows.transpose(1, 2))
    w = matrix.gather(2, order[:, None].expand_as(matrix))
    upper = inverse_factor(damped)
    return _Problem(w.to(dtype), damped.to(dtype), upper.to(dtype))


def _solve(
    problem: _Problem, stored: StoredQuantizer, method: Method
) -> Tuple[StoredQuantizer, torch.Tensor]:
    """Return the codebook and the indices (G, R, K)."""
    groups, rows, columns = problem.w.shape
    scales = stored.log_scale.numel()
    per_row = scales == groups * rows
    method = method if per_row else dataclasses.replace(method, tune=False)
    whole = stored.scale.to(problem.w.dtype)[:, 0]
    scale = whole.repeat_interleave(groups * rows // scales).view(groups, rows)
    if method.tune and stored.log_mu is not None and stored.bits > 1:
        stored = _best_curvature(problem, stored, scale, method)
    c = stored.codebook.to(problem.w.dtype)
    step = max(1, ELEMENTS // (groups * columns * (len(SCALES) if method.tune else 1)))
    index = torch.empty(problem.w.shape, dtype=torch.int64)
    for first in range(0, rows, step):
        part = slice(first, first + step)
        scale[:, part], index[:, part], _ = problem.rows(part).solve(
            scale[:, part], c, method
        )
    if per_row:
        log_scale = scale.flatten().double().log().clamp(*LOG_SCALES).float()
        stored = dataclasses.replace(stored, log_scale=log_scale)
    return stored, index


def _best_curvature(
    problem: _Problem, stored: StoredQuantizer, scale: torch.Tensor, method: Method
) -> StoredQuantizer:
    """Return the codebook whose ln mu makes the least error on a sample of rows."""
    assert stored.log_mu is not None
    part = slice(None, None, max(1, problem.w.shape[1] // SAMPLED_ROWS))
    sample = problem.rows(part)
    quick = dataclasses.replace(method, sweeps=0)
    tried: Sequence[StoredQuantizer] = [
        dataclasses.replace(
            stored, log_mu=(stored.log_mu + more).clamp(MIN_LOG_MU, MAX_LOG_MU)
        )
        for more in CURVATURES
    ]
    errors = []
    for book in tried:
        c = book.codebook.to(problem.w.dtype)
        errors.append(float(sample.solve(scale[:, part].clone(), c, quick)[2].sum()))
    return tried[errors.index(min(errors))]
