"""A model's tokens and how they become text, put into the model file."""

from typing import Any, Sequence

from sentencepiece import SentencePieceProcessor

from espnet_gq.device.writer import ModelFile
from espnet_gq.espnet.exporting.refusal import one_of, require

SPACE = "<space>"
"""The token that is a space, among characters."""


def add_tokens(file: ModelFile, args: Any, tokens: Sequence[str]) -> None:
    """Add the tokens of a model, and how they become text.

    Args:
        file: The model file.
        args: Options of the training.
        tokens: The tokens.

    Raises:
        CannotExport: If the engine cannot join such tokens.
    """
    one_of("token_type", args.token_type, ("bpe", "char", "phn", "word"))
    kind = args.token_type
    if kind == "bpe":
        _check_pieces(args.bpemodel, tokens)
    elif kind == "char":
        file.set(tokens__space=SPACE)
    elif kind == "phn":  # ESPnet joins phonemes as characters
        kind = "char"
    file.set(tokens__type=kind, tokens__list=list(tokens))


def _check_pieces(path: str, tokens: Sequence[str]) -> None:
    """Refuse pieces that are more than text in a sentencepiece model."""
    pieces = SentencePieceProcessor()
    pieces.load(str(path))
    for token in tokens:
        number = pieces.piece_to_id(token)
        require(
            not (pieces.is_control(number) or pieces.is_byte(number)),
            f"token {token!r} is a control symbol or a byte of {path}; allowed on a "
            "device: pieces of text",
        )
