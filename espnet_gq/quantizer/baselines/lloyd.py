"""Lloyd-Max centroids: the scalar codebook of least squared error for given values.

Lloyd, "Least squares quantization in PCM" (IEEE Trans. Inf. Theory, 1982): thresholds
half way between neighbouring centroids, centroids the means between their thresholds.
"""

import torch

ITERATIONS = 200


@torch.no_grad()
def lloyd_max(x: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """Return centroids (levels,), ascending, float64.

    Args:
        x: Values, any shape.
        start: Centroids to begin with, ascending; one without values stays.
    """
    x = x.flatten().double().sort().values
    sums = torch.cat([x.new_zeros(1), x.cumsum(0)])
    c = start.double().clone()
    for _ in range(ITERATIONS):
        edges = torch.searchsorted(x, 0.5 * (c[1:] + c[:-1]))
        edges = torch.nn.functional.pad(edges, (1, 0))
        edges = torch.nn.functional.pad(edges, (0, 1), value=x.numel())
        counts = edges.diff()
        means = sums[edges].diff() / counts.clamp_min(1)
        better = torch.where(counts > 0, means, c).sort().values
        if torch.allclose(better, c, rtol=1e-9, atol=1e-12):
            break
        c = better
    return c
