"""Stage 3: one plain audio file per utterance, at one rate (data/ -> dump/raw)."""

import argparse
import sys
import time
from typing import Optional, Sequence

from espnet_gq.bin._common import (
    Parser,
    add_data_directories,
    execute,
    sentence,
)
from espnet_gq.recipe.datadir import format_wav_scp


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser("format-wav-scp", __doc__)
    add_data_directories(parser, "a data directory")
    parser.add_argument("--audio_format", default="flac", choices=("flac", "wav"))
    parser.add_argument("--nj", type=int, default=1, help="number of threads")
    return parser


class Progress:
    """Prints a counter to stderr, at most once in five seconds."""

    def __init__(self) -> None:
        self.printed = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Report ``done`` of ``total`` utterances."""
        if time.monotonic() - self.printed > 5:
            self.printed = time.monotonic()
            print(f"  {done}/{total} utterances", file=sys.stderr)


def run(args: argparse.Namespace) -> None:
    """Format every given directory.

    Raises:
        OSError, ValueError: If one cannot be used; names it.
    """
    for source, target in args.dir:
        try:
            utterances = format_wav_scp(
                source, target, args.fs, args.audio_format, args.nj, Progress()
            )
        except (OSError, ValueError) as e:
            raise ValueError(f"{source}: {sentence(e)}") from None
        print(f"{source} -> {target}: {utterances} utterances")


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    execute(get_parser(), run, cmd)


if __name__ == "__main__":
    main()
