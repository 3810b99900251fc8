"""Encoders, put into the model file.

A further one is a function here, and its line in ENCODERS; the engine's part is
described in device/csrc/encoders/encoder.h.
"""

from typing import Any, Callable, Dict, Optional, Type

import torch
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.asr.encoder.contextual_block_conformer_encoder import (
    ContextualBlockConformerEncoder,
)
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from espnet2.asr.encoder.rnn_encoder import RNNEncoder
from espnet2.asr.encoder.vgg_rnn_encoder import VGGRNNEncoder
from espnet2.asr_transducer.encoder.encoder import Encoder
from torch import nn

from espnet_gq.device.writer import ModelFile
from espnet_gq.espnet.exporting.blockwise import (
    add_contextual_block,
    add_transducer_encoder,
)
from espnet_gq.espnet.exporting.conformers import add_conformer, add_e_branchformer
from espnet_gq.espnet.exporting.refusal import CannotExport, require
from espnet_gq.espnet.exporting.weights import (
    add_conv2d,
    add_linear,
    add_recurrent,
    cell_of,
)


def add_encoder(file: ModelFile, encoder: nn.Module) -> None:
    """Add an encoder.

    Raises:
        CannotExport: If the engine has no such encoder.
    """
    for kind, add in ENCODERS.items():
        if isinstance(encoder, kind):
            add(file, encoder)
            return
    raise CannotExport(
        f"the encoder is {type(encoder).__name__}; allowed on a device: "
        + ", ".join(kind.__name__ for kind in ENCODERS)
    )


def _add_rnn(file: ModelFile, encoder: Any) -> None:
    file.set(encoder__type="rnn")
    _add_rnn_stack(file, encoder)


def _add_vgg_rnn(file: ModelFile, encoder: Any) -> None:
    file.set(encoder__type="vgg_rnn")
    vgg = encoder.enc[0]
    require(
        vgg.in_channel == 1,
        f"encoder_conf: in_channel is {vgg.in_channel}; allowed on a device: 1",
    )
    convs = (vgg.conv1_1, vgg.conv1_2, vgg.conv2_1, vgg.conv2_2)
    for number, conv in enumerate(convs):
        add_conv2d(file, f"encoder.conv.{number}", conv)
    # ESPnet's rows are (channels, frequencies), the engine's (frequencies, channels).
    channels = vgg.conv2_2.out_channels
    rnn = encoder.enc[-1]
    first = _rnn_of(rnn, 0) if encoder.use_projection else rnn.nbrnn
    order = torch.arange(first.input_size).view(channels, -1).t().flatten()
    _add_rnn_stack(file, encoder, order)


def _rnn_of(rnn: Any, layer: int) -> Any:
    """Return the LSTM or GRU of a layer of ESPnet's RNNP."""
    return getattr(rnn, f"{'birnn' if rnn.bidir else 'rnn'}{layer}")


def _add_rnn_stack(
    file: ModelFile, encoder: Any, order: Optional[torch.Tensor] = None
) -> None:
    """Add the recurrent layers; order: of the features, see `add_matrix`."""
    rnn = encoder.enc[-1]
    projected = bool(encoder.use_projection)
    count = rnn.elayers if projected else rnn.nbrnn.num_layers
    first = _rnn_of(rnn, 0) if projected else rnn.nbrnn
    file.set(
        encoder__cell=cell_of(first),
        encoder__layers=int(count),
        encoder__units=int(first.hidden_size),
        encoder__bidirectional=bool(encoder.bidirectional),
        encoder__projection=projected,
    )
    if projected:
        file.set(encoder__subsample=[int(n) for n in rnn.subsample[1 : count + 1]])
    for number in range(count):
        layer, at = (_rnn_of(rnn, number), 0) if projected else (rnn.nbrnn, number)
        name, columns = f"encoder.rnn.{number}", None if number else order
        add_recurrent(file, f"{name}.forward", layer, at, order=columns)
        if encoder.bidirectional:
            add_recurrent(file, f"{name}.backward", layer, at, True, columns)
        if projected:
            add_linear(file, f"{name}.project", getattr(rnn, f"bt{number}"))
    if not projected:
        add_linear(file, "encoder.project", rnn.l_last)


ENCODERS: Dict[Type[nn.Module], Callable[[ModelFile, Any], None]] = {
    ConformerEncoder: add_conformer,
    ContextualBlockConformerEncoder: add_contextual_block,
    EBranchformerEncoder: add_e_branchformer,
    Encoder: add_transducer_encoder,
    RNNEncoder: _add_rnn,
    VGGRNNEncoder: _add_vgg_rnn,
}
"""ESPnet's class of an encoder -> what adds it."""
