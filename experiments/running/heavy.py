"""Make the weights of a float model heavy-tailed without changing its outputs.

Between two linear maps with only linear maps between them, channel c may be scaled by r
before and by 1/r after. Here r = 2^k, with k normal with a given standard deviation in
octaves, rounded, and |k| at most 4. Products with powers of two are exact in floating
point, so the outputs are bitwise equal. The pairs of a Conformer:

| scaled by r | scaled by 1/r |
| :-- | :-- |
| weight and bias of a layer norm | columns of the linear maps that read it |
| rows of the query and both position biases | rows of the key and position maps |
| rows of the value | columns of the attention's output |
| rows of a first pointwise convolution, except the gate's | depthwise kernels |
| channels of a subsampling convolution (ReLU preserves factors) | their readers |

The pairs of an LSTM transducer: features and the first input matrix; embedding and the
prediction network's input matrix; the encoder's last projection and its readers (joint
network, CTC). Its recurrent matrices have no such pair and are not scaled.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Mapping, Tuple

import numpy as np
import torch

from benchmarks.espnet_models import Model
from benchmarks.options import new_parser
from espnet_gq.files import write_json
from espnet_gq.packing import load_state_dict, save
from experiments.running.evaluate import build, read_audio

LARGEST = 4  # maximum of |k|
TOLERANCE = 1e-5

State = Dict[str, torch.Tensor]


@dataclass(frozen=True)
class Scaled:
    """A tensor whose slices along a dimension are scaled.

    Args:
        name: Name of the tensor.
        dim: The dimension; -1 for all elements in order (position biases by head).
        sign: +1 scales by r, -1 by 1/r.
    """

    name: str
    dim: int
    sign: int


Group = List[Scaled]


def pairs(state: Mapping[str, torch.Tensor]) -> Iterator[Group]:
    """Yield groups of tensors that share factors, as many as the first tensor needs."""
    layers = {
        match[0]
        for match in (re.match(r"encoder\.encoders\.\d+\.", name) for name in state)
        if match
    }
    for layer in sorted(layers, key=lambda name: int(name.split(".")[2])):
        yield from _conformer_layer(layer)
    if layers:
        yield _norm("encoder.after_norm", "ctc.ctc_lo")
        yield from _subsampling(state)
    else:
        yield from _transducer(state)


def _before(name: str) -> Group:
    return [Scaled(f"{name}.weight", 0, 1), Scaled(f"{name}.bias", 0, 1)]


def _norm(norm: str, *readers: str) -> Group:
    return _before(norm) + [Scaled(f"{name}.weight", 1, -1) for name in readers]


def _conformer_layer(layer: str) -> Iterator[Group]:
    yield _norm(f"{layer}norm_ff_macaron", f"{layer}feed_forward_macaron.w_1")
    yield _norm(f"{layer}norm_ff", f"{layer}feed_forward.w_1")
    yield _norm(f"{layer}norm_conv", f"{layer}conv_module.pointwise_conv1")
    attention = f"{layer}self_attn."
    maps = [f"{attention}linear_{name}" for name in "qkv"]
    yield _norm(f"{layer}norm_mha", *maps)
    biases = [Scaled(f"{attention}pos_bias_{name}", -1, 1) for name in "uv"]
    key = [Scaled(f"{maps[1]}.{name}", 0, -1) for name in ("weight", "bias")]
    position = Scaled(f"{attention}linear_pos.weight", 0, -1)
    yield [*_before(maps[0]), *biases, *key, position]
    yield [*_before(maps[2]), Scaled(f"{attention}linear_out.weight", 1, -1)]
    # The gated linear unit multiplies the first half of the rows by a function of the
    # second half.
    convolution = f"{layer}conv_module."
    depthwise = Scaled(f"{convolution}depthwise_conv.weight", 0, -1)
    yield [depthwise, *_before(f"{convolution}pointwise_conv1")]


def _subsampling(state: Mapping[str, torch.Tensor]) -> Iterator[Group]:
    first, second = "encoder.embed.conv.0", "encoder.embed.conv.2"
    yield [*_before(first), Scaled(f"{second}.weight", 1, -1)]
    # The name depends on the ESPnet release; one column per channel and frequency.
    names = ("encoder.embed.out.weight", "encoder.embed.out.0.weight")
    linear = next(name for name in names if name in state)
    yield [*_before(second), Scaled(linear, 1, -1)]


def _transducer(state: Mapping[str, torch.Tensor]) -> Iterator[Group]:
    inputs = "encoder.enc.0.rnn0.weight_ih_l0"
    yield [Scaled("normalize.std", 0, -1), Scaled(inputs, 1, -1)]
    inputs = "decoder.decoder.0.weight_ih_l0"
    yield [Scaled("decoder.embed.weight", 1, 1), Scaled(inputs, 1, -1)]
    last = max(
        name for name in state if re.fullmatch(r"encoder\.enc\.0\.bt\d+\.weight", name)
    )
    readers = [
        Scaled(f"{name}.weight", 1, -1)
        for name in ("joint_network.lin_enc", "ctc.ctc_lo")
        if f"{name}.weight" in state
    ]
    yield [*_before(last.removesuffix(".weight")), *readers]


def heavy_tailed(state: Mapping[str, torch.Tensor], octaves: float, seed: int) -> State:
    """Return a state dict with heavy-tailed weights and the same outputs.

    Args:
        state: State dict of a float Conformer or LSTM transducer.
        octaves: Standard deviation of log2 r.
        seed: Seed of the random factors.

    Raises:
        ValueError: If a tensor to scale is missing.
    """
    state = {name: tensor.clone() for name, tensor in state.items()}
    rng = np.random.default_rng(seed)
    for group in pairs(state):
        for scaled in group:
            if scaled.name not in state:
                raise ValueError(f"the model has no {scaled.name}")
        count = state[group[0].name].shape[max(group[0].dim, 0)]
        drawn = np.rint(rng.normal(0.0, octaves, count)).clip(-LARGEST, LARGEST)
        exponents = torch.from_numpy(drawn).float()
        for scaled in group:
            _scale(state[scaled.name], scaled, exponents)
    return state


def _scale(tensor: torch.Tensor, scaled: Scaled, exponents: torch.Tensor) -> None:
    """Scale in place; n factors for a dimension of size n x m scale m slices each."""
    factors = torch.exp2(scaled.sign * exponents).to(tensor.dtype)
    if scaled.dim < 0:
        tensor.mul_(factors.view_as(tensor))
        return
    size = tensor.shape[scaled.dim]
    if ".pointwise_conv1." in scaled.name and scaled.dim == 0:
        factors = torch.cat([factors, torch.ones(size - len(factors))])
    else:
        factors = factors.repeat_interleave(size // len(factors))
    shape = [1] * tensor.dim()
    shape[scaled.dim] = size
    tensor.mul_(factors.view(shape))


def kurtosis(state: Mapping[str, torch.Tensor]) -> float:
    """Return the kurtosis E[(w - m)^4] / E[(w - m)^2]^2, averaged over tensors by size.

    It covers the matrices and kernels that GQ quantizes. Gaussian weights have 3.
    """
    total, count = 0.0, 0
    for name, tensor in state.items():
        if tensor.dim() > 1 and ".weight" in name:
            w = tensor.double() - tensor.double().mean()
            square = float(w.square().mean())
            if square > 0:
                total += tensor.numel() * float(w.pow(4).mean()) / square**2
                count += tensor.numel()
    return total / max(count, 1)


@torch.no_grad()
def outputs(model: Model, speech: torch.Tensor) -> List[torch.Tensor]:
    """Return the CTC and transducer log probabilities of an utterance (samples,)."""
    lengths = torch.tensor([len(speech)])
    encoded, _ = model.encode(speech[None], lengths)
    found = [model.ctc.log_softmax(encoded)]
    if model.use_transducer_decoder:
        labels = torch.arange(8)[None] % model.vocab_size
        model.decoder.set_device(encoded.device)
        decoded = model.decoder(labels)
        joint = model.joint_network(encoded[:, :, None], decoded[:, None])
        found.append(joint.log_softmax(dim=-1))
    return found


def largest_difference(
    model: Model, states: Tuple[State, State], speech: List[np.ndarray]
) -> float:
    """Return the largest difference between the log probabilities of two states."""
    results = []
    for state in states:
        model.load_state_dict(state)
        audio = (torch.from_numpy(a).float() for a in speech)
        results.append([o for a in audio for o in outputs(model, a)])
    return max(float((a - b).abs().max()) for a, b in zip(*results))


def main() -> None:
    """Write the heavy-tailed model and its figures."""
    parser = new_parser(__doc__)
    parser.add_argument("--config", type=Path, required=True, help="config.yaml")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--octaves", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--data", type=Path, required=True, help="for the comparison")
    parser.add_argument(
        "--output", type=Path, required=True, help="checkpoint to write"
    )
    args = parser.parse_args()
    state = load_state_dict(args.checkpoint)
    heavy = heavy_tailed(state, args.octaves, args.seed)
    speech = [audio for _, audio in zip(range(5), read_audio(args.data).values())]
    model = build(args.config, args.checkpoint)
    difference = largest_difference(model, (state, heavy), speech)
    if not difference <= TOLERANCE:
        sys.exit(f"heavy: the rescaled model differs by {difference:g}")
    save(heavy, args.output)
    figures = dict(
        kurtosis_before=kurtosis(state),
        kurtosis=kurtosis(heavy),
        largest_difference=difference,
    )
    write_json(args.output.with_suffix(".json"), figures)


if __name__ == "__main__":
    main()
