"""ESPnet's default frontend and its normalization, put into the model file."""

from typing import Any

import torch
from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.layers.global_mvn import GlobalMVN
from espnet2.layers.utterance_mvn import UtteranceMVN
from torch import nn

from espnet_gq.device.writer import ModelFile
from espnet_gq.espnet.exporting.refusal import require
from espnet_gq.espnet.exporting.weights import array


def add_features(file: ModelFile, model: Any) -> None:
    """Add how a model turns samples into features.

    Raises:
        CannotExport: If the engine has no such frontend or normalization.
    """
    frontend = model.frontend
    require(
        type(frontend) is DefaultFrontend,
        f"the frontend is {type(frontend).__name__}; allowed on a device: default",
    )
    stft, logmel = frontend.stft, frontend.logmel
    require(stft is not None, "frontend_conf: apply_stft is false; allowed: true")
    enhanced = frontend.frontend
    require(
        not getattr(enhanced, "use_wpe", False)
        and not getattr(enhanced, "use_beamformer", False),
        "frontend_conf has use_wpe or use_beamformer; allowed on a device: neither",
    )
    require(not stft.normalized, "frontend_conf: normalized is true; allowed: false")
    require(stft.onesided, "frontend_conf: onesided is false; allowed: true")
    require(
        stft.n_fft % 2 == 0,
        f"frontend_conf: n_fft is {stft.n_fft}; allowed on a device: an even number",
    )
    require(logmel.log_base is None, "the logarithm of the frontend is not natural")
    file.set(
        features__type="logmel",
        features__sample_rate=int(logmel.mel_options["sr"]),
        features__n_fft=stft.n_fft,
        features__hop_length=stft.hop_length,
        features__n_mels=frontend.n_mels,
        features__center=bool(stft.center),
    )
    window = torch.ones(stft.win_length)
    if stft.window is not None:
        window = getattr(torch, f"{stft.window}_window")(stft.win_length)
    left = (stft.n_fft - stft.win_length) // 2  # as torch.stft
    right = stft.n_fft - stft.win_length - left
    window = nn.functional.pad(window.float(), (left, right))
    file.floats("features.window", array(window))
    file.floats("features.mel", array(logmel.melmat.t()))
    _add_normalization(file, model.normalize)


def _add_normalization(file: ModelFile, normalize: Any) -> None:
    if normalize is None:
        return
    if type(normalize) is UtteranceMVN:
        file.set(
            features__own_mean=bool(normalize.norm_means),
            features__own_std=bool(normalize.norm_vars),
        )
        return
    require(
        type(normalize) is GlobalMVN,
        f"normalize is {type(normalize).__name__}; allowed on a device: global_mvn, "
        "utterance_mvn, none",
    )
    if normalize.norm_means:
        file.floats("features.mean", array(normalize.mean))
    if normalize.norm_vars:
        file.floats("features.std", array(normalize.std))
