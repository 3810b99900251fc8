"""A training step of a variant, and its batch."""

import argparse
from dataclasses import dataclass
from typing import Dict, List

import torch
from torch import nn

import espnet_gq
from benchmarks.measuring import Clock
from benchmarks.training.variants import Size, Variant, build

SAMPLE_RATE = 16000
TOKENS_A_SECOND = 3.5
"""Typical of 5,000 word pieces and read English speech."""
PHASES = ("forward", "backward", "clip", "optimizer")


@dataclass(frozen=True)
class Workload:
    """Shape of a batch: utterances, and seconds per utterance."""

    utterances: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.utterances}x{self.seconds:g}"

    @classmethod
    def parse(cls, text: str) -> "Workload":
        """Parse text such as "8x10".

        Raises:
            argparse.ArgumentTypeError: If the text has another form.
        """
        try:
            utterances, seconds = text.split("x")
            return cls(int(utterances), float(seconds))
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"workload '{text}'; allowed: utterances x seconds, such as 8x10"
            ) from None

    def batch(self, seed: int, vocabulary: int, device: str) -> Dict[str, torch.Tensor]:
        """Return a batch for ESPnet's model: noise, and text of realistic length."""
        numbers = torch.Generator().manual_seed(seed)
        n, samples = self.utterances, int(self.seconds * SAMPLE_RATE)
        tokens = max(round(self.seconds * TOKENS_A_SECOND), 1)
        batch = dict(
            speech=0.1 * torch.randn(n, samples, generator=numbers),
            speech_lengths=torch.full((n,), samples),
            text=torch.randint(2, vocabulary - 1, (n, tokens), generator=numbers),
            text_lengths=torch.full((n,), tokens),
        )
        return {name: tensor.to(device) for name, tensor in batch.items()}


class Trainee:
    """A variant with its optimizer."""

    def __init__(self, variant: Variant, size: Size, device: str):
        self.variant, self.device = variant, device
        self.model = build(variant, size, device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-5)
        self.losses: List[float] = []

    def step(self, batch: Dict[str, torch.Tensor], seed: int) -> Dict[str, float]:
        """Take one training step; return the seconds of each of PHASES."""
        torch.manual_seed(seed)  # same dropout masks for every variant
        seconds, clock = {}, Clock()
        loss, _, _ = self.model(**batch)
        seconds["forward"] = clock.lap()
        loss.backward()
        seconds["backward"] = clock.lap()
        nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        seconds["clip"] = clock.lap()
        self.optimizer.step()
        self.optimizer.zero_grad()
        espnet_gq.advance(self.model)
        seconds["optimizer"] = clock.lap()
        self.losses.append(loss.item())
        return seconds
