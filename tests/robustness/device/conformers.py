"""Conformers of any size with random weights, made with NumPy alone."""

from typing import Any, Dict

import numpy as np

Settings = Dict[str, Any]


def settings(kind: str, width: int = 4, layers: int = 1, **changes: Any) -> Settings:
    """Return the settings of an encoder; `changes` replace some.

    Args:
        kind: encoder.type.
        width: Units.
        layers: Blocks.
    """
    given: Settings = dict(
        encoder__type=kind,
        encoder__units=width,
        encoder__layers=layers,
        encoder__heads=2,
        encoder__norm=True,
        encoder__scaled=True,
        encoder__conv__layers=1,
        encoder__conv__kernels=[2],
        encoder__conv__strides=[2],
        encoder__positions="relative",
        encoder__macaron=True,
    )
    if kind == "e_branchformer":
        given.update(
            encoder__feed_forward=True,
            encoder__feed_forward__activation="swish",
            encoder__gate__activation="tanh",
            encoder__gate__layer=True,
        )
    else:
        given.update(
            encoder__activation="swish",
            encoder__feed_forward__activation="relu",
            encoder__feed_forward__taps=[1, 1],
            encoder__convolution=True,
            encoder__normalize_before=True,
            encoder__concatenate=False,
        )
    if kind == "contextual_block_conformer":
        given.update(
            encoder__positions="absolute",
            encoder__blocks__size=4,
            encoder__blocks__hop=2,
            encoder__blocks__look_ahead=1,
            encoder__blocks__places_context=True,
        )
    if kind == "chunk_conformer":
        given.update(
            encoder__chunk__samples=400,
            encoder__chunk__left=3,
            encoder__chunk__overlap=7,
        )
    return {**given, **changes}


class Weights:
    """Adds the weights of an encoder to a file that has its settings.

    Args:
        file: Has `weight(name, rows, cols, bits)` and `floats`.
        mels: Features.
        units: Inner units of feed-forward modules and gates; even.
        taps: Of the convolutions over time.
        bits: Of packed weights.
    """

    def __init__(
        self, file: Any, mels: int, units: int = 4, taps: int = 3, bits: int = 1
    ):
        self.file, self.taps, self.bits, self.units = file, taps, bits, units
        s = file.settings
        self.width = int(s["encoder.units"])
        self.kind = str(s["encoder.type"])
        self._input(mels)
        self.norm("encoder.norm")
        i = np.arange(0, self.width, 2)
        file.floats("encoder.positions.frequencies", 10000.0 ** (-i / self.width))
        for number in range(int(s["encoder.layers"])):
            self._block(f"encoder.block.{number}")

    def _input(self, features: int) -> None:
        s, channels = self.file.settings, 1
        kernels, strides = s["encoder.conv.kernels"], s["encoder.conv.strides"]
        for i, (kernel, stride) in enumerate(zip(kernels, strides)):
            self.matrix(f"encoder.conv.{i}", self.width, kernel * kernel * channels)
            features, channels = (features - kernel) // stride + 1, self.width
        self.matrix("encoder.conv.out", self.width, features * channels)

    def matrix(self, name: str, rows: int, cols: int) -> None:
        self.file.weight(name, rows, cols, bits=self.bits)

    def norm(self, name: str, width: int = 0) -> None:
        width = width or self.width
        self.file.floats(f"{name}.gain", np.ones(width))
        self.file.floats(f"{name}.bias", np.zeros(width))
        self.file.floats(f"{name}.epsilon", np.full(1, 1e-12))

    def depthwise(self, name: str, channels: int, affine: bool) -> None:
        self.file.weight(name, channels, self.taps, bits=self.bits, bias=not affine)
        if affine:
            self.file.floats(f"{name}.gain", np.ones(channels))
            self.file.floats(f"{name}.shift", np.zeros(channels))

    def _block(self, name: str) -> None:
        width = self.width
        for part in ("macaron", "feed_forward"):
            self.norm(f"{name}.norm_{part}")
            self.matrix(f"{name}.{part}.inner", self.units, width)
            self.matrix(f"{name}.{part}.outer", width, self.units)
        self.norm(f"{name}.norm_attention")
        for part in ("q", "k", "v", "out", "pos"):
            self.matrix(f"{name}.attention.linear_{part}", width, width)
        for part in ("u", "v"):
            self.file.floats(f"{name}.attention.pos_bias_{part}", np.zeros(width))
        self.norm(f"{name}.norm_conv")
        self.norm(f"{name}.norm_final")
        if self.kind == "e_branchformer":
            half = self.units // 2
            self.matrix(f"{name}.conv.in", self.units, width)
            self.norm(f"{name}.conv.norm", half)
            self.depthwise(f"{name}.conv.depthwise", half, False)
            self.matrix(f"{name}.conv.gate", half, half)
            self.matrix(f"{name}.conv.out", width, half)
            self.depthwise(f"{name}.fusion", 2 * width, False)
            self.matrix(f"{name}.merge", width, 2 * width)
        else:
            self.matrix(f"{name}.conv.in", 2 * width, width)
            self.depthwise(f"{name}.conv.depthwise", width, True)
            self.matrix(f"{name}.conv.out", width, width)
