"""Stage 4: remove too short, too long and empty utterances (dump/raw/org -> dump/raw).

Meant for training and validation sets; test sets keep every utterance.
"""

import argparse
from typing import Optional, Sequence

from espnet_gq.bin._common import Parser, add_data_directories, execute
from espnet_gq.recipe.datadir import filter_data_dir


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser("filter-data-dir", __doc__)
    add_data_directories(parser, "a formatted data directory")
    parser.add_argument("--min_wav_duration", type=float, default=0.1, help="seconds")
    parser.add_argument("--max_wav_duration", type=float, default=20.0, help="seconds")
    return parser


def run(args: argparse.Namespace) -> None:
    """Filter every given directory.

    Raises:
        OSError, ValueError: If one cannot be read, or nothing of it is left.
    """
    for source, target in args.dir:
        kept, total = filter_data_dir(
            source, target, args.fs, args.min_wav_duration, args.max_wav_duration
        )
        print(f"{source} -> {target}: kept {kept} of {total} utterances")


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    execute(get_parser(), run, cmd)


if __name__ == "__main__":
    main()
