"""Stage 3: one plain audio file an utterance, at one rate (data/ -> dump/raw)."""

import argparse
import sys
import time
from typing import Optional, Sequence

from espnet_gq.recipe.datadir import format_wav_scp


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--dir",
        nargs=2,
        action="append",
        required=True,
        metavar=("SOURCE", "TARGET"),
        help="a data directory and where its copy goes; may be repeated",
    )
    parser.add_argument("--fs", default="16k", help="sampling rate, e.g. 16k")
    parser.add_argument("--audio_format", default="flac", choices=("flac", "wav"))
    parser.add_argument("--nj", type=int, default=1, help="number of threads")
    return parser


class Progress:
    """Prints a counter to stderr, at most once in five seconds."""

    def __init__(self) -> None:
        self.shown = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Report ``done`` of ``total`` utterances."""
        if time.monotonic() - self.shown > 5:
            self.shown = time.monotonic()
            print(f"  {done}/{total} utterances", file=sys.stderr)


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Format every given directory."""
    args = get_parser().parse_args(cmd)
    for source, target in args.dir:
        try:
            utterances = format_wav_scp(
                source, target, args.fs, args.audio_format, args.nj, Progress()
            )
        except (OSError, ValueError) as e:
            sys.exit(f"format_wav_scp: {source}: {e}")
        print(f"{source} -> {target}: {utterances} utterances")


if __name__ == "__main__":
    main()
