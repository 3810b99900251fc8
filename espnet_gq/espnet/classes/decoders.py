"""Quantized decoders: ESPnet's, with `gq_conf` (see `espnet_gq.nn.GQConfig`).

Patterns of `gq_conf` match names relative to the decoder, such as "embed.0",
"decoders.*.src_attn.*", "output_layer" or, for a transducer, "decoder.*.weight_hh_l0".
"""

from espnet2.asr.decoder.rnn_decoder import RNNDecoder
from espnet2.asr.decoder.transducer_decoder import TransducerDecoder
from espnet2.asr.decoder.transformer_decoder import TransformerDecoder

from espnet_gq.espnet.classes.mixin import QuantizedByConf
from espnet_gq.nn.layers import quantized_once


class GQTransformerDecoder(QuantizedByConf, TransformerDecoder):
    """Quantized Transformer decoder."""

    gq_name = "gq_transformer"


class GQRNNDecoder(QuantizedByConf, RNNDecoder):
    """Quantized attention decoder of LSTM or GRU cells."""

    gq_name = "gq_rnn"

    def forward(self, *args, **kwargs):
        # The cells and the attention are called once per label.
        with quantized_once(self):
            return super().forward(*args, **kwargs)


class GQTransducerDecoder(QuantizedByConf, TransducerDecoder):
    """Quantized prediction network of a transducer (LSTM or GRU)."""

    gq_name = "gq_transducer"


DECODERS = {
    cls.gq_name: cls
    for cls in (GQTransformerDecoder, GQRNNDecoder, GQTransducerDecoder)
}
