"""From the end of speech to the final result, decoding in chunks as they arrive."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
import torch
from packed_models import SAMPLE_RATE, Loaded, describe, load_decoders
from packed_speech import Utterance, noise
from packed_variants import (
    FLOAT,
    TORCH_INT8,
    Aim,
    Variant,
    in_turn,
    median_cell,
    ratios,
    variant_of,
)
from report import Spread, progress, table
from torch import Tensor, nn

LABEL_SHARE = 0.12
"""Share of the encoder's frames that emit a label: 3 a second at 40 ms a frame, about
that of 5,000 word pieces of read English."""
CALIBRATION_SECONDS = 10.0
AIM = 0.70
"""Largest ratio of 5 to own 8 bits with AIM_SIZE, P50 and P90, mode int8."""
AIM_SIZE = "rnnt100m"


# --- how often a model with random weights emits -------------------------------------


def blank_bias(joint: nn.Module) -> float:
    """Return the bias of the blank in the joint network's output."""
    bias = joint.lin_out.bias
    return float((bias() if callable(bias) else bias)[0])


def set_blank_bias(joint: nn.Module, value: float) -> None:
    """Change the bias of the blank in the joint network's output."""
    layer = joint.lin_out
    if callable(layer.bias):  # of PyTorch's dynamic int8
        weight, bias = layer._weight_bias()
        bias = bias.detach().clone()
        bias[0] = value
        layer.set_weight_bias(weight, bias)
    else:
        layer.bias.data[0] = value


def _emission(frames: Tensor, decoder, joint, offset: float) -> Tuple[float, Tensor]:
    """Return the share of frames that emit, and every frame's best label over blank.

    Greedy as the search is, with `offset` added to the blank.
    """
    from espnet2.asr.transducer.beam_search_transducer import Hypothesis

    hyp = Hypothesis(score=0.0, yseq=[0], dec_state=decoder.init_state(1))
    margins, emitted, cache = [], 0, {}
    for frame in frames:
        decoded, state, _ = decoder.score(hyp, cache)
        logits = joint(frame, decoded)
        best, label = logits[1:].max(-1)
        margins.append(best - logits[0])
        if margins[-1] > offset:
            emitted += 1
            yseq = [*hyp.yseq, int(label) + 1]
            hyp = Hypothesis(score=0.0, yseq=yseq, dec_state=state)
    return emitted / max(len(margins), 1), torch.stack(margins)


@torch.no_grad()
def calibrate(loaded: Loaded, samples: np.ndarray) -> Dict[str, float]:
    """Return the blank's bias with which LABEL_SHARE of the frames emit a label, and
    the share that it reaches on these samples."""
    loaded.enter()
    decoder, model = loaded.decoder, loaded.model
    decoder.reset()
    frames = decoder.encode(torch.from_numpy(samples)[None], True)[0]
    decoder.reset()
    search = (frames, model.decoder, model.joint_network)
    _, margins = _emission(*search, float("inf"))
    _, more = _emission(*search, float("-inf"))
    margins = torch.cat([margins, more])
    low, high = float(margins.min()) - 1e-3, float(margins.max()) + 1e-3
    tried = []
    for _ in range(10):
        middle = (low + high) / 2
        share, _ = _emission(*search, middle)
        tried.append((abs(share - LABEL_SHARE), share, middle))
        low, high = (middle, high) if share > LABEL_SHARE else (low, middle)
    _, share, offset = min(tried)
    return dict(bias=blank_bias(model.joint_network) + offset, share=share)


# --- decoding ------------------------------------------------------------------------


def decode(decoder, samples: np.ndarray, chunk: int) -> Tuple[float, float, int]:
    """Return latency, time at work (both in seconds) and the number of labels.

    The clock is virtual: a chunk arrives when it has been spoken, and its processing
    begins then or when that of the chunk before ends, and takes as long as measured.
    """
    finish = busy = 0.0
    labels: List[int] = []
    for start in range(0, len(samples), chunk):
        end = min(start + chunk, len(samples))
        began = time.perf_counter()
        result = decoder(samples[start:end], is_final=end == len(samples))
        took = time.perf_counter() - began
        finish = max(finish, end / SAMPLE_RATE) + took
        busy += took
        labels = result[0][2]
    return finish - len(samples) / SAMPLE_RATE, busy, len(labels)


def measure(
    name: str,
    compared: Sequence[Variant],
    cache: Path,
    spoken: Sequence[Utterance],
    chunk_ms: int,
) -> Dict[str, Any]:
    """Return the figures of a size: all variants decode each utterance in turn."""
    found, _ = describe(name, cache)
    loaded = load_decoders(name, compared, cache)
    chunk = chunk_ms * SAMPLE_RATE // 1000
    first = spoken[0].samples[: int(CALIBRATION_SECONDS * SAMPLE_RATE)]
    biases, done = {}, {one.variant: [] for one in loaded}
    for one in loaded:
        biases[one.variant] = calibrate(one, first)
        progress(f"latency: {name}: calibrated {one.variant}")
    for index, utterance in enumerate(spoken):
        for one in in_turn(loaded, index):
            one.enter()
            set_blank_bias(one.model.joint_network, biases[one.variant]["bias"])
            if index == 0:
                decode(one.decoder, noise(1.0), chunk)
            done[one.variant].append(decode(one.decoder, utterance.samples, chunk))
        progress(f"latency: {name}: utterance {index + 1} of {len(spoken)}")
    seconds = [utterance.seconds for utterance in spoken]
    latency = {v: [one[0] for one in d] for v, d in done.items()}
    found.update(
        chunk_ms=chunk_ms,
        utterances={u.name: u.seconds for u in spoken},
        variants=[
            _figures(variant, latency, done[variant], biases[variant], sum(seconds))
            for variant in compared
        ],
    )
    return found


def _figures(variant, latency, done, bias, seconds: float) -> Dict[str, Any]:
    def quantiles(which: Variant) -> List[float]:
        return [float(q) for q in np.quantile(latency[which], (0.5, 0.9))]

    def quotients(base: Variant):
        if base not in latency:
            return None
        pairs = zip(("p50", "p90"), quantiles(variant), quantiles(base))
        return {key: own / other for key, own, other in pairs}

    p50, p90 = quantiles(variant)
    return dict(
        asdict(variant),
        latency_seconds=dict(asdict(Spread.of(latency[variant])), p50=p50, p90=p90),
        each_latency_seconds=latency[variant],
        real_time_factor=sum(busy for _, busy, _ in done) / seconds,
        labels_a_second=sum(labels for _, _, labels in done) / seconds,
        blank=bias,
        x_float32=quotients(FLOAT),
        x_torch_int8=quotients(TORCH_INT8),
        x_own_8_bits=quotients(variant.own_8_bits),
        x_own_8_bits_each=ratios(latency, variant, variant.own_8_bits),
    )


HEADER = (
    "variant",
    "P50 ms",
    "P90 ms",
    "min..max ms",
    "P90 x own 8 bits",
    "P90 x torch int8",
    "P90 x float32",
    "each x own 8 bits",
    "real-time factor",
    "labels/s",
)


def lines(found: Dict[str, Any]) -> List[str]:
    """Return the table of a size."""

    def cell(row, key: str) -> str:
        return "-" if row[key] is None else f"{row[key]['p90']:.3f}"

    rows = []
    for row in found["variants"]:
        spread = {k: 1e3 * v for k, v in row["latency_seconds"].items()}
        rows.append(
            [
                str(variant_of(row)),
                f"{spread['p50']:,.1f}",
                f"{spread['p90']:,.1f}",
                f"{spread['min']:,.1f}..{spread['max']:,.1f}",
                cell(row, "x_own_8_bits"),
                cell(row, "x_torch_int8"),
                cell(row, "x_float32"),
                median_cell(row["x_own_8_bits_each"]),
                f"{row['real_time_factor']:.3f}",
                f"{row['labels_a_second']:.1f}",
            ]
        )
    return ["", f"Chunks of {found['chunk_ms']} ms, greedy search", "", table(HEADER, rows)]


def aims(name: str, found: Dict[str, Any]) -> List[Aim]:
    """Return what 5 bits reached over 8 bits in mode int8; aimed at for one size."""
    if name != AIM_SIZE:
        return []
    return [
        Aim(
            f"latency {key.upper()} of {name}, 5 bits over 8 bits, {row['mode']}",
            *(row["x_own_8_bits"][key], AIM),
        )
        for row in found["variants"]
        if row["bits"] == 5 and row["x_own_8_bits"] is not None
        for key in ("p50", "p90")
    ]
