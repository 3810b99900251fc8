"""RNN-T loss in place of warprnnt_pytorch, which takes a compiler to install.

The interface and the values are those of the warprnnt_pytorch that ESPnet's installer
builds (b-flo/warp-transducer). RNN-T: Graves, arXiv 1211.3711. FastEmit: Yu et al.,
arXiv 2010.11148.
"""

import importlib.abc
import importlib.util
import logging
import math
import sys
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Iterator, List, Tuple

import torch
import wrapt
from torch import Tensor
from torch.autograd.function import once_differentiable

from espnet_gq.espnet.training.saved_tensor import calibrate, unobserved
from espnet_gq.espnet.training.transducer_lattice import arcs, log_alphas, nodes

CHUNK = 2**22
"""Logits that are normalised at a time: 16 MiB of float32, which fit a GPU's cache."""
MODULE = "warprnnt_pytorch"
REDUCTIONS = ("none", "mean", "sum")


class RNNTLoss(torch.nn.Module):
    """RNN-T loss of logits; see `rnnt_loss`.

    Args:
        blank: Index of the blank symbol.
        fastemit_lambda: Weight of FastEmit, zero or more.
        reduction: "none", "mean" (over the utterances) or "sum".
    """

    def __init__(
        self, blank: int = 0, fastemit_lambda: float = 0.001, reduction: str = "mean"
    ):
        super().__init__()
        _check_options(blank, reduction, fastemit_lambda)
        self.blank = blank
        self.fastemit_lambda = fastemit_lambda
        self.reduction = reduction

    def forward(
        self, acts: Tensor, labels: Tensor, act_lens: Tensor, label_lens: Tensor
    ) -> Tensor:
        """Return the loss, see `rnnt_loss`."""
        return rnnt_loss(
            acts,
            labels,
            act_lens,
            label_lens,
            self.blank,
            self.reduction,
            self.fastemit_lambda,
        )

    def extra_repr(self) -> str:
        return (
            f"blank={self.blank}, fastemit_lambda={self.fastemit_lambda}, "
            f"reduction={self.reduction!r}"
        )


def rnnt_loss(
    acts: Tensor,
    labels: Tensor,
    act_lens: Tensor,
    label_lens: Tensor,
    blank: int = 0,
    reduction: str = "mean",
    fastemit_lambda: float = 0.001,
) -> Tensor:
    """Return -log p(labels | acts), summed over all alignments.

    Logits in half precision are computed in float32, the sum over alignments in
    float64. FastEmit does not change the value; it multiplies the gradient through the
    label emissions by 1 + fastemit_lambda.

    The memory beyond the caller's logits is at most

        G + 12 max(C, (U + 1) V) + 96 B (T + U + 1) (U + 1) bytes,

    where C is CHUNK and G the size of the gradient. G is 0 if the gradient can replace
    the logits: in a backward pass that does not retain the graph, if nothing else can
    read them (`saved_tensor.unobserved`). Otherwise it is the size of the logits: 10 GB
    in float32 for a joint network of 16 x 400 x 81 x 5,000, half of it under AMP.

    torchaudio's `rnnt_loss` is not used. It sums over alignments in float32 (its
    gradient is off by some 4e-4 of the largest at T = 400, U = 80, and by 4e-3 and more
    at T = 1500, U = 150), keeps logits and gradient at the same time, has no FastEmit,
    is limited to 2^31 logits, and on CUDA computes nothing for utterances of one frame
    or without labels.

    Args:
        acts: Unnormalised logits (B, T, U + 1, V), which may be longer than the longest
            utterance.
        labels: Integers (B, U); those beyond an utterance's length are ignored.
        act_lens: Frames of each utterance (B,), at least 1.
        label_lens: Labels of each utterance (B,), 0 allowed.
        blank: Index of the blank symbol.
        reduction: "none", "mean" (over the utterances) or "sum".
        fastemit_lambda: Weight of FastEmit, zero or more.

    Returns:
        Loss (B,) with reduction "none", otherwise (1,) as in warp-transducer.

    Raises:
        ValueError: If an input has the wrong type, shape or range.
    """
    _check_options(blank, reduction, fastemit_lambda)
    frames, counts = _check_inputs(acts, labels, act_lens, label_lens, blank)
    labels = labels.to(acts.device, torch.int64)
    losses = _Losses.apply(acts, labels, frames, counts, blank, fastemit_lambda)
    if reduction == "none":
        return losses
    total = losses.sum().unsqueeze(0)
    return total / len(frames) if reduction == "mean" else total


def _check_options(blank: int, reduction: str, fastemit_lambda: float) -> None:
    if blank < 0:
        raise ValueError(f"blank is {blank}; allowed: 0 or more")
    if reduction not in REDUCTIONS:
        raise ValueError(
            f"reduction is {reduction!r}; allowed: {', '.join(REDUCTIONS)}"
        )
    if not 0 <= fastemit_lambda < math.inf:
        raise ValueError(f"fastemit_lambda is {fastemit_lambda}; allowed: 0 or more")


def _check_inputs(
    acts: Tensor, labels: Tensor, act_lens: Tensor, label_lens: Tensor, blank: int
) -> Tuple[List[int], List[int]]:
    """Return the number of frames and of labels of each utterance."""
    if acts.dim() != 4 or 0 in acts.shape:
        raise ValueError(
            f"acts has shape {tuple(acts.shape)}; allowed: (B, T, U + 1, V), none 0"
        )
    if not acts.is_floating_point():
        raise ValueError(f"acts is {acts.dtype}; allowed: floating point")
    batch, longest, width, vocabulary = acts.shape
    if blank >= vocabulary:
        raise ValueError(
            f"blank is {blank}; allowed: 0 to {vocabulary - 1}, the last index of acts"
        )
    for name, tensor, dims in (
        ("labels", labels, 2),
        ("act_lens", act_lens, 1),
        ("label_lens", label_lens, 1),
    ):
        if tensor.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"{name} is {tensor.dtype}; allowed: int32 or int64")
        if tensor.dim() != dims or len(tensor) != batch:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}; allowed: "
                f"({batch}, {'U' if dims == 2 else ''}) for acts of {batch} utterances"
            )
    frames, counts = act_lens.tolist(), label_lens.tolist()
    widest = min(width - 1, labels.shape[1])
    for b in range(batch):
        if not 1 <= frames[b] <= longest:
            raise ValueError(
                f"act_lens[{b}] is {frames[b]}; allowed: 1 to {longest}, the frames of "
                "acts"
            )
        if not 0 <= counts[b] <= widest:
            raise ValueError(
                f"label_lens[{b}] is {counts[b]}; allowed: 0 to {widest}, as acts has "
                f"{width - 1} + 1 positions and labels {labels.shape[1]}"
            )
    for b, (row, count) in enumerate(zip(labels.tolist(), counts)):
        for u, label in enumerate(row[:count]):
            if not 0 <= label < vocabulary:
                raise ValueError(
                    f"labels[{b}, {u}] is {label}; allowed: 0 to {vocabulary - 1}, the "
                    "last index of acts"
                )
    return frames, counts


class _Losses(torch.autograd.Function):
    """Loss of each utterance by the forward-backward algorithm.

    Only the logits and their gradient have a vocabulary dimension; the lattices are as
    in `transducer_lattice`.
    """

    @staticmethod
    def forward(ctx, acts, labels, frames, counts, blank, fastemit_lambda):
        if ctx.needs_input_grad[0]:
            calibrate()
        batch, longest, width = len(frames), max(frames), max(counts) + 1
        shape = (longest + width - 1, batch, width)
        blanks = acts.new_full(shape, -math.inf, dtype=torch.float64)
        emits = torch.full_like(blanks, -math.inf)
        norms = acts.new_zeros((batch, longest, width), dtype=_precision(acts))
        for b, (t, u) in enumerate(zip(frames, counts)):
            for part in _parts(acts, t, u):
                logits = acts[b, part, : u + 1].to(norms.dtype)
                norm = torch.logsumexp(logits, -1, out=norms[b, part, : u + 1])
                nodes(blanks, b, t, u + 1)[part] = logits[..., blank] - norm
                index = _index(labels, b, len(logits), u)
                emit = logits[:, :u].gather(-1, index).squeeze(-1)
                nodes(emits, b, t, u)[part] = emit - norm[:, :u]
            # An utterance that has ended stays at its last node.
            blanks[t + u :, b, u] = 0
        alphas = log_alphas(blanks, emits)
        scores = alphas[-1, range(batch), counts]
        ctx.save_for_backward(acts, labels, blanks, emits, norms, alphas, scores)
        ctx.options = frames, counts, blank, fastemit_lambda
        return -scores.to(norms.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, weights):
        acts, labels, blanks, emits, norms, alphas, scores = ctx.saved_tensors
        frames, counts, blank, fastemit_lambda = ctx.options
        grads = acts.detach() if unobserved(acts) else torch.empty_like(acts)
        stays, moves = arcs(blanks, emits, alphas, scores, counts)
        weights = weights.double()[:, None]
        stays *= weights
        moves *= weights * (1 + fastemit_lambda)
        stays, moves = stays.to(norms.dtype), moves.to(norms.dtype)
        visits = stays + moves
        for b, (t, u) in enumerate(zip(frames, counts)):
            grads[b, t:] = 0
            grads[b, :t, u + 1 :] = 0
            for part in _parts(acts, t, u):
                target = grads[b, part, : u + 1]
                grad = target if target.dtype == norms.dtype else target.to(norms.dtype)
                logits = acts.detach()[b, part, : u + 1].to(norms.dtype)
                torch.sub(logits, norms[b, part, : u + 1, None], out=grad)
                grad.exp_().mul_(nodes(visits, b, t, u + 1)[part, :, None])
                grad[..., blank] -= nodes(stays, b, t, u + 1)[part]
                move = nodes(moves, b, t, u)[part, :, None]
                index = _index(labels, b, len(grad), u)
                grad[:, :u].scatter_add_(-1, index, -move)
                if grad is not target:
                    target.copy_(grad)
        return grads, None, None, None, None, None


def _precision(acts: Tensor) -> torch.dtype:
    return torch.promote_types(acts.dtype, torch.float32)


def _parts(acts: Tensor, frames: int, count: int) -> Iterator[slice]:
    """Yield slices of an utterance's frames that have about CHUNK logits each."""
    step = max(CHUNK // ((count + 1) * acts.shape[-1]), 1)
    for start in range(0, frames, step):
        yield slice(start, min(start + step, frames))


def _index(labels: Tensor, b: int, frames: int, count: int) -> Tensor:
    """Return the labels of one utterance for `gather` (T, U, 1)."""
    return labels[b, :count].expand(frames, count)[..., None]


class _OwnLoader(importlib.abc.Loader):
    """Makes a module with the loss of this one."""

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        module.__all__ = ["RNNTLoss", "rnnt_loss"]
        module.RNNTLoss, module.rnnt_loss = RNNTLoss, rnnt_loss


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the loss of this module if the package is not installed."""

    def __init__(self):
        self.searching = False

    def find_spec(self, fullname, path=None, target=None):
        if fullname != MODULE or self.searching:
            return None
        self.searching = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self.searching = False
        if spec is None or spec.origin is None:  # None: a folder without code
            return importlib.util.spec_from_loader(fullname, _OwnLoader())
        return spec


def _log_choice(module: ModuleType) -> None:
    ours = module.RNNTLoss is RNNTLoss
    which = f"{__name__} ({MODULE} is not installed)" if ours else MODULE
    logging.info(f"Transducer loss: {which}")


def provide_when_missing() -> None:
    """Make `import warprnnt_pytorch` work where the package is not installed.

    An installed package is used. The first import logs which loss it is.
    """
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        # After wrapt's finder, for its hook; before PathFinder, which would find a
        # folder of that name without code.
        sys.meta_path.insert(sys.meta_path.index(PathFinder), _Finder())
        wrapt.register_post_import_hook(_log_choice, MODULE)
