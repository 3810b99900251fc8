"""Stage 4: remove too short, too long and empty utterances (dump/raw/org -> dump/raw).

Meant for training and validation sets; test sets keep every utterance.
"""

import argparse
import sys
from typing import Optional, Sequence

from espnet_gq.recipe.datadir import filter_data_dir


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
        help="a formatted data directory and where its copy goes; may be repeated",
    )
    parser.add_argument("--fs", default="16k", help="sampling rate, e.g. 16k")
    parser.add_argument("--min_wav_duration", type=float, default=0.1, help="seconds")
    parser.add_argument("--max_wav_duration", type=float, default=20.0, help="seconds")
    return parser


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Filter every given directory."""
    args = get_parser().parse_args(cmd)
    for source, target in args.dir:
        try:
            kept, total = filter_data_dir(
                source,
                target,
                args.fs,
                args.min_wav_duration,
                args.max_wav_duration,
            )
        except (OSError, ValueError) as e:
            sys.exit(f"filter_data_dir: {e}")
        print(f"{source} -> {target}: kept {kept} of {total} utterances")


if __name__ == "__main__":
    main()
