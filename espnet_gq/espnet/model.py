"""The quantized ASR model: what lies outside the encoder and the decoder."""

from espnet2.asr.espnet_model import ESPnetASRModel
from torch import nn

from espnet_gq.espnet.mixin import QuantizedByConf
from espnet_gq.nn import prepare


class GQESPnetASRModel(QuantizedByConf, ESPnetASRModel):
    """ESPnet's ASR model with quantized CTC and joint network.

    The encoder and the decoder are quantized by their own classes. Patterns of
    `gq_conf` are "ctc.ctc_lo" and, for a transducer, "joint_network.*".
    """

    gq_name = "gq_espnet"

    def _quantize(self, gq_conf) -> None:
        # A holder gives the layers their names; they are replaced inside self.ctc
        # and self.joint_network.
        holder = nn.Module()
        for name in ("ctc", "joint_network"):
            part = getattr(self, name, None)
            if part is not None:
                holder.add_module(name, part)
        prepare(holder, gq_conf)


MODELS = {cls.gq_name: cls for cls in (GQESPnetASRModel,)}
