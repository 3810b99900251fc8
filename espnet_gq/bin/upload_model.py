"""Stage 15: upload a model zip to the Hugging Face hub, unpacked, with its card."""

import argparse
import subprocess
from pathlib import Path
from typing import Optional, Sequence

from espnet_gq.bin._common import Parser, add_card_options, execute
from espnet_gq.espnet.sharing.model_zip import upload_model


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser("upload-model", __doc__)
    parser.add_argument("zip", help="the zip of stage 14")
    parser.add_argument(
        "--hf_repo",
        required=True,
        help="user/model, a repository that 'hf repo create' made",
    )
    parser.add_argument(
        "--expdir", type=Path, default=Path("exp"), help="folder for the unpacked zip"
    )
    add_card_options(parser)
    return parser


def _creator() -> Optional[str]:
    """Return git's user name, as ESPnet's stage does."""
    try:
        done = subprocess.run(
            ["git", "config", "user.name"], capture_output=True, text=True
        )
    except OSError:
        return None
    return done.stdout.strip() or None


def run(args: argparse.Namespace) -> None:
    """Upload the zip.

    Raises:
        OSError, ValueError: If the zip cannot be used, or the hub refuses.
    """
    url = upload_model(
        args.zip,
        args.hf_repo,
        args.expdir / f"hf_{args.hf_repo.replace('/', '_')}",
        lang=args.lang,
        recipe=args.recipe,
        creator=_creator(),
    )
    print(f"uploaded {args.zip}: {url}")


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    execute(get_parser(), run, cmd)


if __name__ == "__main__":
    main()
