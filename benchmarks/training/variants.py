"""The Conformer in every variant whose training is compared.

All variants start from the same float weights. The other libraries are optional. They
quantize weights only, to signed integers on a uniform grid with a scale derived from
max|w|.
"""

import contextlib
import sys
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Protocol, Tuple

import torch
from torch import nn

import espnet_gq.espnet  # noqa: F401
from benchmarks.espnet_models import PARTS, Config
from benchmarks.espnet_models import build as espnet_model
from benchmarks.espnet_models import options, quantized
from benchmarks.report import installed
from espnet_gq.nn.training import fit_quantizers

METHODS = ("float", "gq", "torchao", "brevitas")


@dataclass(frozen=True)
class Variant:
    """A way to train the model.

    Args:
        method: One of METHODS.
        bits: Bit width of the weights, None for float.
    """

    method: str
    bits: Optional[int] = None

    def __str__(self) -> str:
        return self.method if self.bits is None else f"{self.method} {self.bits} bits"

    def missing(self) -> Optional[str]:
        """Return why the variant cannot run here; None if it can."""
        if self.method in LIBRARIES and installed(self.method) is None:
            return f"not installed: pip install {self.method}"
        return None


@dataclass(frozen=True)
class Size:
    """Dimensions of the model: a hybrid CTC/attention Conformer."""

    vocabulary: int = 5000
    dimension: int = 256
    heads: int = 4
    encoder_blocks: int = 12
    encoder_units: int = 1024
    kernel: int = 31
    decoder_blocks: int = 3
    decoder_units: int = 2048

    def classes(self) -> Dict[str, Any]:
        """Return the classes and their arguments as in an ESPnet training config."""
        return dict(
            model="espnet",
            model_conf=dict(
                ctc_weight=0.3, lsm_weight=0.1, report_cer=False, report_wer=False
            ),
            frontend_conf=dict(fs=16000, n_fft=512, hop_length=160, n_mels=80),
            encoder="conformer",
            encoder_conf=dict(
                output_size=self.dimension,
                attention_heads=self.heads,
                linear_units=self.encoder_units,
                num_blocks=self.encoder_blocks,
                input_layer="conv2d",
                macaron_style=True,
                rel_pos_type="latest",
                pos_enc_layer_type="rel_pos",
                selfattention_layer_type="rel_selfattn",
                activation_type="swish",
                use_cnn_module=True,
                cnn_module_kernel=self.kernel,
            ),
            decoder="transformer",
            decoder_conf=dict(
                attention_heads=self.heads,
                linear_units=self.decoder_units,
                num_blocks=self.decoder_blocks,
            ),
        )


TINY = Size(60, 32, 2, 2, 64, 7, 1, 64)


class Architecture(Protocol):
    """Description of an ESPnet model, such as a Size."""

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""

    def classes(self) -> Dict[str, Any]:
        """Return the classes and their arguments as in an ESPnet training config."""


def config(architecture: Architecture, gq_bits: Optional[int]) -> Config:
    """Return all options of a training with `gq_bits`-bit weights; None: float."""
    classes = architecture.classes()
    if gq_bits is not None:
        gq_conf = dict(bits=gq_bits, annealing=dict(steps=100000))
        classes = quantized(classes, dict.fromkeys(PARTS, gq_conf))
    return options(classes, architecture.vocabulary)


def _layers(
    module: nn.Module, classes: Tuple[type, ...]
) -> List[Tuple[str, nn.Module]]:
    return [(n, m) for n, m in module.named_modules() if type(m) in classes]


def _torchao(model: nn.Module, bits: int) -> nn.Module:
    """Fake-quantize the weights of the Linear layers, one scale per output channel."""
    from torchao.quantization import quantize_
    from torchao.quantization.qat import IntxFakeQuantizeConfig, QATConfig

    config = IntxFakeQuantizeConfig(
        getattr(torch, f"int{bits}"), "per_channel", is_symmetric=True
    )
    quantize_(
        model,
        QATConfig(weight_config=config, step="prepare"),
        filter_fn=lambda layer, name: type(layer) is nn.Linear,
    )
    return model


def _brevitas_layer(layer: nn.Module, bits: int) -> nn.Module:
    """Return Brevitas' version of a float layer with the same parameters."""
    import brevitas.nn as qnn
    from brevitas.quant import Int8WeightPerTensorFloat

    options = dict(weight_quant=Int8WeightPerTensorFloat, weight_bit_width=bits)
    if isinstance(layer, nn.Linear):
        shape = (layer.in_features, layer.out_features)
        new = qnn.QuantLinear(*shape, bias=layer.bias is not None, **options)
    elif isinstance(layer, nn.Embedding):
        shape = (layer.num_embeddings, layer.embedding_dim)
        new = qnn.QuantEmbedding(*shape, padding_idx=layer.padding_idx, **options)
    else:
        cls = qnn.QuantConv1d if isinstance(layer, nn.Conv1d) else qnn.QuantConv2d
        new = cls(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            groups=layer.groups,
            bias=layer.bias is not None,
            **options,
        )
    new.load_state_dict(layer.state_dict(), strict=False)
    return new


def _brevitas(model: nn.Module, bits: int) -> nn.Module:
    """Quantize the layers that GQ quantizes, one scale per tensor."""
    classes = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding)
    for name, layer in _layers(model, classes):
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, _brevitas_layer(layer, bits))
    return model


LIBRARIES = {"torchao": _torchao, "brevitas": _brevitas}
"""Functions that quantize a model with the libraries that GQ is compared with."""


def import_packages(variant: Variant) -> None:
    """Import all that building the variant needs; redirect printed text to stderr."""
    with contextlib.redirect_stdout(sys.stderr):
        import espnet2.tasks.asr  # noqa: F401

        if variant.method == "torchao":
            import torchao.quantization.qat  # noqa: F401
        elif variant.method == "brevitas":
            import brevitas.nn  # noqa: F401


def build(variant: Variant, size: Size, device: str) -> nn.Module:
    """Build the variant in training mode, with GQ's quantizers fitted.

    All variants have the same float weights, since quantizers draw no random numbers.
    """
    torch.manual_seed(0)
    bits = variant.bits if variant.method == "gq" else None
    model = espnet_model(config(size, bits))
    if variant.method == "gq":
        fit_quantizers(model)
    elif variant.method in LIBRARIES and variant.bits is not None:
        model = LIBRARIES[variant.method](model, variant.bits)
    return model.to(device).train()


def check_same_weights(reference: nn.Module, model: nn.Module) -> None:
    """Check that a variant starts from the weights of the float model.

    Raises:
        RuntimeError: If a parameter of the float model is missing or differs.
    """
    parameters = dict(model.named_parameters())
    for name, expected in reference.named_parameters():
        if name not in parameters or not torch.equal(parameters[name], expected):
            raise RuntimeError(f"{name} is missing or differs from the float model")


def quantized_size(model: nn.Module) -> Tuple[int, int]:
    """Return the number of quantized weight tensors and of the weights in them."""
    marks = ("weight_quantizer", "weight_fake_quantizer", "weight_quant")
    weights: List[Any] = [
        layer.weight
        for layer in model.modules()
        if any(hasattr(layer, mark) for mark in marks)
    ]
    return len(weights), sum(w.numel() for w in weights)
