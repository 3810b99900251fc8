"""Stage 13: score decoded test sets in ESPnet's layout and table format.

Writes DECODE_DIR/DSET/score_{wer,cer,ter}/{ref.trn,hyp.trn,result.txt} for every test
set, and the tables of everything scored below the experiment to its RESULTS.md.
Scores with sclite where it is installed and with jiwer otherwise.
"""

import argparse
import datetime
import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from espnet_gq.analysis import wer
from espnet_gq.espnet.datadir import read_table

SCTK = "/usr/lib/sctk/bin"  # where Debian's package sctk keeps sclite
HEADER = "|dataset|Snt|Wrd|Corr|Sub|Del|Ins|Err|S.Err|"
METRICS = ("wer", "cer", "ter")
Tokenizer = Callable[[str], List[str]]


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("dsets", nargs="+", metavar="DSET", help="names of test sets")
    parser.add_argument("--asr_exp", type=Path, required=True, help="the experiment")
    parser.add_argument("--inference_tag", required=True, help="folder below asr_exp")
    parser.add_argument("--data_feats", type=Path, default=Path("dump/raw"))
    parser.add_argument("--bpemodel", default="none", help="for the token error rate")
    parser.add_argument("--score_opts", default="", help="options for sclite")
    parser.add_argument("--scorer", choices=("auto", "sclite", "jiwer"), default="auto")
    return parser


def find_sclite() -> Optional[str]:
    """Return the path of sclite, or None."""
    return shutil.which("sclite") or shutil.which("sclite", path=SCTK)


def tokenizers(bpemodel: str) -> Dict[str, Tokenizer]:
    """Return a function from text to tokens for every metric there is."""
    found: Dict[str, Tokenizer] = {
        "wer": str.split,
        "cer": lambda text: ["<space>" if c == " " else c for c in text],
    }
    if Path(bpemodel).is_file():
        import sentencepiece

        model = sentencepiece.SentencePieceProcessor(model_file=bpemodel)
        found["ter"] = lambda text: model.encode(text, out_type=str)
    return found


def score_set(
    references: Dict[str, str],
    hypotheses: Dict[str, str],
    utt2spk: Dict[str, str],
    tokenize: Tokenizer,
    score_dir: Path,
    sclite: Optional[str],
    score_opts: str = "",
) -> None:
    """Write ref.trn, hyp.trn and result.txt of one test set and one metric."""
    score_dir.mkdir(parents=True, exist_ok=True)
    sides = {}
    for name, texts in (("ref", references), ("hyp", hypotheses)):
        tokens = {utt: tokenize(text) for utt, text in texts.items()}
        lines = [
            f"{' '.join(tokens[u])}\t({utt2spk[u]}-{u})\n" for u in sorted(references)
        ]
        (score_dir / f"{name}.trn").write_text("".join(lines), encoding="utf-8")
        sides[name] = tokens
    if sclite:
        text = run_sclite(sclite, score_dir, score_opts)
    else:
        text = jiwer_report(sides["ref"], sides["hyp"], utt2spk)
    (score_dir / "result.txt").write_text(text, encoding="utf-8")


def run_sclite(sclite: str, score_dir: Path, score_opts: str) -> str:
    """Return sclite's report on ref.trn and hyp.trn."""
    ref, hyp = str(score_dir / "ref.trn"), str(score_dir / "hyp.trn")
    command = [sclite, *score_opts.split(), "-r", ref, "trn", "-h", hyp, "trn"]
    command += ["-i", "rm", "-o", "all", "stdout"]
    done = subprocess.run(command, capture_output=True)
    report = done.stdout.decode("utf-8", errors="replace")
    if done.returncode or "Sum/Avg" not in report:
        sys.exit(f"score: sclite failed on {ref}: {done.stderr.decode()}")
    return report


def jiwer_report(
    references: wer.Tokens, hypotheses: wer.Tokens, utt2spk: Dict[str, str]
) -> str:
    """Return a report by speaker with sclite's columns."""
    counts = wer.count(references, hypotheses)
    names = "SPKR Snt Wrd Corr Sub Del Ins Err S.Err".split()
    rows = [tuple(names)]
    for speaker in sorted(set(utt2spk.values())):
        mine = {u: c for u, c in counts.items() if utt2spk[u] == speaker}
        if mine:
            rows.append((speaker, *wer.total(mine).row()))
    rows.append(("Sum/Avg", *wer.total(counts).row()))
    width = max(len(row[0]) for row in rows)
    lines = ["scored with jiwer"]
    for row in rows:
        cells = [f"{cell:>7}" for cell in row[1:]]
        lines.append(
            f"| {row[0]:<{width}} |{''.join(cells[:2])} |{''.join(cells[2:])} |"
        )
    return "\n".join(lines) + "\n"


def sum_row(result: Path) -> List[str]:
    """Return the eight figures of the Sum/Avg line of a result.txt."""
    for line in result.read_text(encoding="utf-8", errors="replace").splitlines():
        if "Sum/Avg" in line:
            return line.replace("Sum/Avg", "").replace("|", " ").split()
    raise ValueError(f"{result} has no Sum/Avg line")


def results_markdown(asr_exp: Path) -> str:
    """Return the tables of every score below an experiment, as ESPnet prints them."""
    now = datetime.datetime.now().astimezone().strftime("%a %b %d %H:%M:%S %Z %Y")
    lines = ["# RESULTS", "## Environments", f"- date: `{now}`"]
    lines.append(f"- python version: `{platform.python_version()}`")
    for name in ("espnet", "torch", "espnet-gq"):
        lines.append(f"- {name} version: `{_version(name)}`")
    lines += ["", f"## {asr_exp}"]
    for metric in METRICS:
        rows: List[Tuple[str, List[str]]] = []
        # */* is a test set, */org/* the validation set.
        for result in sorted(asr_exp.glob(f"*/**/score_{metric}/result.txt")):
            name = os.path.relpath(result.parent.parent, asr_exp)
            rows.append((name, sum_row(result)))
        if rows:
            lines += [f"### {metric.upper()}", "", HEADER, "|---" * 9 + "|"]
            lines += [f"|{name}|{'|'.join(row)}|" for name, row in rows] + [""]
    return "\n".join(lines) + "\n"


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except ImportError:
        return "not installed"


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Score every test set and write RESULTS.md."""
    args = get_parser().parse_args(cmd)
    sclite = None if args.scorer == "jiwer" else find_sclite()
    if args.scorer == "sclite" and not sclite:
        sys.exit("score: sclite is neither on the PATH nor in " + SCTK)
    print(f"scoring with {sclite or 'jiwer (sclite is not installed)'}")
    for dset in args.dsets:
        data, decoded = args.data_feats / dset, args.asr_exp / args.inference_tag / dset
        try:
            references = read_table(data / "text")
            hypotheses = read_table(decoded / "text")
            utt2spk = read_table(data / "utt2spk")
            missing = sorted(set(references) ^ set(hypotheses))
            if missing:
                raise ValueError(
                    f"{decoded / 'text'} and {data / 'text'} differ in "
                    f"{len(missing)} utterances, first {missing[0]}"
                )
            for metric, tokenize in tokenizers(args.bpemodel).items():
                score_dir = decoded / f"score_{metric}"
                score_set(
                    references,
                    hypotheses,
                    utt2spk,
                    tokenize,
                    score_dir,
                    sclite,
                    args.score_opts,
                )
        except (OSError, ValueError) as e:
            sys.exit(f"score: {e}")
    report = results_markdown(args.asr_exp)
    (args.asr_exp / "RESULTS.md").write_text(report, encoding="utf-8")
    print(report)


if __name__ == "__main__":
    main()
