"""Recognisers of realistic size with random weights, as files of every variant."""

import contextlib
import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence, Tuple

import torch
import yaml
from torch import nn

import espnet_gq.espnet  # noqa: F401
from benchmarks import ROOT
from benchmarks.espnet_models import (
    PARTS,
    Model,
    build,
    options,
    quantized,
    set_codebooks,
)
from benchmarks.packed.variants import FLOAT, TORCH_INT8, Variant
from benchmarks.report import progress
from espnet_gq.packing import pack_state_dict, save
from espnet_gq.runtime import set_mode

SAMPLE_RATE = 16000
EMIT_EVERY = 8
"""Encoder frames per label: 3.1 labels per second at 40 ms per frame, typical of 5,000
word pieces and read English speech.
"""
_KEYS = (
    *("encoder", "encoder_conf", "decoder", "decoder_conf", "joint_net_conf"),
    *("model_conf", "frontend_conf"),
)


@dataclass(frozen=True)
class Size:
    """A recogniser to measure.

    Args:
        what: Its name in reports.
        kind: "rnnt" (LSTM transducer), "blocks" (streaming Conformer transducer) or
            "hybrid" (CTC/attention Conformer, which needs the whole utterance).
        conf: File in conf/ that describes the model, "" for none.
        changes: Keys that override those of the file.
        tokens: Size of the vocabulary.
    """

    what: str
    kind: str
    conf: str
    changes: Dict[str, Any]
    tokens: int = 5000

    @property
    def streams(self) -> bool:
        """Whether it can be decoded chunk by chunk."""
        return self.kind != "hybrid"

    @property
    def torch_int8_modules(self) -> List[str]:
        """Module types for PyTorch's dynamic int8: ESPnet's default, plus any LSTM."""
        return ["Linear"] if self.kind == "hybrid" else ["Linear", "LSTM"]


def transducer(encoder: str, encoder_conf, decoder_units: int, layers: int, joint: int):
    return dict(
        encoder=encoder,
        encoder_conf=encoder_conf,
        decoder="transducer",
        decoder_conf=dict(
            rnn_type="lstm", num_layers=layers, hidden_size=decoder_units
        ),
        joint_net_conf=dict(joint_space_size=joint),
        model_conf=dict(ctc_weight=0.3, report_cer=False, report_wer=False),
        frontend_conf=dict(n_fft=512, hop_length=160),
    )


def _blocks(units: int, heads: int, linear: int, blocks: int, kernel: int):
    return dict(
        output_size=units,
        attention_heads=heads,
        linear_units=linear,
        num_blocks=blocks,
        input_layer="conv2d",
        normalize_before=True,
        macaron_style=True,
        selfattention_layer_type="rel_selfattn",
        activation_type="swish",
        use_cnn_module=True,
        cnn_module_kernel=kernel,
        block_size=40,
        hop_size=16,
        look_ahead=16,
    )


def lstm(layers: int, units: int, projection: int):
    return dict(
        rnn_type="lstm",
        bidirectional=False,
        use_projection=True,
        num_layers=layers,
        hidden_size=units,
        output_size=projection,
        dropout=0.0,
        subsample=[2, 2] + [1] * (layers - 2),
    )


_SMALL = dict(output_size=32, attention_heads=2, linear_units=64, num_blocks=2)
SIZES = {
    "rnnt": Size("LSTM transducer", "rnnt", "train_asr_rnnt.yaml", {}),
    "conformer": Size(
        "Conformer, CTC/attention", "hybrid", "train_asr_conformer.yaml", {}
    ),
    "streaming_conformer": Size(
        "streaming Conformer transducer",
        "blocks",
        "",
        transducer(
            *("contextual_block_conformer", _blocks(256, 4, 2048, 12, 31)),
            *(512, 1, 640),
        ),
    ),
    "rnnt100m": Size(
        "LSTM transducer",
        "rnnt",
        "",
        transducer("rnn", lstm(8, 1280, 640), 640, 2, 640),
    ),
    "tiny": Size(
        "LSTM transducer",
        "rnnt",
        "",
        transducer("rnn", lstm(2, 64, 32), 32, 1, 32),
        60,
    ),
    "tiny_streaming_conformer": Size(
        "streaming Conformer transducer",
        "blocks",
        "",
        transducer("contextual_block_conformer", _blocks(32, 2, 64, 2, 7), 32, 1, 32),
        60,
    ),
    "tiny_conformer": Size(
        "Conformer, CTC/attention",
        "hybrid",
        "train_asr_conformer.yaml",
        dict(
            encoder_conf=dict(_SMALL, rel_pos_type="latest", macaron_style=True),
            decoder_conf=dict(attention_heads=2, linear_units=64, num_blocks=1),
        ),
        60,
    ),
}


def import_packages() -> None:
    """Import all that decoding needs; redirect what the imports print to stderr."""
    with contextlib.redirect_stdout(sys.stderr):
        import espnet2.bin.asr_inference  # noqa: F401

        import espnet_gq.espnet.inference.streaming  # noqa: F401


def config(size: Size, variant: Variant) -> Dict[str, Any]:
    """Return the training configuration of a variant's model."""
    chosen: Dict[str, Any] = {}
    if size.conf:
        described = yaml.safe_load((ROOT / "conf" / size.conf).read_text())
        chosen = {k: v for k, v in described.items() if k in _KEYS}
    chosen.update(size.changes)
    if variant.method == "packed":
        chosen = quantized(chosen, dict.fromkeys(PARTS, dict(bits=variant.bits)))
    # With the default initialization, the signal vanishes in stacked LSTMs.
    chosen.update(token_type="word", normalize=None, init="xavier_uniform")
    return options(chosen, size.tokens)


@dataclass(frozen=True)
class Files:
    """Paths of a variant's config.yaml and checkpoint."""

    config: str
    model: str

    @property
    def bytes(self) -> int:
        """Size of the checkpoint in bytes."""
        return Path(self.model).stat().st_size


@torch.no_grad()
def files(name: str, variant: Variant, cache: Path) -> Files:
    """Return the files of a variant; write them unless the cache contains them.

    All variants have the float weights of one seed.
    """
    size = SIZES[name]
    float_args = config(size, FLOAT)
    text = json.dumps(float_args, sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    form = f"{variant.bits}_bits" if variant.method == "packed" else "float"
    folder = cache / f"{name}-{digest}" / form
    found = Files(str(folder / "config.yaml"), str(folder / "model.pth"))
    if Path(found.model).exists():
        return found
    folder.mkdir(parents=True, exist_ok=True)
    progress(f"{name}: writing {form}")
    if form == "float":
        torch.manual_seed(0)
        args, model = float_args, build(float_args)
        state: Any = model.state_dict()
    else:
        args = config(size, variant)
        model = build(args)
        float_state = torch.load(files(name, FLOAT, cache).model, weights_only=True)
        model.load_state_dict(float_state, strict=False)
        set_codebooks(model)
        state = pack_state_dict(model.state_dict())
    Path(found.config).write_text(yaml.safe_dump(args))
    save(state, found.model)
    return found


def parameters(name: str, cache: Path) -> int:
    """Return the number of parameters of the float model."""
    state = torch.load(files(name, FLOAT, cache).model, weights_only=True, mmap=True)
    return sum(tensor.numel() for tensor in state.values())


def _take_vectors(joint: nn.Module) -> None:
    """Make the joint network of PyTorch's dynamic int8 accept single vectors.

    Its Linear layers refuse them, and ESPnet's transducer searches pass nothing else.
    """
    matrices = joint.forward
    joint.forward = lambda encoded, decoded: matrices(encoded[None], decoded[None])[0]


class Pace:
    """Make every EMIT_EVERY-th frame of a greedy transducer search emit a label.

    With random weights, the number of emitted labels varies between variants. The score
    of the blank is set above or below all others, so that the decoder runs as often as
    in a trained recogniser and equally often for all variants.

    Args:
        joint: The joint network, modified in place. The search calls it with frames
            (T, D), then with the frames from the first non-blank one on.
    """

    def __init__(self, joint: nn.Module):
        self.frames = 0
        score = joint.forward

        def forward(encoded: torch.Tensor, *args, **kwargs) -> torch.Tensor:
            scores = score(encoded, *args, **kwargs)
            blanks = EMIT_EVERY - 1 - self.frames % EMIT_EVERY
            scores[:blanks, 0] = 1e4
            scores[blanks:, 0] = -1e4
            self.frames += min(blanks + 1, len(encoded))
            return scores

        joint.forward = forward


class Loaded:
    """A variant ready to run; packed variants of one bit width share a model.

    Args:
        variant: The variant.
        model: ESPnet's model.
        decoder: Its decoder, None if not requested.
    """

    def __init__(self, variant: Variant, model: Model, decoder: Any = None):
        self.variant, self.model, self.decoder = variant, model, decoder

    def enter(self) -> None:
        """Switch the shared model to the mode of this variant."""
        if self.variant.mode is not None:
            set_mode(self.model, self.variant.mode)


def _load(
    compared: Sequence[Variant], make: Callable[[Variant], Tuple[nn.Module, Any]]
) -> List[Loaded]:
    """Load all variants with `make`; those of one bit width share a model."""
    shared: Dict[Any, Tuple[nn.Module, Any]] = {}
    loaded = []
    for variant in compared:
        key = variant.bits or variant
        if key not in shared:
            shared[key] = make(variant)
        loaded.append(Loaded(variant, *shared[key]))
    return loaded


def load_all(name: str, compared: Sequence[Variant], cache: Path) -> List[Loaded]:
    """Load the models of all variants for evaluation."""
    from espnet2.tasks.asr import ASRTask

    size = SIZES[name]

    def make(variant: Variant) -> Tuple[nn.Module, Any]:
        made = files(name, variant, cache)
        model, _ = ASRTask.build_model_from_file(made.config, made.model)
        model.eval()
        if variant == TORCH_INT8:
            chosen = {getattr(nn, m) for m in size.torch_int8_modules}
            model = torch.ao.quantization.quantize_dynamic(model, chosen)
            if size.streams:
                _take_vectors(model.joint_network)
        return model, None

    return _load(compared, make)


def streaming_decoder(name: str, variant: Variant, made: Files) -> Any:
    """Build the greedy streaming decoder of a variant from ESPnet's options."""
    from espnet_gq.espnet.inference.streaming import Speech2TextStreaming

    decoder: Any = Speech2TextStreaming(
        made.config,
        made.model,
        beam_size=1,
        quantize_asr_model=variant == TORCH_INT8 or variant.mode == "int8",
        quantize_modules=SIZES[name].torch_int8_modules,
    )
    decoder.pace = Pace(decoder.asr_model.joint_network)
    return decoder


def load_decoders(name: str, compared: Sequence[Variant], cache: Path) -> List[Loaded]:
    """Load streaming decoders of all variants."""

    def make(variant: Variant) -> Tuple[nn.Module, Any]:
        decoder = streaming_decoder(name, variant, files(name, variant, cache))
        return decoder.asr_model, decoder

    return _load(compared, make)


def describe(name: str, cache: Path) -> Tuple[Dict[str, Any], str]:
    """Describe a size, as figures and as a line of text."""
    size, count = SIZES[name], parameters(name, cache)
    found = dict(
        what=size.what,
        parameters=count,
        tokens=size.tokens,
        torch_int8_modules=size.torch_int8_modules,
    )
    modules = ", ".join(size.torch_int8_modules)
    return found, (
        f"{name}: {size.what}, {count / 1e6:.1f} M parameters; torch int8 quantizes "
        f"{modules}"
    )
