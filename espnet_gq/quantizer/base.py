"""What the quantizers of one weight tensor share: fitting, steps, evaluation, state."""

import copy
import hashlib
import logging
import math
import threading
from typing import Any, Dict, NamedTuple, Optional, Tuple

import torch
from torch import nn

from espnet_gq.quantizer.annealing import Annealing
from espnet_gq.quantizer.fit import MIN_SCALE
from espnet_gq.quantizer.function import (
    hard_indices,
    hard_quantize,
    scale_pair,
)

STATISTICS_SAMPLE = 2**17
GRANULARITIES = ("tensor", "gate", "channel")
FITTED = 0.999
"""A mean of states counts as fitted from this value on: where one of the averaged
quantizers was not, its scale and codebook were part of the average."""
_FITTING = threading.RLock()


class StateError(ValueError):
    """A quantizer's saved state that is not this quantizer's, or no state at all."""


class State(NamedTuple):
    """What a `saved_state` says."""

    bits: int
    fitted: bool
    step: int
    total_steps: int


def read_state(saved: torch.Tensor) -> State:
    """Return what a `saved_state` says.

    The mean of several states, which averaging checkpoints makes, is one as well.

    Raises:
        StateError: If it is none.
    """
    values = saved.tolist()  # read often: no operations of torch
    known = saved.shape == (4,) and saved.is_floating_point()
    if not known or not all(map(math.isfinite, values)):
        raise StateError(
            f"its saved_state is {saved.flatten().tolist()[:8]}; allowed: four finite "
            "numbers"
        )
    bits, fitted, step, total_steps = values
    return State(round(bits), fitted >= FITTED, round(step), round(total_steps))


def _digest(w: torch.Tensor) -> bytes:
    """Return a digest of the values of a tensor."""
    values = w.detach().cpu().contiguous().view(-1).view(torch.uint8)
    return hashlib.sha256(values.numpy().data).digest()


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


class Quantizer(nn.Module):
    """Scales and a codebook for one weight tensor: a hard weight is s * c[index].

    In training, weights pass through what the method makes of them; in evaluation every
    weight is its nearest centroid.

    Scale and codebook are fitted to the weights at the first training step that
    quantizes, so that a float checkpoint may be loaded, or the weights initialised
    anew, after construction. Evaluation before that uses a codebook fitted to the
    weights of that moment, which is not kept. All state lives in parameters and
    buffers, so that copies, averages and checkpoints of a module have it.

    A method defines `_fit`, `training_weights` and `normalized_centroids`.

    Args:
        bits: Bit width, 1 to 8.
        channels: Size of dimension 0 of the weights.
        granularity: "tensor" (one scale), "channel" (one per output channel) or
            "gate" (one per gate of a recurrent matrix, else as "tensor"). None:
            by method and bit width.
        annealing: Schedule of the inverse temperature, and the warm-up.
        every: Quantize at every k-th optimizer step only (quantization frequency).
        gates: Gates stacked in dimension 0 of the weights.
    """

    alpha_range: Tuple[float, float] = (1.0, 1.0)
    """First and last inverse temperature where the annealing names none."""
    saved_state: torch.Tensor

    def __init__(
        self,
        bits: int,
        channels: int,
        granularity: Optional[str] = None,
        annealing: Annealing = Annealing(),
        every: int = 1,
        gates: int = 1,
    ):
        super().__init__()
        if granularity is None:
            granularity = self.default_granularity(bits)
        self.bits = bits
        self.granularity = granularity
        self.annealing = annealing.resolve(*self.alpha_range)
        self.every = every
        size = {"tensor": 1, "gate": gates, "channel": channels}[granularity]
        scales = torch.zeros(max(size, 1), dtype=torch.float32, device="cpu")
        self.log_scale = nn.Parameter(scales)
        # (bits, fitted, step, total steps); float because ESPnet's checkpoint averaging
        # sums integers.
        self.register_buffer("saved_state", self._first_state())
        self.idle_row: Optional[int] = None
        """A row of the weights that is never trained (padding of an embedding)."""
        self._known: Optional[tuple] = None
        self._provisional: Optional[Tuple[bytes, "Quantizer"]] = None

    def _first_state(self) -> torch.Tensor:
        values = [self.bits, 0, 0, self.annealing.steps or 0]
        return torch.tensor(values, dtype=torch.float32, device="cpu")

    @staticmethod
    def default_granularity(bits: int) -> str:
        """Return the granularity where none is given."""
        return "tensor"

    @staticmethod
    def _spare_decay(parameter: nn.Parameter) -> None:
        """Mark a parameter that weight decay must not pull to 0."""
        setattr(parameter, "_no_weight_decay", True)

    def extra_repr(self) -> str:
        return f"bits={self.bits}, granularity={self.granularity}"

    # --- what a method defines -------------------------------------------------------

    def _fit(self, w: torch.Tensor) -> None:
        """Set scale and codebook from the weights; without gradient."""
        raise NotImplementedError

    def training_weights(self, w: torch.Tensor) -> torch.Tensor:
        """Return what an active training step computes with."""
        raise NotImplementedError

    def normalized_centroids(self) -> torch.Tensor:
        """Return the codebook c, ascending, at most 2^bits values, float32 or 64."""
        raise NotImplementedError

    def _soft(self, w: torch.Tensor) -> torch.Tensor:
        """Return the soft weights that `statistics` compares with the hard ones."""
        return self.training_weights(w)

    # --- steps -----------------------------------------------------------------------

    def _state(self) -> State:
        """Return the state; a GPU is waited for only where another wrote to it."""
        saved = self.saved_state
        if saved.is_meta:
            return read_state(self._first_state())
        if saved.is_cpu or saved.is_inference():
            return read_state(saved)
        known = self._known
        if known is None or known[0] is not saved or known[1] != saved._version:
            self._known = known = (saved, saved._version, read_state(saved))
        return known[2]

    @torch.no_grad()
    def _set_state(self, **values: Any) -> None:
        state = self._state()._replace(**values)
        saved = self.saved_state
        for index, name in enumerate(State._fields):
            if name in values:
                saved[index] = float(values[name])
        if not (saved.is_cpu or saved.is_inference()):
            self._known = (saved, saved._version, state)

    @property
    def fitted(self) -> bool:
        """Whether scale and codebook have been fitted, for good, to the weights."""
        return self._state().fitted

    @fitted.setter
    def fitted(self, value: bool) -> None:
        self._set_state(fitted=bool(value))

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return self._state().step

    @step.setter
    def step(self, value: int) -> None:
        self._set_state(step=value)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the training, 0 where they are not known."""
        return self._state().total_steps

    @total_steps.setter
    def total_steps(self, value: int) -> None:
        self._set_state(total_steps=value)

    @property
    def alpha(self) -> float:
        """Inverse temperature at the present step."""
        state = self._state()
        return self.annealing.alpha(state.step, state.total_steps)

    @property
    def active(self) -> bool:
        """Whether the present training step quantizes."""
        step = self.step - self.annealing.warmup_steps
        return step >= 0 and step % self.every == 0

    @property
    def anneals(self) -> bool:
        """Whether the training has to know how long it lasts."""
        return self.annealing.start != self.annealing.end

    def check_gradients(self, scaled: bool, batches: int) -> None:
        """Refuse a training whose gradients the method cannot be used with.

        Args:
            scaled: Whether losses are multiplied by a scale (mixed precision in
                float16).
            batches: Batches whose gradients are accumulated for one optimizer step.

        Raises:
            ValueError: If the method cannot; says what is allowed.
        """

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

    @torch.no_grad()
    def fit(self, w: torch.Tensor) -> None:
        """Fit scale and codebook to the weights, for a training that goes on from them.

        A row of zeros gets the median scale of the others, and a tensor of zeros the
        one of a newly initialised layer, since from a scale of next to nothing no
        training comes back.

        Raises:
            ValueError: If a weight is NaN or infinite.
        """
        with _FITTING:
            self._fit(w)
            rows = w.detach().reshape(self.log_scale.numel(), -1)
            zero = (rows.abs() < MIN_SCALE).all(1).to(self.log_scale.device)
            if len(zero) == w.shape[0] and self.idle_row is not None:
                idle, zero[self.idle_row] = bool(zero[self.idle_row]), False
                zero = zero if zero.sum() < len(zero) - idle else zero | True
            if zero.all() and w.numel():
                columns = w.numel() // w.shape[0]
                row = torch.linspace(
                    *(-1, 1, columns), dtype=torch.float32, device=w.device
                )
                self._fit((row * columns**-0.5).expand(len(w), -1).reshape(w.shape))
            elif zero.any() and w.numel():
                self.log_scale[zero] = self.log_scale[~zero].median()
            self._provisional = None
            self.fitted = True

    def forget_fit(self) -> None:
        """Have scale and codebook fitted anew at the next step that quantizes."""
        self.fitted = False

    def fitted_to(self, w: torch.Tensor) -> "Quantizer":
        """Return this quantizer, or a copy fitted to the weights where this is not.

        The copy is kept for as long as the weights are the same; this quantizer stays
        as it is.

        Raises:
            ValueError: If a weight is NaN or infinite.
        """
        if self.fitted:
            return self
        digest = _digest(w)
        with _FITTING:
            if self._provisional is None or self._provisional[0] != digest:
                self._provisional = (digest, self._fitted_copy(w))
            return self._provisional[1]

    @torch.inference_mode(False)
    @torch.no_grad()
    def _fitted_copy(self, w: torch.Tensor) -> "Quantizer":
        # A copy that no training follows: a row of zeros stays one.
        self._provisional = None
        new = copy.deepcopy(self)
        if new.saved_state.is_meta:
            new.to_empty(device=w.device)
        new._fit(w)
        new.fitted = True
        return new

    def _warn_unfitted(self) -> None:
        if not self.fitted and not self.annealing.warmup_steps:
            logging.warning(
                "A quantizer without trained parameters is used in evaluation: its "
                "codebook is fitted to the weights (post-training quantization to "
                f"{self.bits} bits)."
            )

    @torch.compiler.disable  # what it does depends on the step
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
        if self.active:
            if self.fitted:
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

    def quantize(self, w: torch.Tensor) -> torch.Tensor:
        """Return every weight moved to its nearest centroid."""
        return hard_quantize(w, self.log_scale, self.normalized_centroids())

    def indices(self, w: torch.Tensor) -> torch.Tensor:
        """Return the index of the nearest centroid of every weight, uint8."""
        return hard_indices(w, self.log_scale, self.normalized_centroids())

    def scale(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Return s, (scales, 1)."""
        return scale_pair(self.log_scale, dtype)[0]

    def centroids(self) -> torch.Tensor:
        """Return z_j = s c_j, shape (levels,) or (scales, levels), float32."""
        z = self.scale() * self.normalized_centroids().float()
        return z if len(z) > 1 else z[0]

    @torch.no_grad()
    def statistics(self, w: torch.Tensor) -> Dict[str, float]:
        """Return sums over the weights from which a model's figures are made.

        "hard": squared norm of the hard weights; "gap": squared norm of soft - hard;
        "settled": number of weights whose soft value lies within 1% of the local gap
        of a centroid; "numel": number of weights. Large tensors are sampled.
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

    # --- state -----------------------------------------------------------------------

    def _apply(self, fn, *args, **kwargs):
        # A module converted to half precision keeps its quantizers in float32: 16 bits
        # hold neither ln s to a small part of a gap nor the number of a step.
        def convert(t: torch.Tensor) -> torch.Tensor:
            new = fn(t)
            half = new.is_floating_point() and new.element_size() < 4
            return t.to(new.device) if half else new

        without_values = self.saved_state.is_meta
        result = super()._apply(convert, *args, **kwargs)
        if without_values and not self.saved_state.is_meta:  # `to_empty`
            with torch.no_grad():
                self.saved_state.copy_(self._first_state())
        self._provisional = None
        return result

    def _load_from_state_dict(
        self, state_dict, prefix, metadata, strict, missing, unexpected, errors
    ):
        saved = state_dict.get(prefix + "saved_state")
        if saved is not None and not saved.is_meta:
            try:
                bits = read_state(saved).bits
            except StateError as e:
                raise StateError(f"{prefix[:-1]}: {e}") from None
            if bits != self.bits:
                # Raised, not added to torch's list of errors: one sentence is enough.
                raise StateError(
                    f"{prefix[:-1]} has {bits} bits in the checkpoint and {self.bits} "
                    "in the configuration; use the same gq_conf, or start from the "
                    "float form of the checkpoint (python -m espnet_gq.bin.pack "
                    "--format float)"
                )
        super()._load_from_state_dict(
            state_dict, prefix, metadata, strict, missing, unexpected, errors
        )
        if metadata.get("assign_to_params_buffers", False):
            # Of two layers that share this quantizer the second one would take what the
            # first was given for the module's own state (`QuantizedLayer`).
            self.saved_state = self.saved_state.clone()
        self._provisional = None
