"""Stage 14: put a trained model into ESPnet's zip, to be shared.

A packed model has its float form in it as well (float.zip), which needs no plugin. The
model card is README.md. Run it in the recipe's folder.
"""

import argparse
import sys
from pathlib import Path
from typing import Optional, Sequence

from espnet_gq.espnet.sharing.model_zip import zip_model


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser: `espnet2.bin.pack asr`'s and two more."""
    parser = argparse.ArgumentParser(
        prog="python3 -m espnet_gq.bin.zip_model",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--outpath", required=True, help="the zip to write")
    parser.add_argument(
        "--asr_train_config", required=True, help="config.yaml of the training"
    )
    parser.add_argument(
        "--asr_model_file",
        required=True,
        help="what espnet_gq.bin.pack wrote, or the checkpoint of a float training",
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        help="a further file or folder; what the configuration names is there anyway",
    )
    parser.add_argument("--lang", default="noinfo", help="language, for the card")
    parser.add_argument(
        "--recipe",
        default="/".join(Path.cwd().parts[-2:]),
        help="recipe, for the card",
    )
    return parser


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Write the zip."""
    args = get_parser().parse_args(cmd)
    try:
        zip_model(
            args.asr_train_config,
            args.asr_model_file,
            args.outpath,
            options=args.option,
            lang=args.lang,
            recipe=args.recipe,
        )
    except (OSError, ValueError) as e:
        sys.exit(f"zip_model: {e}")
    print(f"wrote {args.outpath}: {Path(args.outpath).stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
