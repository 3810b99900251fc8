"""Stage 15: upload a model zip to the Hugging Face hub, unpacked, with its card."""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Optional, Sequence

from espnet_gq.espnet.sharing.model_zip import upload_model


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(
        prog="python3 -m espnet_gq.bin.upload_model",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("zip", help="what stage 14 wrote")
    parser.add_argument(
        "--hf_repo",
        required=True,
        help="user/model, a repository that 'hf repo create' made",
    )
    parser.add_argument(
        "--expdir", type=Path, default=Path("exp"), help="its contents are kept here"
    )
    parser.add_argument("--lang", default="noinfo", help="language, for the card")
    parser.add_argument(
        "--recipe",
        default="/".join(Path.cwd().parts[-2:]),
        help="recipe, for the card",
    )
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


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Upload the zip."""
    args = get_parser().parse_args(cmd)
    try:
        url = upload_model(
            args.zip,
            args.hf_repo,
            args.expdir / f"hf_{args.hf_repo.replace('/', '_')}",
            lang=args.lang,
            recipe=args.recipe,
            creator=_creator(),
        )
    except (OSError, ValueError) as e:
        sys.exit(f"upload_model: {' '.join(str(e).split())}")
    print(f"uploaded {args.zip}: {url}")


if __name__ == "__main__":
    main()
