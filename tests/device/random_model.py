"""Model files of random weights, made with NumPy alone."""

from typing import Any, Dict, Sequence

import numpy as np

from espnet_gq.device.writer import ModelFile

TOKENS = ["<blank>", "<unk>", "one", "two", "three", "vier", "fünf", "<sos/eos>"]
MELS, N_FFT, HOP = 10, 128, 80


class RandomModel(ModelFile):
    """A model file whose weights are drawn as they are added."""

    def __init__(self, seed: int = 0):
        super().__init__()
        self.random = np.random.default_rng(seed)

    def weight(self, name: str, shape: Sequence[int], bits: int = 4, bias=True):
        """Add a packed weight."""
        rows, cols = shape[0], int(np.prod(shape[1:]))
        size = -(-rows // 16) * -(-cols // 32) * 64 * bits
        self.packed(
            name,
            self.random.integers(0, 256, size, dtype=np.uint8),
            np.sort(self.random.standard_normal(2**bits)),
            np.full(rows, 0.5),
            shape,
            self.random.standard_normal(rows) if bias else None,
        )

    def remove(self, name: str) -> None:
        """Remove a weight."""
        del self.shapes[name]
        for part in ("planes", "codebook", "scale", "bias"):
            self.tensors.pop(f"{name}.{part}", None)

    def recurrent(self, name: str, gates: int, units: int, inputs: int) -> None:
        """Add an LSTM (4 gates) or GRU (3 gates) layer."""
        self.weight(f"{name}.ih", (gates * units, inputs))
        self.weight(f"{name}.hh", (gates * units, units), bias=gates == 3)


def transducer(seed: int = 0, **settings: Any) -> RandomModel:
    """Return the contents of a tiny LSTM transducer; settings replace its own."""
    file = RandomModel(seed)
    given: Dict[str, Any] = dict(
        features__type="logmel",
        features__sample_rate=8000,
        features__n_fft=N_FFT,
        features__hop_length=HOP,
        features__n_mels=MELS,
        features__center=True,
        tokens__type="word",
        tokens__list=TOKENS,
        encoder__type="rnn",
        encoder__cell="lstm",
        encoder__layers=2,
        encoder__units=8,
        encoder__bidirectional=False,
        encoder__projection=True,
        encoder__subsample=[2, 1],
        output="transducer",
        predictor__type="rnn",
        predictor__cell="gru",
        predictor__layers=1,
        predictor__units=8,
        joint__activation="tanh",
    )
    file.set(**{**given, **settings})
    file.floats("features.window", np.hanning(N_FFT))
    file.floats("features.mel", file.random.random((MELS, N_FFT // 2 + 1)) / 10)
    file.floats("features.mean", np.full(MELS, -5.0))
    file.floats("features.std", np.full(MELS, 2.0))
    for layer, inputs in enumerate((MELS, 12)):
        file.recurrent(f"encoder.rnn.{layer}.forward", 4, 8, inputs)
        file.weight(f"encoder.rnn.{layer}.project", (12, 8))
    file.weight("predictor.embed", (len(TOKENS), 8), bits=2, bias=False)
    file.recurrent("predictor.rnn.0", 3, 8, 8)
    file.weight("joint.encoder", (9, 12), bits=8)
    file.weight("joint.predictor", (9, 8), bits=1)
    file.weight("joint.output", (len(TOKENS), 9))
    return file


def speaker(order: Sequence[int], tokens: int) -> RandomModel:
    """Return a model that says these labels again and again, whatever it hears.

    The last label alone decides on the next one, so that they have to be different. The
    settings of the tokens are to be added.
    """
    file = transducer(predictor__type="stateless", joint__activation="identity")
    for name in ("predictor.rnn.0.ih", "predictor.rnn.0.hh", "joint.output"):
        file.remove(name)
    for name in ("predictor.embed", "joint.encoder", "joint.predictor"):
        file.remove(name)
    for key in ("tokens.type", "tokens.list"):
        del file.settings[key]
    follows = np.zeros((tokens, tokens))
    for label, after in zip([0, *order], [*order, order[0]]):
        follows[after, label] = 10
    file.matrix("predictor.embed", np.eye(tokens))
    file.matrix("joint.encoder", np.zeros((tokens, 12)))
    file.matrix("joint.predictor", follows)
    file.matrix("joint.output", np.eye(tokens))
    return file


def speech(seconds: float = 1.0, seed: int = 0) -> np.ndarray:
    """Return samples (n,), float32: tones that change."""
    n = int(8000 * seconds)
    frequency = np.repeat(np.random.default_rng(seed).uniform(100, 3000, 20), 1000)
    phase = np.cumsum(np.resize(frequency, n)) * (2 * np.pi / 8000)
    return (0.3 * np.sin(phase)).astype(np.float32)
