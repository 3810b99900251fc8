"""Recognisers of realistic size with random weights, as files of every variant.

Random weights alone recognize nothing, and stacked layers of them damp the signal. So
the encoder's matrices are scaled up, the joint network's inputs are standardised, and
blank gets a bias with which about LABELS_A_SECOND tokens come out: as many as of a
trained recogniser, and as often in every variant.
"""

import argparse
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Sequence

import numpy as np
import torch
import yaml

import espnet_gq.espnet  # noqa: F401
from benchmarks.device import onnx_files
from benchmarks.device.espnet_process import chunk_decoder
from benchmarks.device.variants import FLOAT, ONNX_INT8, Variant
from benchmarks.espnet_models import (
    Model,
    build,
    options,
    quantized,
    set_codebooks,
)
from benchmarks.packed.models import SAMPLE_RATE, lstm, transducer
from benchmarks.report import progress
from espnet_gq.espnet.tasks import TASKS
from espnet_gq.packing import pack_state_dict, save

LABELS_A_SECOND = 4.0
"""Tokens per second of read English in 5,000 word pieces."""
LARGEST_STEP = 100.0
"""Steps of the bias of blank; where none helps, as on noise, there are no tokens."""
FRAMES_A_SECOND = 25
SPREADS = (1.0, 0.1)
"""Standard deviations of what the joint network gets from encoder and predictor: with
more from the latter, one token leads to many.
"""
GAIN = 2.0
"""Factor of the encoder's matrices: with less, eight LSTM layers end in a constant."""


@dataclass(frozen=True)
class Size:
    """A recogniser to measure.

    Args:
        what: Its name in reports.
        task: ESPnet's task.
        chosen: Its classes and their options.
        chunk_ms: Length of a chunk.
        tokens: Size of the vocabulary.
    """

    what: str
    task: str
    chosen: Mapping[str, Any]
    chunk_ms: int
    tokens: int = 5000


def _lstm(layers: int, units: int, projection: int, chunk_ms: int = 160, **changes):
    chosen = transducer(
        "rnn", lstm(layers, units, projection), projection, 2, projection
    )
    # With the default initialization, the signal vanishes in stacked LSTMs.
    chosen.update(init="xavier_uniform")
    return Size("LSTM transducer", "asr", chosen, chunk_ms, **changes)


def _conformer(
    units: int, linear: int, heads: int, blocks: int, predictor: int, joint: int
) -> Dict[str, Any]:
    return dict(
        encoder_conf=dict(
            main_conf=dict(
                pos_wise_act_type="swish",
                conv_mod_act_type="swish",
                dynamic_chunk_training=True,
                num_left_chunks=4,
            ),
            input_conf=dict(vgg_like=False, conv_size=units, subsampling_factor=4),
            body_conf=[
                dict(
                    block_type="conformer",
                    hidden_size=units,
                    linear_size=linear,
                    heads=heads,
                    conv_mod_kernel_size=31,
                    num_blocks=blocks,
                )
            ],
        ),
        decoder="rnn",
        decoder_conf=dict(
            rnn_type="lstm", num_layers=1, embed_size=predictor, hidden_size=predictor
        ),
        joint_network_conf=dict(joint_space_size=joint),
        model_conf=dict(auxiliary_ctc_weight=0.3, report_cer=False, report_wer=False),
        frontend_conf=dict(n_fft=512, hop_length=160),
    )


SIZES: Dict[str, Size] = {
    "lstm60m": _lstm(8, 1024, 512),
    "lstm100m": _lstm(8, 1280, 640),
    "conformer42m": Size(
        "streaming Conformer transducer (second task)",
        "asr_transducer",
        _conformer(256, 2048, 4, 12, 512, 640),
        640,
    ),
    "tiny": _lstm(2, 64, 32, tokens=60),
    "tiny_conformer": Size(
        "streaming Conformer transducer (second task)",
        "asr_transducer",
        _conformer(32, 64, 2, 2, 32, 32),
        640,
        60,
    ),
}


def config(size: Size, bits: Optional[int] = None) -> Dict[str, Any]:
    """Return the options of a float training, or of one at a bit width."""
    chosen = dict(size.chosen, token_type="word", normalize=None)
    if bits is not None:
        gq = dict(bits=bits)
        chosen = quantized(chosen, dict(encoder=gq, decoder=gq, model=gq))
        if size.task == "asr_transducer":  # its encoder has no name
            chosen["encoder_conf"]["gq_conf"] = gq
            del chosen["model"]
    return options(chosen, size.tokens, size.task)


@torch.no_grad()
def _frames(model: Model, samples: np.ndarray) -> torch.Tensor:
    """Return the encoder's output (T, D) for samples (N,)."""
    speech = torch.from_numpy(samples)[None]
    feats, lengths = model._extract_feats(speech, torch.tensor([speech.size(1)]))
    return model.encoder(feats, lengths)[0][0]


def _frames_of_chunks(config: Path, model: Path, samples: np.ndarray, chunk_ms: int):
    """The same for a model of the second task, chunk by chunk."""
    decoder = chunk_decoder(str(config), str(model), chunk_ms)
    found = []
    encode = decoder.asr_model.encoder.chunk_forward

    def chunk_forward(*args: Any, **options: Any) -> torch.Tensor:
        found.append(encode(*args, **options))
        return found[-1]

    decoder.asr_model.encoder.chunk_forward = chunk_forward
    chunk = chunk_ms * SAMPLE_RATE // 1000
    for start in range(0, len(samples) - chunk, chunk):
        decoder.streaming_decode(samples[start : start + chunk], is_final=False)
    return torch.cat(found, 1)[0]


@torch.no_grad()
def _tune(model: Model, frames: torch.Tensor, tokens: int) -> float:
    """Standardise what the joint network gets, see SPREADS; return a bias for blank.

    Args:
        model: The float model, changed in place.
        frames: Output of its encoder (T, D).
        tokens: Size of the vocabulary.
    """
    joint = model.joint_network
    labels = torch.randint(1, tokens, (1, 50))
    inner = frames, model.decoder(labels)[0]
    for layer, values, spread in zip((joint.lin_enc, joint.lin_dec), inner, SPREADS):
        layer.weight.mul_(spread / layer(values).std(0).mean())
        if layer.bias is not None:
            layer.bias.sub_(layer(values).mean(0))
    hidden = joint.lin_enc(frames) + joint.lin_dec(inner[1][:1])
    logits = joint.lin_out(joint.joint_activation(hidden))
    lead = logits[:, 1:].max(1).values - logits[:, 0]
    return float(lead.quantile(1 - LABELS_A_SECOND / FRAMES_A_SECOND))


class Models:
    """The files of a size's variants, written into a folder where they are missing.

    Args:
        name: The size, a key of SIZES.
        folder: Where to.
        speech: Utterances (N,) that the rate of tokens is set on.
    """

    def __init__(self, name: str, folder: Path, speech: Sequence[np.ndarray]):
        self.name, self.size = name, SIZES[name]
        self.folder, self.speech = folder / name, speech

    @property
    def parameters(self) -> int:
        """Number of parameters of the float model."""
        return self.notes(FLOAT)["parameters"]

    def path(self, variant: Variant, file: str) -> Path:
        """Return the path of a file of a variant."""
        packed = variant.bits is not None
        return self.folder / (f"{variant.bits}_bits" if packed else "float") / file

    def notes(self, variant: Variant) -> Dict[str, Any]:
        """Return what is known of a variant: `blank`, `parameters`, `refused`."""
        return json.loads(self.path(variant, "notes.json").read_text())

    def make(self, variants: Sequence[Variant]) -> None:
        """Write what is missing for these variants."""
        self._write_float()
        widths = sorted({v.bits for v in variants if v.bits}, reverse=True)
        for bits in widths:
            self._write_packed(bits)
        if widths:
            self._set_blank(self.notes(Variant("engine", widths[0], "int8"))["blank"])
        if ONNX_INT8 in variants and self.without_onnx() is None:
            folder = self.path(ONNX_INT8, "onnx")
            if not folder.exists():
                progress(f"{self.name}: writing ONNX files")
                onnx_files.write(self.float_model(), folder)

    def without_onnx(self) -> Optional[str]:
        """Return why there are no ONNX files, None if there are."""
        if self.size.task != "asr":
            return "the benchmark writes ONNX files of LSTM transducers only"
        return onnx_files.missing()

    def float_model(self) -> Model:
        """Return the float model."""
        model = build(config(self.size), self.size.task)
        path = self.path(FLOAT, "model.pth")
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()

    def _write_float(self) -> None:
        if self.path(FLOAT, "notes.json").exists():
            return
        progress(f"{self.name}: writing the float model")
        torch.manual_seed(0)
        args = config(self.size)
        model = build(args, self.size.task).eval()
        speech = np.concatenate(self.speech)
        if self.size.task == "asr_transducer":
            self._write(FLOAT, args, model.state_dict())
            files = self.path(FLOAT, "config.yaml"), self.path(FLOAT, "model.pth")
            frames = _frames_of_chunks(*files, speech, self.size.chunk_ms)
        else:
            for parameter in model.encoder.parameters():
                if parameter.dim() > 1:
                    parameter.data.mul_(GAIN)
            frames = _frames(model, speech)
        blank = _tune(model, frames, self.size.tokens)
        parameters = sum(tensor.numel() for tensor in model.parameters())
        model.joint_network.lin_out.bias.data[0] += blank
        self._write(FLOAT, args, model.state_dict())
        self._note(FLOAT, dict(parameters=parameters, blank=blank))

    def _set_blank(self, blank: float) -> None:
        """Set the float model's bias of blank: to that of the most bits."""
        notes = self.notes(FLOAT)
        if blank == notes["blank"]:
            return
        path = self.path(FLOAT, "model.pth")
        state = torch.load(path, weights_only=True)
        state["joint_network.lin_out.bias"][0] += blank - notes["blank"]
        save(state, path)
        shutil.rmtree(self.path(ONNX_INT8, "onnx"), ignore_errors=True)
        self._note(FLOAT, dict(notes, blank=blank))

    def _write(self, variant: Variant, args: Any, state: Any) -> None:
        path = self.path(variant, "config.yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(args))
        save(state, self.path(variant, "model.pth"))

    def _note(self, variant: Variant, notes: Dict[str, Any]) -> None:
        """Write what is known of a variant, when its other files are complete."""
        self.path(variant, "notes.json").write_text(json.dumps(notes))

    def _write_packed(self, bits: int) -> None:
        from espnet_gq.espnet.exporting.model import describe
        from espnet_gq.espnet.exporting.refusal import CannotExport

        variant = Variant("engine", bits, "int8")
        if self.path(variant, "notes.json").exists():
            return
        progress(f"{self.name}: writing {bits} bits")
        args = config(self.size, bits)
        model = build(args, self.size.task)
        state = torch.load(self.path(FLOAT, "model.pth"), weights_only=True)
        model.load_state_dict(state, strict=False)
        set_codebooks(model)
        notes = dict(self.notes(FLOAT), refused=None)
        self._write(variant, args, pack_state_dict(model.state_dict()))
        packed, _ = (
            TASKS[self.size.task]
            .load()
            .build_model_from_file(
                self.path(variant, "config.yaml"),
                self.path(variant, "model.pth"),
                "cpu",
            )
        )
        try:
            file = describe(packed.eval(), argparse.Namespace(**args))
        except CannotExport as e:
            notes["refused"] = str(e)
        else:
            bias = model.joint_network.lin_out.bias.data
            first = float(bias[0]) - notes["blank"]
            notes["blank"] = self._set_rate(file, variant, first, notes["blank"])
            bias[0] = first + notes["blank"]
            self._write(variant, args, pack_state_dict(model.state_dict()))
        self._note(variant, notes)

    def _set_rate(self, file, variant: Variant, first: float, guess: float) -> float:
        """Write the engine's file with a bias of blank that gives LABELS_A_SECOND."""
        from espnet_gq.device import Model as Engine

        path = self.path(variant, "model.gguf")
        bias = file.tensors["joint.output.bias"] = np.array(
            file.tensors["joint.output.bias"]
        )
        seconds = sum(map(len, self.speech)) / SAMPLE_RATE

        tried: Dict[float, float] = {}
        file.write(path)
        contents = path.read_bytes()
        head, found, tail = contents.partition(bias.tobytes())
        assert found and bias.tobytes() not in tail

        def rate(blank: float) -> float:
            bias[0] = first + blank
            engine = Engine(head + bias.tobytes() + tail)
            found = [len(engine.transcribe(s)[0].tokens) for s in self.speech]
            tried[blank] = sum(found) / seconds
            return tried[blank]

        def miss(blank: float) -> float:
            return abs(tried[blank] - LABELS_A_SECOND)

        low = high = guess
        step = 0.1
        while rate(high) > LABELS_A_SECOND:
            low, high, step = high, high + step, 2 * step
        while tried[low] <= LABELS_A_SECOND and step < LARGEST_STEP:
            high, low, step = low, low - step, 2 * step
            rate(low)
        for _ in range(12):
            middle = (low + high) / 2
            more = rate(middle) > LABELS_A_SECOND
            low, high = (middle, high) if more else (low, middle)
            if miss(middle) < 0.03 * LABELS_A_SECOND:
                break
        best = min(tried, key=miss)
        bias[0] = first + best
        file.write(path)
        progress(f"{self.name}, {variant}: {tried[best]:.2f} tokens per second")
        return best
