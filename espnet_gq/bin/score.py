"""Stage 13: score decoded test sets in ESPnet's layout and table format.

Writes ASR_EXP/INFERENCE_TAG/DSET/score_{wer,cer,ter}/result.txt for every test set, and
the tables of all results below ASR_EXP to ASR_EXP/RESULTS.md. Scores with sclite where
it is installed, and with jiwer otherwise.
"""

import argparse
from pathlib import Path
from typing import Optional, Sequence

from espnet_gq.bin._common import Parser, execute
from espnet_gq.files import write_text
from espnet_gq.recipe.scoring import SCTK, find_sclite, results_markdown, score_set


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser("score", __doc__)
    parser.add_argument("dsets", nargs="+", metavar="DSET", help="names of test sets")
    parser.add_argument("--asr_exp", type=Path, required=True, help="the experiment")
    parser.add_argument("--inference_tag", required=True, help="folder below asr_exp")
    parser.add_argument("--data_feats", type=Path, default=Path("dump/raw"))
    parser.add_argument("--bpemodel", default="none", help="for the token error rate")
    parser.add_argument("--score_opts", default="", help="options for sclite")
    parser.add_argument("--scorer", choices=("auto", "sclite", "jiwer"), default="auto")
    return parser


def run(args: argparse.Namespace) -> None:
    """Score every test set and write RESULTS.md.

    Raises:
        OSError, ValueError, RuntimeError: If an input cannot be used, or sclite fails.
    """
    sclite = None if args.scorer == "jiwer" else find_sclite()
    if args.scorer == "sclite" and not sclite:
        raise ValueError(f"sclite is neither on the PATH nor in {SCTK}")
    print(f"scoring with {sclite or 'jiwer'}")
    for dset in args.dsets:
        decoded = args.asr_exp / args.inference_tag / dset
        score_set(
            args.data_feats / dset, decoded, args.bpemodel, sclite, args.score_opts
        )
    report = results_markdown(args.asr_exp)
    write_text(args.asr_exp / "RESULTS.md", report)
    print(report)


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    execute(get_parser(), run, cmd, errors=(RuntimeError, OSError, ValueError))


if __name__ == "__main__":
    main()
