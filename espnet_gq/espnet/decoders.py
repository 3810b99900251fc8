"""Quantized decoders: ESPnet's, with `gq_conf` (see `espnet_gq.nn.GQConfig`).

Patterns of `gq_conf` are module names inside the decoder, such as "embed.0",
"decoders.*.src_attn.*" or "output_layer".
"""

from espnet2.asr.decoder.transformer_decoder import TransformerDecoder

from espnet_gq.espnet.mixin import QuantizedByConf


class GQTransformerDecoder(QuantizedByConf, TransformerDecoder):
    """Quantized Transformer decoder."""

    gq_name = "gq_transformer"


DECODERS = {cls.gq_name: cls for cls in (GQTransformerDecoder,)}
