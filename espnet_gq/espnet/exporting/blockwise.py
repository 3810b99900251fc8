"""Encoders that work chunk by chunk, put into the model file.

These are contextual-block Conformers, and those of ESPnet's second transducer task.
"""

from typing import Any, List, Optional

from espnet2.asr.encoder import contextual_block_conformer_encoder as contextual
from espnet2.asr_transducer.encoder.blocks.conformer import Conformer

from espnet_gq.device.writer import ModelFile
from espnet_gq.espnet.exporting.conformers import add_blocks, add_conv_module
from espnet_gq.espnet.exporting.layers import (
    activation_of,
    add_attention,
    add_feed_forward,
    add_frequencies,
    add_norm,
    add_subsampling,
    feed_forward_options,
)
from espnet_gq.espnet.exporting.refusal import require

CHUNK_MS = 640
"""Milliseconds of a chunk, ESPnet's default of --decoding_window."""
LEFT_CONTEXT = 32
"""Encoder frames before a chunk that it sees, ESPnet's default of --left_context."""

MOST_LEFT, MOST_SAMPLES = 2**14, 2**24
"""The engine's limits, see device/csrc/encoders/chunk_conformer.cpp."""


def add_contextual_block(file: ModelFile, encoder: Any) -> None:
    """Add a contextual-block Conformer.

    Raises:
        CannotExport: If the engine has not all of its parts.
    """
    embed = encoder.embed
    require(
        isinstance(embed, contextual.Conv2dSubsamplingWOPosEnc),
        f"encoder_conf: input_layer is {type(embed).__name__}; allowed on a device: "
        "conv2d, conv2d6, conv2d8",
    )
    require(
        type(encoder.pos_enc) is contextual.StreamPositionalEncoding,
        f"encoder_conf: pos_enc_class is {type(encoder.pos_enc).__name__}; allowed on "
        "a device: StreamPositionalEncoding",
    )
    require(
        encoder.block_size > 0,
        f"encoder_conf: block_size is {encoder.block_size}; allowed on a device: a "
        "positive number",
    )
    require(encoder.init_average, "encoder_conf: init_average is false; allowed: true")
    require(
        encoder.block_size >= encoder.hop_size + encoder.look_ahead
        and encoder.hop_size > 0,
        f"encoder_conf: block_size is {encoder.block_size}, hop_size "
        f"{encoder.hop_size} and look_ahead {encoder.look_ahead}; allowed: a block of "
        "at least both together",
    )
    width = int(encoder.output_size())
    norm = getattr(encoder, "after_norm", None)
    file.set(
        encoder__type="contextual_block_conformer",
        encoder__units=width,
        encoder__layers=len(encoder.encoders),
        encoder__positions="absolute",
        encoder__scaled=True,
        encoder__norm=norm is not None,
        encoder__blocks__size=int(encoder.block_size),
        encoder__blocks__hop=int(encoder.hop_size),
        encoder__blocks__look_ahead=int(encoder.look_ahead),
        encoder__blocks__places_context=bool(encoder.ctx_pos_enc),
    )
    add_frequencies(file, width)
    add_subsampling(file, embed.conv, embed.out)
    if norm is not None:
        add_norm(file, "encoder.norm", norm)
    add_blocks(file, encoder, "norm1", "norm2")


def add_transducer_encoder(file: ModelFile, encoder: Any) -> None:
    """Add an encoder of the second transducer task: chunk by chunk where it was trained
    so, else for whole utterances.

    Raises:
        CannotExport: If the engine has not all of its parts.
    """
    embed, blocks = encoder.embed, encoder.encoders.blocks
    require(
        not embed.vgg_like,
        "encoder_conf: input_conf has vgg_like: true; allowed on a device: false",
    )
    for number, block in enumerate(blocks):
        require(
            isinstance(block, Conformer),
            f"encoder_conf: body_conf has a block {type(block).__name__}; allowed on a "
            "device: conformer",
        )
        require(
            hasattr(block.self_att, "pos_bias_u"),
            "encoder_conf: main_conf has simplified_att_score: true; allowed on a "
            "device: false",
        )
    first = blocks[0]
    width = int(first.block_size)
    causal = first.conv_mod.lorder > 0
    _check_same(blocks, causal)
    file.set(
        encoder__type="chunk_conformer" if causal else "conformer",
        encoder__units=width,
        encoder__layers=len(blocks),
        encoder__positions="relative",
        encoder__scaled=False,
        encoder__norm=True,
        encoder__heads=int(first.self_att.num_heads),
        encoder__activation=activation_of(
            first.conv_mod.activation, "main_conf: conv_mod_act_type"
        ),
        encoder__macaron=True,
        encoder__convolution=True,
        encoder__normalize_before=True,
        encoder__concatenate=False,
        **feed_forward_options(first.feed_forward),
    )
    if causal:
        _add_chunks(file, embed)
    add_frequencies(file, width)
    add_subsampling(file, embed.conv, embed.output)
    add_norm(file, "encoder.norm", encoder.encoders.norm_blocks)
    for number, block in enumerate(blocks):
        _add_block(file, f"encoder.block.{number}", block)


def _check_same(blocks: Any, causal: bool) -> None:
    """Refuse blocks whose sizes differ: the file has them once for all."""
    first = blocks[0]
    for block in blocks:
        require(
            block.block_size == first.block_size
            and block.self_att.num_heads == first.self_att.num_heads
            and (block.conv_mod.lorder > 0) is causal,
            "encoder_conf: body_conf has blocks of several sizes; allowed on a device: "
            "one hidden_size and one number of heads",
        )


def set_chunks(
    file: ModelFile, chunk_ms: Optional[float], left_context: Optional[int]
) -> None:
    """Change how samples are divided into chunks.

    Args:
        file: The model file, with an encoder.
        chunk_ms: Milliseconds of a chunk, None to leave them.
        left_context: Encoder frames before a chunk that it sees, None to leave them.

    Raises:
        CannotExport: If the encoder has no chunks, or not such ones.
    """
    settings = file.settings
    require(
        settings["encoder.type"] == "chunk_conformer",
        f"chunk_ms or left_context is set and the encoder is {settings['encoder.type']}"
        "; allowed: for the second transducer task with dynamic_chunk_training",
    )
    if chunk_ms is not None:
        rate, n_fft, _ = _features(file)
        samples = round(chunk_ms * rate / 1000)
        require(
            n_fft <= samples <= MOST_SAMPLES,
            f"chunk_ms is {chunk_ms}; allowed: {n_fft / rate * 1000:g} (n_fft samples) "
            f"to {MOST_SAMPLES // rate * 1000}",
        )
        settings["encoder.chunk.samples"] = samples
    if left_context is not None:
        require(
            0 <= left_context <= MOST_LEFT,
            f"left_context is {left_context}; allowed: 0 to {MOST_LEFT}",
        )
        settings["encoder.chunk.left"] = left_context


def _features(file: ModelFile) -> List[int]:
    """Return the sampling rate, n_fft and the hop length of a file."""
    keys = ("sample_rate", "n_fft", "hop_length")
    return [int(file.settings[f"features.{key}"]) for key in keys]  # type: ignore


def _add_chunks(file: ModelFile, embed: Any) -> None:
    """Add how samples are divided into chunks."""
    rate, n_fft, hop = _features(file)
    require(
        bool(file.settings["features.center"]),
        "frontend_conf: center is false; allowed on a device, chunk by chunk: true",
    )
    if n_fft % hop:
        file.notes.append(
            f"ESPnet's own streaming skips features between chunks, since n_fft "
            f"{n_fft} is not a multiple of hop_length {hop}; the device's does not."
        )
    file.set(
        encoder__chunk__samples=max(round(CHUNK_MS * rate / 1000), n_fft),
        encoder__chunk__left=LEFT_CONTEXT,
        encoder__chunk__overlap=2 * int(embed.subsampling_factor) + 3,
    )


def _add_block(file: ModelFile, name: str, block: Any) -> None:
    add_norm(file, f"{name}.norm_macaron", block.norm_macaron)
    add_feed_forward(file, f"{name}.macaron", block.feed_forward_macaron)
    add_norm(file, f"{name}.norm_attention", block.norm_self_att)
    add_attention(file, f"{name}.attention", block.self_att)
    add_norm(file, f"{name}.norm_conv", block.norm_conv)
    add_conv_module(file, f"{name}.conv", block.conv_mod)
    add_norm(file, f"{name}.norm_feed_forward", block.norm_feed_forward)
    add_feed_forward(file, f"{name}.feed_forward", block.feed_forward)
    add_norm(file, f"{name}.norm_final", block.norm_final)
