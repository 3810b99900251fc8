"""The quantized ASR model: the layers outside the encoder and the decoder."""

from espnet2.asr.espnet_model import ESPnetASRModel

from espnet_gq.espnet.classes.mixin import QuantizedByConf, prepare_parts


class GQESPnetASRModel(QuantizedByConf, ESPnetASRModel):
    """ESPnet's ASR model with quantized CTC and joint network.

    The encoder and the decoder are quantized by their own classes. Patterns of
    `gq_conf` are "ctc.ctc_lo" and, for a transducer, "joint_network.*".
    """

    gq_name = "gq_espnet"

    def _quantize(self, gq_conf) -> None:
        prepare_parts(self, ("ctc", "joint_network"), gq_conf)


MODELS = {cls.gq_name: cls for cls in (GQESPnetASRModel,)}
