"""Small valid files that fuzzing begins with."""

from pathlib import Path
from typing import Any, Dict

import numpy as np

from espnet_gq.device.writer import ModelFile
from tests.robustness.device.conformers import Weights, settings

TOKENS = ["<blank>", "a", "\u2581b", "<unk>"]
CONFORMERS = (
    "conformer",
    "e_branchformer",
    "contextual_block_conformer",
    "chunk_conformer",
)
RNN: Dict[str, Any] = dict(
    encoder__type="rnn",
    encoder__cell="lstm",
    encoder__layers=1,
    encoder__units=2,
    encoder__bidirectional=False,
    encoder__projection=True,
    encoder__subsample=[2],
)


class Tiny(ModelFile):
    """A model file of a few weights."""

    def __init__(self, **settings: Any):
        super().__init__()
        self.random = np.random.default_rng(0)
        common: Dict[str, Any] = dict(
            features__type="logmel",
            features__sample_rate=8000,
            features__n_fft=8,
            features__hop_length=40,
            features__n_mels=2,
            features__center=True,
            tokens__type="bpe",
            tokens__list=TOKENS,
        )
        self.set(**{**common, **settings})
        self.floats("features.window", np.ones(8))
        self.floats("features.mel", self.random.random((2, 5)))
        self.floats("features.mean", np.zeros(2))
        self.floats("features.std", np.ones(2))

    def weight(self, name: str, rows: int, cols: int, bits: int = 1, bias=True):
        """Add a packed weight, a float one for 0 bits."""
        given = self.random.standard_normal(rows) if bias else None
        if bits == 0:
            self.matrix(name, self.random.standard_normal((rows, cols)), given)
            return
        size = -(-rows // 16) * -(-cols // 32) * 64 * bits
        self.packed(
            name,
            self.random.integers(0, 256, size, dtype=np.uint8),
            np.linspace(-1, 1, 2**bits),
            np.ones(1),
            (rows, cols),
            given,
        )


def _transducer(file: Tiny, outputs: int) -> Tiny:
    file.set(output="transducer", predictor__type="stateless", joint__activation="tanh")
    file.weight("predictor.embed", len(TOKENS), 2, bias=False)
    file.weight("joint.encoder", 2, outputs)
    file.weight("joint.predictor", 2, 2)
    file.weight("joint.output", len(TOKENS), 2, bits=2)
    return file


def _lstm() -> Tiny:
    file = Tiny(**RNN)
    file.weight("encoder.rnn.0.forward.ih", 8, 2)
    file.weight("encoder.rnn.0.forward.hh", 8, 2, bias=False)
    file.weight("encoder.rnn.0.project", 2, 2, bits=0)
    return _transducer(file, 2)


def _gru() -> Tiny:
    changes: Dict[str, Any] = dict(
        encoder__cell="gru", encoder__bidirectional=True, encoder__projection=False
    )
    file = Tiny(**{**RNN, **changes})
    for direction in ("forward", "backward"):
        file.weight(f"encoder.rnn.0.{direction}.ih", 6, 2, bits=0)
        file.weight(f"encoder.rnn.0.{direction}.hh", 6, 2, bits=0)
    file.weight("encoder.project", 2, 4)
    return _transducer(file, 2)


def _vgg() -> Tiny:
    file = Tiny(**{**RNN, "encoder__type": "vgg_rnn"})
    for number, (outputs, channels) in enumerate(((1, 1), (2, 1), (1, 2), (2, 1))):
        file.weight(f"encoder.conv.{number}", outputs, 9 * channels)
    file.weight("encoder.rnn.0.forward.ih", 8, 2)
    file.weight("encoder.rnn.0.forward.hh", 8, 2, bias=False)
    file.weight("encoder.rnn.0.project", 2, 2)
    return _transducer(file, 2)


def conformer(kind: str, **changes: Any) -> Tiny:
    """Return a model file of a Conformer with CTC."""
    given = settings(kind, **{"features__hop_length": 8, **changes})
    file = Tiny(**given, output="ctc", ctc__labels=len(TOKENS))
    Weights(file, 2)
    file.weight("ctc.output", len(TOKENS), 4)
    return file


def write_models(folder: Path) -> None:
    """Write a model file of each kind."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in (("lstm", _lstm), ("gru", _gru), ("vgg", _vgg)):
        make().write(folder / name)
    for kind in CONFORMERS:
        conformer(kind).write(folder / kind)
