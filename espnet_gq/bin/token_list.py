"""Stage 5 for --token_type bpe: train a sentencepiece model and write tokens.txt.

Writes DIR/train.txt, DIR/bpe.model, DIR/bpe.vocab and DIR/tokens.txt. The blank
symbol is the first token and sos/eos the last, as ESPnet requires.
"""

import argparse
import io
from pathlib import Path
from typing import Optional, Sequence

from espnet_gq.bin._common import Parser, execute
from espnet_gq.files import atomic_write, write_text
from espnet_gq.recipe.datadir import read_table


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser("token-list", __doc__)
    parser.add_argument("text", nargs="+", help="Kaldi-style text files")
    parser.add_argument("--dir", type=Path, required=True, help="output folder")
    parser.add_argument("--nbpe", type=int, default=30, help="size of the vocabulary")
    parser.add_argument("--bpemode", default="unigram", choices=("unigram", "bpe"))
    parser.add_argument("--bpe_input_sentence_size", type=int, default=100000000)
    parser.add_argument("--bpe_char_cover", type=float, default=1.0)
    parser.add_argument("--bpe_nlsyms", default="", help="symbols, comma-separated")
    parser.add_argument("--blank", default="<blank>", help="CTC blank symbol")
    parser.add_argument("--oov", default="<unk>", help="out-of-vocabulary symbol")
    parser.add_argument("--sos_eos", default="<sos/eos>", help="sos and eos symbol")
    return parser


def run(args: argparse.Namespace) -> None:
    """Train the model and write the token list.

    Raises:
        OSError, ValueError: If a text cannot be used, or sentencepiece refuses.
    """
    import sentencepiece

    args.dir.mkdir(parents=True, exist_ok=True)
    lines = [line for path in args.text for line in read_table(path).values()]
    train_txt = args.dir / "train.txt"
    write_text(train_txt, "\n".join(lines) + "\n")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            input=str(train_txt),
            model_writer=model,
            vocab_size=args.nbpe,
            model_type=args.bpemode,
            character_coverage=args.bpe_char_cover,
            input_sentence_size=args.bpe_input_sentence_size,
            user_defined_symbols=args.bpe_nlsyms,
            minloglevel=1,
        )
    except RuntimeError as e:
        raise ValueError(f"sentencepiece refused --nbpe {args.nbpe}: {e}") from None
    with atomic_write(args.dir / "bpe.model") as temporary:
        temporary.write_bytes(model.getvalue())
    trained = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    scores = {trained.id_to_piece(i): trained.get_score(i) for i in range(len(trained))}
    vocab = "".join(f"{piece}\t{score:g}\n" for piece, score in scores.items())
    write_text(args.dir / "bpe.vocab", vocab)
    tokens = [p for p in scores if p not in ("<unk>", "<s>", "</s>")]
    tokens = [args.blank, args.oov, *tokens, args.sos_eos]
    write_text(args.dir / "tokens.txt", "\n".join(tokens) + "\n")
    print(f"{args.dir / 'tokens.txt'}: {len(tokens)} tokens")


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    execute(get_parser(), run, cmd)


if __name__ == "__main__":
    main()
