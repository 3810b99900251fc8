"""An LSTM transducer in plain PyTorch, of the shape of `rnnt100m` in models.py.

It stands alone: processes that measure an import read only this file.
"""

from typing import Dict

import torch
from torch import nn

SIZES: Dict[str, int] = dict(
    features=80, layers=8, units=1280, projection=640, labels=5000
)
TINY: Dict[str, int] = dict(features=8, layers=2, units=32, projection=16, labels=20)


class Transducer(nn.Module):
    """Layers of an LSTM and a projection; two LSTM layers over labels; a joint network.

    Args:
        features, units, projection, labels: Sizes of the input, of the LSTM's state,
            of its projection and of the vocabulary.
        layers: Layers of the encoder.
    """

    def __init__(
        self, features: int, layers: int, units: int, projection: int, labels: int
    ):
        super().__init__()
        self.features = features
        inputs = [features] + [projection] * (layers - 1)
        self.lstm = nn.ModuleList(nn.LSTM(n, units, batch_first=True) for n in inputs)
        self.project = nn.ModuleList(nn.Linear(units, projection) for _ in inputs)
        self.embed = nn.Embedding(labels, projection)
        self.decoder = nn.LSTM(projection, projection, 2, batch_first=True)
        self.encoded = nn.Linear(projection, projection)
        self.decoded = nn.Linear(projection, projection, bias=False)
        self.joint = nn.Linear(projection, labels)

    def forward(self) -> torch.Tensor:
        """Return the scores of labels for 16 frames of zeros after label 0."""
        x = torch.zeros(1, 16, self.features)
        for lstm, project in zip(self.lstm, self.project):
            x = torch.tanh(project(lstm(x)[0]))
        y, _ = self.decoder(self.embed(torch.zeros(1, 1, dtype=torch.long)))
        return self.joint(torch.tanh(self.encoded(x) + self.decoded(y)))
