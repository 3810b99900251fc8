"""ESPnet's second transducer task (espnet2.tasks.asr_transducer), quantized.

Its decoders are class choices, so the configuration names the quantized ones as in the
ASR task (`decoder: gq_rnn`). Its encoder and its model are single classes that the task
module calls by name. These names are replaced by subclasses, which quantize themselves
if their configuration has a `gq_conf` and stay float otherwise.

    encoder_conf: {gq_conf: {bits: 5}, body_conf: [...]}
    decoder: gq_rnn
    decoder_conf: {gq_conf: {bits: 5}}
    model_conf: {gq_conf: {bits: 5}}    # the joint network and auxiliary layers
"""

from espnet2.asr_transducer.decoder.mega_decoder import MEGADecoder
from espnet2.asr_transducer.decoder.rnn_decoder import RNNDecoder
from espnet2.asr_transducer.decoder.rwkv_decoder import RWKVDecoder
from espnet2.asr_transducer.decoder.stateless_decoder import StatelessDecoder
from espnet2.asr_transducer.encoder.encoder import Encoder
from espnet2.asr_transducer.espnet_transducer_model import ESPnetASRTransducerModel

from espnet_gq.espnet.classes.mixin import QuantizedByConf, prepare_parts


class GQTransducerEncoder(QuantizedByConf, Encoder):
    """The task's encoder, quantized where `gq_conf` is given."""

    gq_name = "encoder_conf"
    gq_optional = True


class GQESPnetASRTransducerModel(QuantizedByConf, ESPnetASRTransducerModel):
    """The task's model; `gq_conf` quantizes its joint network and auxiliary layers."""

    gq_name = "model_conf"
    gq_optional = True

    def _quantize(self, gq_conf) -> None:
        parts = ("joint_network", "ctc_lin", "lm_lin", "am_proj", "lm_proj")
        prepare_parts(self, parts, gq_conf)


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
