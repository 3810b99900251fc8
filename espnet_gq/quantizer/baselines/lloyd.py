"""Lloyd-Max centroids: the scalar codebook of least squared error for given values.

Lloyd, "Least squares quantization in PCM" (IEEE Trans. Inf. Theory, 1982): thresholds
half way between neighbouring centroids, centroids the means between their thresholds.
"""

import torch

from espnet_gq.quantizer.baselines.stored import StoredCodebook
from espnet_gq.quantizer.fit import fit, rows_and_peaks
from espnet_gq.quantizer.mulaw import codebook

ITERATIONS = 200


@torch.no_grad()
def lloyd_max(x: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """Return centroids (levels,), ascending, float64.

    Args:
        x: Values, any shape.
        start: Centroids to begin with, ascending; one without values does not move.
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


class LloydMaxCodebook(StoredCodebook):
    """Starts from the Lloyd-Max centroids of the weights, each row over its scale.

    Args: see `Codebook`.
    """

    def _fit(self, w: torch.Tensor) -> None:
        scales = self.log_scale.numel()
        if scales == 1:
            rows, peak = rows_and_peaks(w, 1)
            log_scale = peak.log().flatten()
        else:  # rows of different size are compared by their fitted scales
            rows, _ = rows_and_peaks(w, scales)
            log_scale = fit(w, self.bits, scales)[0].double().cpu()
        self.log_scale.copy_(log_scale)
        if not rows.numel():
            return
        x = rows / log_scale.exp().view(-1, 1)
        _, log_mu = fit(x, self.bits)
        peak = x.abs().max().clamp_min(1e-30)
        start = codebook(log_mu.cpu(), self.bits, torch.float64)[0] * peak
        self.codebook.copy_(_ascending(lloyd_max(x, start)))


def _ascending(c: torch.Tensor) -> torch.Tensor:
    """Return c with neighbours that differ in float32."""
    least = 1e-6 * c.abs().max().clamp_min(1e-6)
    steps = torch.arange(c.numel(), dtype=c.dtype, device=c.device) * least
    return (c - steps).cummax(0).values + steps
