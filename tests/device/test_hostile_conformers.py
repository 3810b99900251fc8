"""Conformers in model files whose parts do not fit together are refused."""

import numpy as np
import pytest

from espnet_gq.device import EngineError, Model
from espnet_gq.device.engine import find_library
from tests.robustness.device.corpus import CONFORMERS, conformer

pytestmark = pytest.mark.skipif(find_library() is None, reason="no device engine")

ONE = "conformer"
BLOCK = "encoder.block.0"


@pytest.mark.parametrize("kind", CONFORMERS)
def test_the_unchanged_files_are_recognized(tmp_path, kind):
    conformer(kind).write(tmp_path / "model.gguf")
    model = Model(tmp_path / "model.gguf")
    samples = np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    for beam in (1, 3):
        (result,) = model.transcribe(samples, beam=beam)
        assert result.tokens and np.isfinite(result.score)


@pytest.mark.parametrize(
    "kind, changes, message",
    [
        (ONE, {"heads": 3}, "3 heads of attention, which do not divide 4 units"),
        (
            ONE,
            {"units": 5},
            "has 4 x 4 weights encoder.conv.out; its other parts need",
        ),
        (ONE, {"layers": 2}, "encoder.block.1"),
        (ONE, {"layers": 0}, "has no gqasr.encoder.layers from 1 to 1000"),
        (ONE, {"positions": "polar"}, "unknown gqasr.encoder.positions; allowed: abs"),
        (
            ONE,
            {"positions": "shifted"},
            "lacks the number gqasr.encoder.positions.long",
        ),
        (ONE, {"activation": "sine"}, "unknown function gqasr.encoder.activation"),
        (ONE, {"feed_forward__taps": [2, 1]}, "even number of taps in encoder.block.0"),
        (ONE, {"feed_forward__taps": [1]}, "has not 2 numbers gqasr.encoder.feed_forw"),
        (ONE, {"conv__kernels": [3]}, "fewer features than the kernel of encoder.conv"),
        (
            ONE,
            {"conv__strides": [0]},
            "encoder.conv.strides a number that is not 1 to 8",
        ),
        (ONE, {"concatenate": True}, "has no encoder.block.0.concatenated.shape"),
        (CONFORMERS[2], {"blocks__hop": 5}, "no gqasr.encoder.blocks.hop from 1 to 4"),
        (CONFORMERS[2], {"blocks__look_ahead": 3}, "blocks.look_ahead from 0 to 2"),
        (
            CONFORMERS[2],
            {"positions": "relative"},
            "which contextual blocks do not have",
        ),
        (CONFORMERS[3], {"chunk__samples": 7}, "no gqasr.encoder.chunk.samples from 8"),
        (CONFORMERS[3], {"chunk__left": 1 << 15}, "gqasr.encoder.chunk.left from 0 to"),
        (
            CONFORMERS[3],
            {"macaron": False},
            "chunk_conformer without relative positions",
        ),
    ],
)
def test_settings(tmp_path, kind, changes, message):
    file = conformer(kind)
    for key, value in changes.items():
        file.settings["encoder." + key.replace("__", ".")] = value
    file.write(tmp_path / "model.gguf")
    with pytest.raises(EngineError, match=message):
        Model(tmp_path / "model.gguf")


@pytest.mark.parametrize("labels", [0, 5])
def test_labels_that_are_no_tokens(tmp_path, labels):
    file = conformer(ONE)
    file.settings["ctc.labels"] = labels
    file.write(tmp_path / "model.gguf")
    with pytest.raises(EngineError, match="no gqasr.ctc.labels from 1 to 4"):
        Model(tmp_path / "model.gguf")


@pytest.mark.parametrize(
    "kind, name, shape, message",
    [
        (
            ONE,
            f"{BLOCK}.conv.depthwise",
            (4, 2),
            "2 taps in encoder.block.0.conv.depth",
        ),
        (ONE, f"{BLOCK}.attention.linear_pos", (4, 3), "4 x 3 weights encoder.block.0"),
        (
            ONE,
            f"{BLOCK}.macaron.outer",
            (4, 5),
            "4 x 5 weights encoder.block.0.macaron",
        ),
        (CONFORMERS[1], f"{BLOCK}.conv.in", (3, 4), "an odd number of rows in encoder"),
    ],
)
def test_shapes(tmp_path, kind, name, shape, message):
    file = conformer(kind)
    for key in [key for key in file.tensors if key.startswith(f"{name}.")]:
        if key.split(".")[-1] in ("planes", "codebook", "scale", "values", "bias"):
            del file.tensors[key]
    file.matrix(name, np.zeros(shape))
    file.write(tmp_path / "model.gguf")
    with pytest.raises(EngineError, match=message):
        Model(tmp_path / "model.gguf")


def test_weights_too_large_for_numbers(tmp_path):
    """Products overflow: the result is whatever, but searches end."""
    for kind in CONFORMERS:
        file = conformer(kind)
        for name in file.tensors:
            if name.endswith((".scale", ".gain")):
                file.tensors[name][:] = 3e38
        file.write(tmp_path / "model.gguf")
        model = Model(tmp_path / "model.gguf")
        for beam in (1, 3):
            assert len(model.transcribe(np.ones(2000, np.float32), beam=beam)) == 1
