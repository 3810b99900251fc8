"""ESPnet's second transducer task (espnet2.tasks.asr_transducer), quantized.

Its decoders are class choices, so the configuration names the quantized ones as in the
ASR task (`decoder: gq_rnn`). Its encoder is a single class that the task module calls
by name. The name is replaced by a subclass, which quantizes itself if its configuration
has a `gq_conf` and stays float otherwise.

    encoder_conf: {gq_conf: {bits: 5}, body_conf: [...]}
    decoder: gq_rnn
    decoder_conf: {gq_conf: {bits: 5}}
    model_conf: {gq_conf: {bits: 5}}    # everything else
"""

from espnet2.asr_transducer.decoder.mega_decoder import MEGADecoder
from espnet2.asr_transducer.decoder.rnn_decoder import RNNDecoder
from espnet2.asr_transducer.decoder.rwkv_decoder import RWKVDecoder
from espnet2.asr_transducer.decoder.stateless_decoder import StatelessDecoder
from espnet2.asr_transducer.encoder.encoder import Encoder

from espnet_gq.espnet.classes.mixin import QuantizedByConf


class GQTransducerEncoder(QuantizedByConf, Encoder):
    """The task's encoder, quantized where `gq_conf` is given."""

    gq_name = "encoder_conf"
    gq_optional = True


class GQRNNDecoder(QuantizedByConf, RNNDecoder):
    """Quantized LSTM or GRU prediction network."""

    gq_name = "gq_rnn"


class GQStatelessDecoder(QuantizedByConf, StatelessDecoder):
    """Quantized stateless prediction network."""

    gq_name = "gq_stateless"


class GQMEGADecoder(QuantizedByConf, MEGADecoder):
    """Quantized MEGA prediction network."""

    gq_name = "gq_mega"


class GQRWKVDecoder(QuantizedByConf, RWKVDecoder):
    """Quantized RWKV prediction network."""

    gq_name = "gq_rwkv"


DECODERS = {
    cls.gq_name: cls
    for cls in (GQRNNDecoder, GQStatelessDecoder, GQMEGADecoder, GQRWKVDecoder)
}
