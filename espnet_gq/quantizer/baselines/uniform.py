"""FP-QAT: a fixed uniform grid in the forward pass, a straight-through backward pass.

Jacob et al., "Quantization and training of neural networks for efficient
integer-arithmetic-only inference" (arXiv 1712.05877), section 3: the forward pass
computes with the quantized weights, the gradient passes as if they were not, and is 0
outside the range. The range s is that of least squared error at the start and stays:
without a training this is uniform post-training quantization.
"""

import torch

from espnet_gq.quantizer.base import Quantizer
from espnet_gq.quantizer.baselines.stored import StoredCodebook


class UniformQuantizer(Quantizer, StoredCodebook):
    """2^bits equidistant centroids from -s to s; straight-through estimator.

    Args: see `Quantizer`.
    """

    def training_weights(self, w: torch.Tensor) -> torch.Tensor:
        rows, scale = self.divided(w.detach())
        step = 2.0 / (self.codebook.numel() - 1)
        inside = rows.abs() <= (1.0 + step / 2) * scale
        passed = (w - w.detach()) * inside.view(w.shape)
        return self.quantize(w.detach()) + passed
