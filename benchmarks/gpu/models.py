"""ESPnet recognisers in the sizes that the rows train and decode."""

from dataclasses import dataclass, field, replace
from typing import Any, Dict, List, Optional

import torch
from torch import nn

from benchmarks.espnet_models import build, set_codebooks
from benchmarks.training.step import Workload
from benchmarks.training.variants import (
    Architecture,
    Size,
    Variant,
    config,
    import_packages,
)
from espnet_gq.nn.training import fit_quantizers

SHORT = Workload(2, 1.5)
ATTENTION = dict(output_size=32, attention_heads=2, num_blocks=2)
RNN = dict(hidden_size=32, output_size=32, num_layers=2)


@dataclass(frozen=True)
class Recogniser:
    """An Architecture given by its vocabulary and ESPnet's classes.

    Args:
        encoder, decoder: Names of ESPnet's classes.
        encoder_conf, decoder_conf: Their options.
        vocabulary: Number of tokens.
        joint: Size of the joint network of a transducer.
    """

    encoder: str
    encoder_conf: Dict[str, Any]
    decoder: str = "transformer"
    decoder_conf: Dict[str, Any] = field(
        default_factory=lambda: dict(
            attention_heads=2, linear_units=64, num_blocks=1, dropout_rate=0.0
        )
    )
    vocabulary: int = 60
    joint: int = 32

    def classes(self) -> Dict[str, Any]:
        """Return the classes and their arguments as in an ESPnet training config."""
        return dict(
            model="espnet",
            model_conf=dict(ctc_weight=0.3, report_cer=False, report_wer=False),
            frontend_conf=dict(fs=16000, n_fft=512, hop_length=160, n_mels=40),
            encoder=self.encoder,
            encoder_conf=dict(self.encoder_conf),
            decoder=self.decoder,
            decoder_conf=dict(self.decoder_conf),
            joint_net_conf=dict(joint_space_size=self.joint),
            # As in ESPnet's transducer recipes.
            init="xavier_uniform" if self.decoder == "transducer" else None,
        )


RNNT = Recogniser(
    "rnn", dict(RNN, bidirectional=False), "transducer", dict(hidden_size=32)
)
ARCHITECTURES: Dict[str, Recogniser] = {
    "conformer": Recogniser(
        "conformer",
        dict(ATTENTION, linear_units=64, macaron_style=True, rel_pos_type="latest"),
    ),
    "transformer": Recogniser("transformer", dict(ATTENTION, linear_units=64)),
    "branchformer": Recogniser("branchformer", dict(ATTENTION, cgmlp_linear_units=64)),
    "e_branchformer": Recogniser(
        "e_branchformer", dict(ATTENTION, linear_units=64, cgmlp_linear_units=64)
    ),
    "contextual_block_conformer": Recogniser(
        "contextual_block_conformer",
        dict(ATTENTION, linear_units=64, block_size=8, hop_size=4, look_ahead=2),
    ),
    "rnn": Recogniser("rnn", dict(RNN, rnn_type="gru")),
    "vgg_rnn": Recogniser("vgg_rnn", dict(RNN, use_projection=False)),
    "rnn, attention decoder": Recogniser(
        "rnn", dict(RNN), "rnn", dict(hidden_size=32, num_layers=1)
    ),
    "transducer": RNNT,
}
"""One recogniser for every quantized encoder and decoder."""

CONFORMER_30M = Size()
CONFORMER_115M = replace(
    CONFORMER_30M, dimension=512, heads=8, encoder_units=2048, decoder_blocks=6
)
LSTM_60M = Recogniser(
    "rnn",
    dict(
        rnn_type="lstm",
        bidirectional=False,
        num_layers=6,
        hidden_size=1024,
        output_size=1024,
        subsample=[2, 2, 1, 1, 1, 1],
    ),
    "transducer",
    dict(rnn_type="lstm", num_layers=1, hidden_size=512),
    vocabulary=5000,
    joint=512,
)


def quantized(
    recogniser: Architecture, bits: Optional[int], device: str, fast: bool = True
) -> nn.Module:
    """Build a recogniser for training at a bit width.

    Args:
        recogniser: A Recogniser or a Size.
        bits: Bit width; None for the float model.
        device: Device to move the model to.
        fast: Set codebooks from the weights' standard deviation instead of fitting.
    """
    import_packages(Variant("float"))
    torch.manual_seed(0)
    model = build(config(recogniser, bits))
    if fast:
        set_codebooks(model)
    else:
        fit_quantizers(model)
    return model.to(device).train()


def batch(seed: int, vocabulary: int, device: str) -> Dict[str, torch.Tensor]:
    """Return a batch of two short utterances."""
    return SHORT.batch(seed, vocabulary, device)


def state(model: nn.Module) -> List[torch.Tensor]:
    """Return copies of all parameters."""
    return [p.detach().clone() for p in model.parameters()]
