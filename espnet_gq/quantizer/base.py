"""What the quantizers of one weight tensor share: training steps and evaluation."""

import logging
from typing import Dict, Optional, Tuple

import torch
import wrapt
from torch import nn

from espnet_gq.quantizer.annealing import Annealing
from espnet_gq.quantizer.codebook import Codebook

STATISTICS_SAMPLE = 2**17


class _StraightThrough(torch.autograd.Function):
    """w, hard -> hard; the gradient passes to w as it is."""

    generate_vmap_rule = True

    @staticmethod
    def forward(w, hard):
        return hard.view_as(hard)

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Keep nothing."""

    @staticmethod
    def backward(ctx, grad):
        return grad, None

    @staticmethod
    def jvp(ctx, grad_w, grad_hard):
        return grad_w


class Quantizer(Codebook):
    """How the weights of one tensor are trained; its centroids are the `Codebook`'s.

    In training, weights pass through what the method makes of them; in evaluation every
    weight is its nearest centroid.

    Scale and codebook are fitted to the weights at the first training step that
    quantizes, so that a float checkpoint may be loaded, or the weights initialised
    anew, after construction. Evaluation before that uses a codebook fitted to the
    weights of that moment, which is not kept.

    A method is a class of this and of a class of codebooks,
    `class MyQuantizer(Quantizer, StoredCodebook)`, and defines `training_weights`.

    Args:
        bits, channels, granularity, gates, codebook: See `Codebook` and the class of
            codebooks, whose own options `codebook` has.
        annealing: Schedule of the inverse temperature, and the warm-up.
        every: Quantize at every k-th optimizer step only (quantization frequency).
    """

    alpha_range: Tuple[float, float] = (1.0, 1.0)
    """First and last inverse temperature where the annealing names none."""

    def __init__(
        self,
        bits: int,
        channels: int,
        granularity: Optional[str] = None,
        annealing: Annealing = Annealing(),
        every: int = 1,
        gates: int = 1,
        **codebook,
    ):
        steps = annealing.steps or 0
        super().__init__(bits, channels, granularity, gates, steps, **codebook)
        self.annealing = annealing.resolve(*self.alpha_range)
        self.every = every

    # --- what a method defines -------------------------------------------------------

    def training_weights(self, w: torch.Tensor) -> torch.Tensor:
        """Return what an active training step computes with."""
        raise NotImplementedError

    def _soft(self, w: torch.Tensor) -> torch.Tensor:
        """Return the soft weights that `statistics` compares with the hard ones."""
        return self.training_weights(w)

    def check_gradients(self, scaled: bool, batches: int) -> None:
        """Refuse a training whose gradients the method cannot be used with.

        Args:
            scaled: Whether losses are multiplied by a scale (mixed precision in
                float16).
            batches: Batches whose gradients are accumulated for one optimizer step.

        Raises:
            ValueError: If the method cannot; says what is allowed.
        """

    # --- steps -----------------------------------------------------------------------

    @property
    def alpha(self) -> float:
        """Inverse temperature at the present step."""
        state = self._state()
        return self.annealing.alpha(state.step, state.total_steps)

    @property
    def active(self) -> bool:
        """Whether the present training step quantizes."""
        return self._quantizes(self.step)

    def _quantizes(self, step: int) -> bool:
        step -= self.annealing.warmup_steps
        return step >= 0 and step % self.every == 0

    @property
    def anneals(self) -> bool:
        """Whether the training has to know how long it lasts."""
        return self.annealing.start != self.annealing.end

    def advance(self) -> None:
        """Count one optimizer step.

        Raises:
            ValueError: If the annealing has no length.
        """
        state = self._state()
        if self.anneals and not state.total_steps:
            raise ValueError(
                "gq_conf.annealing: the length of the training is not known; allowed: "
                "annealing: {steps: N}, the number of optimizer steps"
            )
        self._set_state(step=state.step + 1)

    # --- weights ---------------------------------------------------------------------

    def _warn_unfitted(self) -> None:
        if not self.fitted and not self.annealing.warmup_steps:
            logging.warning(
                "A quantizer without trained parameters is used in evaluation: its "
                "codebook is fitted to the weights (post-training quantization to "
                f"{self.bits} bits)."
            )

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        """Return the weights to compute with, of the shape and type of w.

        Args:
            w: The weights; an attribute of a quantized layer stands for its parameter.
        """
        if type(w) is not nn.Parameter:
            w = getattr(w, "latent", w)
        if w.is_meta:
            return w
        if not self.training:
            if self._provisional is None:
                self._warn_unfitted()
            hard = self.fitted_to(w).quantize(w)
            if torch.is_grad_enabled() and w.requires_grad:
                return _StraightThrough.apply(w, hard)
            return hard
        state = self._state()
        if self._quantizes(state.step):
            if state.fitted:
                return self.training_weights(w)
            if not torch.is_grad_enabled():  # a look at the module, not a step
                return self.fitted_to(w).training_weights(w)
            if getattr(self, "_is_replica", False):
                raise ValueError(
                    "a replica of nn.DataParallel cannot fit the codebook of the "
                    "module; allowed: espnet_gq.advance(module) after every step, or "
                    "DistributedDataParallel"
                )
            self.fit(w)
            return self.training_weights(w)
        # Keeps all parameters in the graph, as DistributedDataParallel expects.
        trained = sum(p.sum() for p in self.parameters() if p.requires_grad)
        return w + 0.0 * torch.as_tensor(trained).to(w.dtype)

    @torch.no_grad()
    def statistics(self, w: torch.Tensor) -> Dict[str, float]:
        """Return the sums over the weights from which a model's figures are computed.

        "hard": squared norm of the hard weights; "gap": squared norm of soft - hard;
        "settled": number of weights whose soft value lies within 1% of the local gap
        from a centroid; "numel": number of weights. Large tensors are sampled.
        """
        if not self.fitted:
            return self.fitted_to(w).statistics(w)
        numel = w.numel()
        w = w.detach().flatten(1)
        w = w[:, :: max(1, numel // STATISTICS_SAMPLE)].contiguous()
        hard = self.quantize(w).double()
        soft = self._soft(w).double()
        c = self.normalized_centroids()
        scale = self.scale().double()
        index = self.indices(w).long()
        gap = torch.diff(c)[index.clamp_max(c.numel() - 2)].double()
        gap = gap * scale.repeat_interleave(len(w) // len(scale), 0)
        share = numel / max(w.numel(), 1)
        return {
            "hard": share * float(hard.square().sum()),
            "gap": share * float((soft - hard).square().sum()),
            "settled": share * float(((soft - hard).abs() <= 0.01 * gap).sum()),
            "numel": float(numel),
        }


@wrapt.when_imported("torch._dynamo")
def _exclude_from_compilation(_) -> None:
    """Keep torch.compile out of quantizers: what they do depends on the step.

    `torch.compiler.disable` would load the compiler into every process.
    """
    setattr(Quantizer, "forward", torch.compiler.disable(Quantizer.forward))
