"""What follows the encoder, put into the model file: a transducer, or CTC."""

from typing import Any

from espnet2.asr.decoder.transducer_decoder import TransducerDecoder
from espnet2.asr_transducer.decoder.rnn_decoder import RNNDecoder
from espnet2.asr_transducer.decoder.stateless_decoder import StatelessDecoder
from espnet2.asr_transducer.joint_network import JointNetwork
from torch import nn

from espnet_gq.device.writer import ModelFile
from espnet_gq.espnet.exporting.refusal import CannotExport, one_of, require
from espnet_gq.espnet.exporting.weights import (
    add_linear,
    add_matrix,
    add_recurrent,
    cell_of,
)

ACTIVATIONS = {
    nn.Identity: "identity",
    nn.ReLU: "relu",
    nn.Tanh: "tanh",
}


def add_output(file: ModelFile, model: Any) -> None:
    """Add what a model computes from the encoder's frames.

    Raises:
        CannotExport: If the engine does not have it.
    """
    joint = getattr(model, "joint_network", None)
    if joint is None:
        _add_ctc(file, model)
        return
    require(
        not getattr(model, "transducer_multi_blank_durations", None),
        "the transducer has blanks of several frames; allowed on a device: one blank",
    )
    # ESPnet's second transducer task has another search, beam_search_transducer.py.
    first = isinstance(model.decoder, TransducerDecoder)
    file.set(
        output="transducer",
        transducer__greedy=first,
        transducer__normalized=first,
    )
    _add_predictor(file, model.decoder)
    _add_joint(file, joint)


def _add_ctc(file: ModelFile, model: Any) -> None:
    ctc: Any = getattr(model, "ctc", None)
    require(
        isinstance(getattr(ctc, "ctc_lo", None), nn.Linear),
        "the model has neither a transducer nor CTC (model_conf: ctc_weight is 0); "
        "allowed on a device: one of them",
    )
    require(
        getattr(model, "blank_id", 0) == 0,
        f"the number of blank is {getattr(model, 'blank_id', 0)}; allowed on a device: "
        "0",
    )
    # ESPnet's search ends at <sos/eos>, which is the last token.
    ends = model.sos == model.eos == model.vocab_size - 1
    file.set(output="ctc", ctc__labels=int(model.vocab_size) - int(ends))
    add_linear(file, "ctc.output", ctc.ctc_lo)
    if getattr(model, "decoder", None) is not None:
        file.notes.append(
            f"The decoder {type(model.decoder).__name__} is left out: the file "
            "recognizes by CTC alone, as ESPnet does with ctc_weight 1.0."
        )


def _add_predictor(file: ModelFile, decoder: Any) -> None:
    if isinstance(decoder, StatelessDecoder):
        file.set(predictor__type="stateless")
        add_matrix(file, "predictor.embed", decoder.embed.weight)
        return
    if isinstance(decoder, TransducerDecoder):
        require(
            decoder.blank_id == 0,
            f"decoder_conf: embed_pad is {decoder.blank_id}; allowed on a device: 0",
        )
        layers = decoder.decoder
    elif isinstance(decoder, RNNDecoder):
        layers = decoder.rnn
    else:
        raise CannotExport(
            f"the decoder is {type(decoder).__name__}; allowed on a device: "
            "TransducerDecoder, RNNDecoder, StatelessDecoder"
        )
    file.set(
        predictor__type="rnn",
        predictor__cell=cell_of(layers[0]),
        predictor__layers=len(layers),
        predictor__units=int(layers[0].hidden_size),
    )
    add_matrix(file, "predictor.embed", decoder.embed.weight)
    for number, layer in enumerate(layers):
        add_recurrent(file, f"predictor.rnn.{number}", layer)


def _add_joint(file: ModelFile, joint: Any) -> None:
    require(
        isinstance(joint, JointNetwork),
        f"the joint network is {type(joint).__name__}; allowed on a device: "
        "JointNetwork",
    )
    activation = type(joint.joint_activation)
    one_of(
        "joint_net_conf: the activation",
        ACTIVATIONS.get(activation, activation.__name__),
        tuple(ACTIVATIONS.values()),
    )
    file.set(joint__activation=ACTIVATIONS[activation])
    add_linear(file, "joint.encoder", joint.lin_enc)
    add_linear(file, "joint.predictor", joint.lin_dec)
    add_linear(file, "joint.output", joint.lin_out)
