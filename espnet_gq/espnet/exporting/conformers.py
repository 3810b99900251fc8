"""Encoders that attend to the whole utterance, put into the model file."""

from typing import Any

from espnet2.asr.encoder import conformer_encoder
from torch import nn

from espnet_gq.device.writer import ModelFile
from espnet_gq.espnet.exporting.layers import (
    activation_of,
    add_attention,
    add_conv1d,
    add_depthwise,
    add_feed_forward,
    add_frequencies,
    add_norm,
    add_subsampling,
    feed_forward_options,
)
from espnet_gq.espnet.exporting.refusal import CannotExport, require
from espnet_gq.espnet.exporting.weights import add_linear, array

INPUT_LAYERS = tuple(
    getattr(conformer_encoder, f"Conv2dSubsampling{factor}")
    for factor in ("", 1, 2, 6, 8)
)
POSITIONS = {
    conformer_encoder.RelPositionalEncoding: "relative",
    conformer_encoder.LegacyRelPositionalEncoding: "shifted",
    conformer_encoder.ScaledPositionalEncoding: "absolute",
    conformer_encoder.PositionalEncoding: "absolute",
}
"""Class of a positional encoding -> name in the file."""


def add_conformer(file: ModelFile, encoder: Any) -> None:
    """Add a Conformer.

    Raises:
        CannotExport: If the engine has not all of its parts.
    """
    _check_whole(file, encoder)
    require(
        not getattr(encoder, "ctc_trim", False),
        "encoder_conf: ctc_trim is true; allowed on a device: false",
    )
    file.set(encoder__type="conformer")
    _add_whole(file, encoder, encoder.encoders[0].self_attn)
    add_blocks(file, encoder, "norm_mha", "norm_ff")


def add_blocks(file: ModelFile, encoder: Any, attention: str, feed_forward: str):
    """Add the blocks of a Conformer.

    Args:
        file: The model file.
        encoder: The encoder.
        attention: Name of the attention's normalization.
        feed_forward: Name of the feed-forward module's normalization.

    Raises:
        CannotExport: If the engine has not all of their parts.
    """
    first = encoder.encoders[0]
    conv = first.conv_module
    function = nn.Identity() if conv is None else conv.activation
    file.set(
        encoder__heads=int(first.self_attn.h),
        encoder__activation=activation_of(function, "encoder_conf: activation_type"),
        encoder__macaron=first.feed_forward_macaron is not None,
        encoder__convolution=conv is not None,
        encoder__normalize_before=bool(first.normalize_before),
        encoder__concatenate=bool(first.concat_after),
        **feed_forward_options(first.feed_forward),
    )
    for number, block in enumerate(encoder.encoders):
        name = f"encoder.block.{number}"
        if block.feed_forward_macaron is not None:
            add_norm(file, f"{name}.norm_macaron", block.norm_ff_macaron)
            add_feed_forward(file, f"{name}.macaron", block.feed_forward_macaron)
        add_norm(file, f"{name}.norm_attention", getattr(block, attention))
        add_attention(file, f"{name}.attention", block.self_attn)
        if block.concat_after:
            add_linear(file, f"{name}.concatenated", block.concat_linear)
        if block.conv_module is not None:
            add_norm(file, f"{name}.norm_conv", block.norm_conv)
            add_conv_module(file, f"{name}.conv", block.conv_module)
            add_norm(file, f"{name}.norm_final", block.norm_final)
        add_norm(file, f"{name}.norm_feed_forward", getattr(block, feed_forward))
        add_feed_forward(file, f"{name}.feed_forward", block.feed_forward)


def add_conv_module(file: ModelFile, name: str, conv: Any) -> None:
    """Add the convolution module of a Conformer."""
    add_conv1d(file, f"{name}.in", conv.pointwise_conv1)
    add_depthwise(file, f"{name}.depthwise", conv.depthwise_conv, conv.norm)
    add_conv1d(file, f"{name}.out", conv.pointwise_conv2)


def add_e_branchformer(file: ModelFile, encoder: Any) -> None:
    """Add an E-Branchformer.

    Raises:
        CannotExport: If the engine has not all of its parts.
    """
    _check_whole(file, encoder)
    first = encoder.encoders[0]
    file.set(encoder__type="e_branchformer")
    _add_whole(file, encoder, first.attn)
    unit = first.cgmlp.csgu
    file.set(
        encoder__heads=int(first.attn.h),
        encoder__feed_forward=first.feed_forward is not None,
        encoder__macaron=first.feed_forward_macaron is not None,
        encoder__gate__activation=activation_of(
            unit.act, "encoder_conf: gate_activation"
        ),
        encoder__gate__layer=unit.linear is not None,
    )
    if first.feed_forward is not None:
        options = feed_forward_options(first.feed_forward)
        options.pop("encoder__feed_forward__taps")
        file.set(**options)
    for number, block in enumerate(encoder.encoders):
        _add_branches(file, f"encoder.block.{number}", block)


def _add_branches(file: ModelFile, name: str, block: Any) -> None:
    """Add a block of an E-Branchformer."""
    if block.feed_forward_macaron is not None:
        add_norm(file, f"{name}.norm_macaron", block.norm_ff_macaron)
        add_feed_forward(file, f"{name}.macaron", block.feed_forward_macaron)
    if block.feed_forward is not None:
        add_norm(file, f"{name}.norm_feed_forward", block.norm_ff)
        add_feed_forward(file, f"{name}.feed_forward", block.feed_forward)
    add_norm(file, f"{name}.norm_attention", block.norm_mha)
    add_attention(file, f"{name}.attention", block.attn)
    add_norm(file, f"{name}.norm_conv", block.norm_mlp)
    mlp = block.cgmlp
    add_linear(file, f"{name}.conv.in", mlp.channel_proj1[0])
    add_norm(file, f"{name}.conv.norm", mlp.csgu.norm)
    add_depthwise(file, f"{name}.conv.depthwise", mlp.csgu.conv)
    if mlp.csgu.linear is not None:
        add_linear(file, f"{name}.conv.gate", mlp.csgu.linear)
    add_linear(file, f"{name}.conv.out", mlp.channel_proj2)
    add_depthwise(file, f"{name}.fusion", block.depthwise_conv_fusion)
    add_linear(file, f"{name}.merge", block.merge_proj)
    add_norm(file, f"{name}.norm_final", block.norm_final)


def _check_whole(file: ModelFile, encoder: Any) -> None:
    """Refuse what neither of these encoders may have."""
    require(
        isinstance(encoder.embed, INPUT_LAYERS),
        f"encoder_conf: input_layer is {type(encoder.embed).__name__}; allowed on a "
        "device: conv2d, conv2d1, conv2d2, conv2d6, conv2d8",
    )
    require(
        not (encoder.interctc_use_conditioning and encoder.interctc_layer_idx),
        "encoder_conf: interctc_use_conditioning is true; allowed on a device: false",
    )
    if encoder.interctc_layer_idx:
        file.notes.append("Intermediate CTC (interctc_layer_idx) is left out.")


def _add_whole(file: ModelFile, encoder: Any, attention: Any) -> None:
    """Add what comes before and after the blocks."""
    embed, width = encoder.embed, int(encoder.output_size())
    # 202511 has the linear layer and the positions in one Sequential.
    moved = isinstance(embed.out, nn.Sequential)
    out, positions = (
        (embed.out[0], embed.out[-1]) if moved else (embed.out, embed.pos_enc)
    )
    kind = POSITIONS.get(type(positions))
    if kind is None:
        raise CannotExport(
            f"encoder_conf: pos_enc_layer_type is {type(positions).__name__}; allowed "
            "on a device: rel_pos, abs_pos, scaled_abs_pos"
        )
    _check_attention(attention)
    file.set(
        encoder__units=width,
        encoder__layers=len(encoder.encoders),
        encoder__positions=kind,
        encoder__scaled=not hasattr(positions, "alpha"),
        encoder__norm=getattr(encoder, "after_norm", None) is not None,
    )
    if hasattr(positions, "alpha"):
        file.floats("encoder.positions.alpha", array(positions.alpha.reshape(1)))
    if kind == "shifted":
        file.set(encoder__positions__longest=int(positions.pe.size(1)))
    add_frequencies(file, width)
    add_subsampling(file, embed.conv, out)
    if getattr(encoder, "after_norm", None) is not None:
        add_norm(file, "encoder.norm", encoder.after_norm)


def _check_attention(attention: Any) -> None:
    require(
        hasattr(attention, "linear_out"),
        f"the attention is {type(attention).__name__}; allowed on a device: "
        "rel_selfattn, legacy_rel_selfattn, selfattn",
    )
    require(
        not getattr(attention, "zero_triu", False),
        "encoder_conf: zero_triu is true; allowed on a device: false",
    )
    require(
        type(getattr(attention, "q_norm", nn.Identity())) is nn.Identity,
        "encoder_conf: qk_norm is true; allowed on a device: false",
    )
