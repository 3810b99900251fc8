"""Quantized encoders: ESPnet's, with `gq_conf` (see `espnet_gq.nn.GQConfig`).

Patterns of `gq_conf` match names relative to the encoder, such as
"encoders.0.feed_forward.w_1", "embed.*" or "enc.0.*.weight_hh_l0".
"""

from espnet2.asr.encoder.branchformer_encoder import BranchformerEncoder
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.asr.encoder.contextual_block_conformer_encoder import (
    ContextualBlockConformerEncoder,
)
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from espnet2.asr.encoder.rnn_encoder import RNNEncoder
from espnet2.asr.encoder.transformer_encoder import TransformerEncoder
from espnet2.asr.encoder.vgg_rnn_encoder import VGGRNNEncoder

from espnet_gq.espnet.classes.mixin import QuantizedByConf


class GQConformerEncoder(QuantizedByConf, ConformerEncoder):
    """Quantized Conformer encoder (arXiv 2005.08100)."""

    gq_name = "gq_conformer"


class GQTransformerEncoder(QuantizedByConf, TransformerEncoder):
    """Quantized Transformer encoder."""

    gq_name = "gq_transformer"


class GQBranchformerEncoder(QuantizedByConf, BranchformerEncoder):
    """Quantized Branchformer encoder (arXiv 2207.02971)."""

    gq_name = "gq_branchformer"


class GQEBranchformerEncoder(QuantizedByConf, EBranchformerEncoder):
    """Quantized E-Branchformer encoder (arXiv 2210.00077)."""

    gq_name = "gq_e_branchformer"


class GQContextualBlockConformerEncoder(
    QuantizedByConf, ContextualBlockConformerEncoder
):
    """Quantized contextual-block Conformer encoder, for streaming."""

    gq_name = "gq_contextual_block_conformer"


class GQRNNEncoder(QuantizedByConf, RNNEncoder):
    """Quantized LSTM or GRU encoder."""

    gq_name = "gq_rnn"


class GQVGGRNNEncoder(QuantizedByConf, VGGRNNEncoder):
    """Quantized VGG and LSTM or GRU encoder."""

    gq_name = "gq_vgg_rnn"


ENCODERS = {
    cls.gq_name: cls
    for cls in (
        GQConformerEncoder,
        GQTransformerEncoder,
        GQBranchformerEncoder,
        GQEBranchformerEncoder,
        GQContextualBlockConformerEncoder,
        GQRNNEncoder,
        GQVGGRNNEncoder,
    )
}
