"""The cost of quantizing each weight tensor alone, measured and estimated.

Both figures are for post-training quantization: the codebook of the General Quantizer
is fitted to one tensor w, and everything else stays float. Measured is the difference

    dL = L(q(w)) - L(w)

of the mean loss per utterance. The estimate is the second-order term of its Taylor
series, with the diagonal of the Fisher information in place of the Hessian:

    e = 1/2 sum_i F_i (q(w_i) - w_i)^2,    F_i = 1/N sum_n (dL_n / dw_i)^2

over the N utterances. At trained weights the first-order term is small, and the Hessian
of a negative log-likelihood has the Fisher matrix as its expectation. The diagonal form
is that of Optimal Brain Damage (LeCun, Denker and Solla, NIPS 1989); HAWQ (arXiv
1905.03696) and HAWQ-V2 (arXiv 1911.03852) choose bit widths by the Hessian in the same
way, through its largest eigenvalue or its trace.
"""

import contextlib
import copy
import glob
import io
import json
import logging
import math
import random
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    Sequence,
    Tuple,
    Union,
)

import torch
from torch import nn

from espnet_gq.files import write_json
from espnet_gq.nn import GQConfig, Rule, prepare
from espnet_gq.packing import pack
from espnet_gq.quantizer import GeneralQuantizer
from espnet_gq.runtime.layout import file_size

FORMAT = "espnet_gq.sensitivity"
VERSION = 1

DAMAGE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)
"""Exceptions that malformed contents can raise."""

Loss = Callable[[Any], Tuple[torch.Tensor, int]]
"""Maps a batch to the mean loss of its utterances and their number."""


@dataclass(frozen=True)
class Cost:
    """Cost and size of one tensor at one bit width."""

    loss: float
    """Difference of the mean loss, dL."""
    second_order: float
    """Second-order estimate of it, e."""
    bytes: int
    """Bytes of the tensor in a packed file, scales and ln mu included."""
    scales: int
    """Scales of its codebook."""


@dataclass(frozen=True)
class TensorCosts:
    """The costs of one tensor by bit width; widths at which the model fails are absent.

    The name is that of the parameter inside the whole model.
    """

    name: str
    shape: Tuple[int, ...]
    costs: Dict[int, Cost]

    @property
    def numel(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)


@dataclass
class Sensitivity:
    """The contents of a sensitivity file.

    Attributes:
        task: ESPnet's task, "asr" or "asr_transducer".
        model: SHA-256 of the checkpoint.
        data: Data that the loss was measured on.
        bits: Widths measured.
        base_loss: Mean loss of the float model.
        utterances: Number of utterances.
        unquantized: See `unquantized_size`.
        unmeasured: Number of tensors still to be measured.
        tensors: Tensors that are measured.
    """

    task: str
    model: str
    data: Dict[str, Any]
    bits: List[int]
    base_loss: float
    utterances: int
    unquantized: Dict[str, int]
    unmeasured: int
    tensors: List[TensorCosts] = field(default_factory=list)

    def write(self, path: Union[str, Path]) -> None:
        """Write JSON atomically."""
        content = asdict(self)
        content["tensors"] = [
            {"name": t.name, "shape": t.shape, "numel": t.numel, "costs": c["costs"]}
            for t, c in zip(self.tensors, content["tensors"])
        ]
        write_json(path, {"format": FORMAT, "version": VERSION, **content})

    @classmethod
    def read(cls, path: Union[str, Path]) -> "Sensitivity":
        """Read what `write` wrote.

        Raises:
            OSError: If there is no such file.
            ValueError: If it is another kind of file, or damaged.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as e:
            raise ValueError(f"{path} is not JSON ({e})") from None
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise ValueError(
                f"{path} holds no sensitivities; allowed: a file that "
                "espnet-gq sensitivity wrote"
            )
        version = content.pop("version", None)
        if version != VERSION:
            raise ValueError(
                f"{path} has version {version!r}; this release reads {VERSION}"
            )
        try:
            tensors = [_tensor_costs(t) for t in content.pop("tensors")]
            sensitivity = cls(**content, tensors=tensors)
            _check(sensitivity)
        except DAMAGE as e:
            raise ValueError(f"{path} is damaged ({type(e).__name__}: {e})") from None
        return sensitivity

    def check_continues(self, wanted: "Sensitivity", path: Union[str, Path]) -> None:
        """Check that a file holds the beginning of the wanted measurement.

        Raises:
            ValueError: If task, model, data or widths differ; names which.
        """
        for key, name in (
            ("task", "task"),
            ("model", "model"),
            ("data", "set of utterances or batch size"),
            ("bits", "list of bit widths"),
        ):
            if _identity(self, key) != _identity(wanted, key):
                raise ValueError(
                    f"{path} holds the costs of another {name}; allowed: another "
                    "--output, or the options that the file was begun with"
                )


def _identity(sensitivity: Sensitivity, key: str) -> Any:
    """Return the value that has to be equal; paths of the data may differ."""
    value = getattr(sensitivity, key)
    if key == "data":
        return {k: v for k, v in value.items() if k != "files"}
    return value


def _tensor_costs(entry: Mapping[str, Any]) -> TensorCosts:
    shape = tuple(int(n) for n in entry["shape"])
    costs = {int(b): Cost(**cost) for b, cost in entry["costs"].items()}
    return TensorCosts(str(entry["name"]), shape, costs)


def _check(sensitivity: Sensitivity) -> None:
    numbers = [
        sensitivity.base_loss,
        sensitivity.unmeasured,
        *(sensitivity.unquantized[key] for key in ("numel", "bytes")),
    ]
    for tensor in sensitivity.tensors:
        numbers.append(tensor.numel)
        for bits, cost in tensor.costs.items():
            if not 1 <= bits <= 8:
                raise ValueError(f"{tensor.name} has {bits} bits")
            numbers += [cost.loss, cost.second_order, cost.bytes, cost.scales]
    for number in numbers:
        if isinstance(number, bool) or not math.isfinite(number):
            raise ValueError(f"{number!r} is not a finite number")


@contextlib.contextmanager
def _same_randomness() -> Iterator[None]:
    """Seed each pass alike: some ESPnet encoders apply dropout in evaluation too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@torch.no_grad()
def mean_loss(loss: Loss, batches: Iterable[Any]) -> float:
    """Return the mean loss per utterance."""
    total, count = 0.0, 0
    with _same_randomness():
        for batch in batches:
            value, number = loss(batch)
            total += float(value) * number
            count += number
    return total / count


def fisher_diagonal(
    weights: Mapping[str, nn.Parameter], loss: Loss, utterances: Sequence[Any]
) -> Dict[str, torch.Tensor]:
    """Return F, the mean squared gradient, of each weight.

    Args:
        weights: Name -> parameter.
        loss: See `Loss`.
        utterances: Batches of one utterance each; in larger batches the gradients of
            utterances would cancel.

    Returns:
        Name -> tensor of the parameter's shape.
    """
    parameters = [p.requires_grad_() for p in weights.values()]
    sums = [torch.zeros_like(p) for p in parameters]
    with _same_randomness():
        for utterance in utterances:
            value, _ = loss(utterance)
            grads = torch.autograd.grad(value, parameters, allow_unused=True)
            for total, grad in zip(sums, grads):
                if grad is not None:
                    total.addcmul_(grad, grad)
    return {n: total.div_(len(utterances)) for n, total in zip(weights, sums)}


def measure(
    model: nn.Module,
    names: Sequence[str],
    bits: Sequence[int],
    base_loss: float,
    loss: Loss,
    batches: Sequence[Any],
    utterances: Sequence[Any],
) -> Iterator[TensorCosts]:
    """Yield the costs of each tensor.

    Args:
        model: Float model in evaluation mode; it is restored after each tensor.
        names: Parameters to quantize, one at a time.
        bits: Bit widths.
        base_loss: `mean_loss` of the batches.
        loss: See `Loss`; that of this model.
        batches: Batches that the loss is measured on.
        utterances: The same, one utterance each, for the Fisher information.

    Raises:
        ValueError: If a weight is NaN or infinite; names the tensor.
    """
    weights = {name: model.get_parameter(name) for name in names}
    fisher = fisher_diagonal(weights, loss, utterances) if names else {}
    for name, weight in weights.items():
        costs = {}
        for width in sorted(bits, reverse=True):
            quantizer = GeneralQuantizer(width, channels=weight.shape[0])
            try:
                quantizer.fit(weight)
            except ValueError as e:
                raise ValueError(f"{name}: {e}") from None
            quantized = quantizer.quantize(weight.detach())
            error = (quantized - weight.detach()).square()
            with _replaced(model, name, quantized):
                difference = mean_loss(loss, batches) - base_loss
            if not math.isfinite(difference):
                logging.warning(f"{name} at {width} bits: the loss is not finite")
                continue
            scales = quantizer.log_scale.numel()
            costs[width] = Cost(
                loss=difference,
                second_order=0.5 * float((fisher[name] * error).double().sum()),
                bytes=packed_bytes(weight.numel(), width, scales),
                scales=scales,
            )
        yield TensorCosts(name, tuple(weight.shape), costs)


@contextlib.contextmanager
def _replaced(model: nn.Module, name: str, value: torch.Tensor) -> Iterator[None]:
    """Give one layer another weight; layers that share it keep the old one."""
    path, _, attribute = name.rpartition(".")
    layer = model.get_submodule(path)
    original = getattr(layer, attribute)
    # nn.LSTM and nn.GRU update _flat_weights at assignments only.
    setattr(layer, attribute, nn.Parameter(value, requires_grad=False))
    try:
        yield
    finally:
        setattr(layer, attribute, original)


def packed_bytes(numel: int, bits: int, scales: int) -> int:
    """Return the bytes of a quantized tensor in a packed file (docs/format.md)."""
    return file_size(numel, bits, 1 + scales)


def unquantized_size(
    model: nn.Module, names: Sequence[str], bits: Sequence[int]
) -> Dict[str, int]:
    """Measure what a packed file of the model holds beside the quantized tensors.

    A copy is packed with random widths, which make its compressed header largest. With
    other widths the file is a few hundred bytes smaller.

    Args:
        model: Float model.
        names: Parameters to quantize.
        bits: Widths to mix.

    Returns:
        "numel", the parameters that stay float, and "bytes", the rest of the file.
    """
    draw = random.Random(0)
    widths = {name: draw.choice(list(bits)) for name in names}
    rules = [Rule(glob.escape(name), bits=b) for name, b in widths.items()]
    config = GQConfig(rules=(*rules, Rule("*", float=True)))
    file = io.BytesIO()
    torch.save(pack(prepare(copy.deepcopy(model), config)), file)
    rest = file.getbuffer().nbytes
    numel = sum(p.numel() for p in model.parameters())
    for name, width in widths.items():
        weight = model.get_parameter(name)
        scales = GeneralQuantizer(width, channels=weight.shape[0]).log_scale.numel()
        rest -= packed_bytes(weight.numel(), width, scales)
        numel -= weight.numel()
    return {"numel": numel, "bytes": rest}
