"""Stage 14: put a trained model into ESPnet's zip, to be shared.

The zip of a packed model also holds its float form (float.zip), which needs no plugin,
and a model card (README.md). Run it in the recipe's folder.
"""

import argparse
from pathlib import Path
from typing import Optional, Sequence

from espnet_gq.bin._common import Parser, add_card_options, execute
from espnet_gq.espnet.sharing.model_zip import zip_model


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser: `espnet2.bin.pack asr`'s and two more."""
    parser = Parser("zip-model", __doc__)
    parser.add_argument("--outpath", required=True, help="the zip to write")
    parser.add_argument(
        "--asr_train_config",
        "--train_config",
        required=True,
        help="config.yaml of the training",
    )
    parser.add_argument(
        "--asr_model_file",
        "--model_file",
        required=True,
        help="a file of espnet-gq pack, or the checkpoint of a float training",
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        help="a further file or folder; those that the configuration names are "
        "included",
    )
    add_card_options(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Write the zip.

    Raises:
        OSError, ValueError: If an input cannot be used.
    """
    zip_model(
        args.asr_train_config,
        args.asr_model_file,
        args.outpath,
        options=args.option,
        lang=args.lang,
        recipe=args.recipe,
    )
    print(f"wrote {args.outpath}: {Path(args.outpath).stat().st_size:,} bytes")


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    execute(get_parser(), run, cmd)


if __name__ == "__main__":
    main()
