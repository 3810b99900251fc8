"""Time of one step of a recogniser, and of the encoder on a whole utterance."""

import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence

import torch

from benchmarks.espnet_models import Model
from benchmarks.measuring import interleave
from benchmarks.packed.models import SAMPLE_RATE, SIZES, Loaded, describe, load_all
from benchmarks.packed.variants import (
    Variant,
    figures,
    variant_of,
)
from benchmarks.report import median_cell, progress, spread_cell
from espnet_gq.analysis.tables import markdown

UTTERANCE_SECONDS = 10.0
STEPS = {
    "rnnt": "a step: 4 frames (40 ms) through the encoder, a label through the "
    "decoder, the joint network",
    "blocks": "a chunk: 64 frames (640 ms) through the encoder",
}
WHOLE = "an utterance of {seconds:g} s through features and encoder"


def transducer_step(model: Model) -> Callable[[], Any]:
    """Return a function that takes an LSTM transducer's next step."""
    from espnet2.asr.transducer.beam_search_transducer import Hypothesis

    from espnet_gq.espnet.inference.chunks import RNNStream

    encoder: Any = RNNStream(model.encoder)
    decoder = model.decoder
    numbers = torch.Generator().manual_seed(0)
    feats = torch.randn(1, 4, model.frontend.output_size(), generator=numbers)
    state: Any = decoder.init_state(1)

    def step() -> Any:
        nonlocal state
        (frame,) = encoder(feats, False)[0]
        label = Hypothesis(score=0.0, yseq=[1], dec_state=state)
        decoded, state, _ = decoder.score(label, {})
        return model.joint_network(frame, decoded)

    return step


def block_chunk(model: Model) -> Callable[[], Any]:
    """Return a function that encodes a streaming Conformer's next chunk."""
    from espnet_gq.espnet.inference.chunks import BlockStream

    encoder = BlockStream(model.encoder)
    numbers = torch.Generator().manual_seed(0)
    feats = torch.randn(1, 64, model.frontend.output_size(), generator=numbers)
    for _ in range(3):  # the first block needs more than one chunk
        encoder(feats, False)
    return lambda: encoder(feats, False)


def whole_utterance(model: Model, seconds: float) -> Callable[[], Any]:
    """Return a function that encodes a whole utterance."""
    samples = int(seconds * SAMPLE_RATE)
    numbers = torch.Generator().manual_seed(0)
    speech = 0.1 * torch.randn(1, samples, generator=numbers)
    lengths = torch.tensor([samples])
    return lambda: model.encode(speech, lengths)


def _timed(loaded: Loaded, call: Callable[[], Any], count: int) -> Callable[[], float]:
    def seconds() -> float:
        loaded.enter()
        start = time.perf_counter()
        for _ in range(count):
            call()
        return (time.perf_counter() - start) / count

    return seconds


@torch.no_grad()
def measure(
    name: str,
    compared: Sequence[Variant],
    cache: Path,
    rounds: int,
    utterance_rounds: int,
    seconds: float,
) -> Dict[str, Any]:
    """Measure a size: a step if it streams, and a whole utterance."""
    size = SIZES[name]
    found, _ = describe(name, cache)
    loaded = load_all(name, compared, cache)
    # name, rounds, calls per round, function that returns the call
    work: List[Any] = []
    if size.kind == "rnnt":
        work.append((STEPS["rnnt"], rounds, 3, transducer_step))
    elif size.kind == "blocks":
        work.append((STEPS["blocks"], rounds, 1, block_chunk))
    work.append(
        (
            *(WHOLE.format(seconds=seconds), utterance_rounds, 1),
            lambda model: whole_utterance(model, seconds),
        )
    )
    found["measured"] = []
    for what, times, count, make in work:
        calls = {}
        for one in loaded:
            one.enter()
            calls[one.variant] = _timed(one, make(one.model), count)
            calls[one.variant]()
        rows = figures(interleave(calls, times))
        found["measured"].append(dict(what=what, rounds=times, variants=rows))
        progress(f"models: {name}: {what}")
    return found


HEADER = ("variant", "ms (min..max)", "x own 8 bits", "x torch int8", "x float32")


def lines(found: Dict[str, Any]) -> List[str]:
    """Format the tables of a size."""
    text = []
    for measured in found["measured"]:
        rows = [
            [
                str(variant_of(row)),
                spread_cell(row["seconds"], 1e-3, 2),
                median_cell(row["x_own_8_bits"]),
                median_cell(row["x_torch_int8"]),
                median_cell(row["x_float32"]),
            ]
            for row in measured["variants"]
        ]
        what = f"{measured['what']}; {measured['rounds']} rounds"
        text += ["", what[0].upper() + what[1:], "", markdown(HEADER, rows)]
    return text
