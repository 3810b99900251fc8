"""An LSTM transducer of ESPnet as ONNX files, with weights in dynamic int8."""

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

import numpy as np
import torch
from torch import Tensor, nn


def missing() -> Optional[str]:
    """Return why no ONNX files can be written or run, None if they can."""
    for package in ("onnx", "onnxruntime"):
        try:
            __import__(package)
        except ImportError:
            return f"{package} is not installed"
    return None


class _Encoder(nn.Module):
    """ESPnet's projected LSTM layers on a chunk, a multiple of the stride long.

    forward: x (1, T, D), h and c (layers, 1, units) -> (1, T / stride, outputs), h, c.
    """

    def __init__(self, encoder: Any):
        super().__init__()
        rnn = encoder.enc[-1]
        count = rnn.elayers
        self.layers = nn.ModuleList(getattr(rnn, f"rnn{i}") for i in range(count))
        self.projections = nn.ModuleList(getattr(rnn, f"bt{i}") for i in range(count))
        self.subsample = [int(n) for n in rnn.subsample[1 : count + 1]]

    def forward(self, x: Tensor, h: Tensor, c: Tensor):
        hs, cs = [], []
        for i, layer in enumerate(self.layers):
            x, (h_i, c_i) = layer(x, (h[i : i + 1], c[i : i + 1]))
            hs.append(h_i)
            cs.append(c_i)
            if self.subsample[i] > 1:
                x = x[:, :: self.subsample[i]]
            x = self.projections[i](x)
            if i + 1 < len(self.layers):
                x = torch.tanh(x)
        return x, torch.cat(hs), torch.cat(cs)


class _Predictor(nn.Module):
    """forward: label (1, 1), h and c (layers, 1, units) -> (1, units), h, c."""

    def __init__(self, decoder: Any):
        super().__init__()
        self.embed, self.layers = decoder.embed, decoder.decoder

    def forward(self, label: Tensor, h: Tensor, c: Tensor):
        x = self.embed(label)
        hs, cs = [], []
        for i, layer in enumerate(self.layers):
            x, (h_i, c_i) = layer(x, (h[i : i + 1], c[i : i + 1]))
            hs.append(h_i)
            cs.append(c_i)
        return x[0], torch.cat(hs), torch.cat(cs)


class _Joint(nn.Module):
    """forward: encoded (n, D), predicted (1, U) -> logits (n, tokens)."""

    def __init__(self, joint: Any):
        super().__init__()
        self.joint = joint

    def forward(self, encoded: Tensor, predicted: Tensor):
        joint = self.joint
        hidden = joint.lin_enc(encoded) + joint.lin_dec(predicted)
        return joint.lin_out(joint.joint_activation(hidden))


def write(model: Any, folder: Path) -> None:
    """Write encoder, predictor and joint, float and int8, and what the features need.

    Args:
        model: ESPnet's float LSTM transducer with projections.
        folder: Where to.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    folder.mkdir(parents=True, exist_ok=True)
    encoder, predictor = _Encoder(model.encoder), _Predictor(model.decoder)
    states: Dict[str, Tensor] = {}
    for name, part in (("encoder", encoder), ("predictor", predictor)):
        layers: Any = part.layers
        states[name] = torch.zeros(len(layers), 1, layers[0].hidden_size)
    mels = model.frontend.n_mels
    e, p = states["encoder"], states["predictor"]
    joint = _Joint(model.joint_network)
    width = model.joint_network.lin_enc.in_features
    stride = int(np.prod(encoder.subsample))
    exports: Dict[str, Tuple[nn.Module, Any, str]] = {
        "encoder": (encoder, (torch.zeros(1, 4 * stride, mels), e, e), "x h c"),
        "predictor": (
            predictor,
            (torch.zeros(1, 1, dtype=torch.long), p, p),
            "label h c",
        ),
        "joint": (
            joint,
            (torch.zeros(4, width), torch.zeros(1, p.size(-1))),
            "encoded predicted",
        ),
    }
    axes = {"x": {1: "frames"}, "encoded": {0: "frames"}}
    for name, (exported, inputs, names) in exports.items():
        path = folder / f"{name}.onnx"
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                exported.eval(),
                inputs,
                str(path),
                input_names=names.split(),
                dynamic_axes={k: v for k, v in axes.items() if k in names.split()},
                opset_version=17,
                dynamo=False,
            )
            quantize_dynamic(
                path, folder / f"{name}.int8.onnx", weight_type=QuantType.QInt8
            )
        path.unlink()
    stft, logmel = model.frontend.stft, model.frontend.logmel
    np.savez(
        folder / "features.npz",
        window=torch.hann_window(stft.win_length).numpy(),
        mel=logmel.melmat.numpy(),
        hop=stft.hop_length,
        stride=stride,
        encoder_state=np.array(e.shape),
        predictor_state=np.array(p.shape),
    )
