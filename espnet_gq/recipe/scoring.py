"""Scoring decoded test sets in ESPnet's layout (stage 13).

Every test set gets ``score_{wer,cer,ter}/{ref.trn,hyp.trn,result.txt}``, and an
experiment a ``RESULTS.md`` with the tables of everything scored below it.
"""

import datetime
import os
import platform
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Callable, Dict, List, Optional

from espnet_gq.analysis import wer
from espnet_gq.files import write_text
from espnet_gq.recipe.datadir import read_table

SCTK = "/usr/lib/sctk/bin"  # where Debian's package sctk keeps sclite
HEADER = "|dataset|Snt|Wrd|Corr|Sub|Del|Ins|Err|S.Err|"
METRICS = ("wer", "cer", "ter")
Tokenizer = Callable[[str], List[str]]


def find_sclite() -> Optional[str]:
    """Return the path of sclite, or None."""
    return shutil.which("sclite") or shutil.which("sclite", path=SCTK)


def tokenizers(bpemodel: str) -> Dict[str, Tokenizer]:
    """Return metric -> function from text to tokens."""
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
    data: Path,
    decoded: Path,
    bpemodel: str = "none",
    sclite: Optional[str] = None,
    score_opts: str = "",
) -> None:
    """Score one decoded test set.

    Args:
        data: data directory with ``text`` and ``utt2spk``.
        decoded: folder with the decoded ``text``; the scores go below it.
        bpemodel: sentencepiece model for the token error rate, if there is one.
        sclite: path of sclite; None scores with jiwer.
        score_opts: options for sclite.

    Raises:
        ValueError: the utterances of ``data`` and ``decoded`` differ.
        RuntimeError: sclite failed.
    """
    references = read_table(data / "text")
    hypotheses = read_table(decoded / "text")
    utt2spk = read_table(data / "utt2spk")
    unlike = sorted(set(references) ^ set(hypotheses))
    if unlike:
        raise ValueError(
            f"{decoded / 'text'} and {data / 'text'} differ in {len(unlike)} "
            f"utterances, first {unlike[0]}"
        )
    for metric, tokenize in tokenizers(bpemodel).items():
        score_dir = decoded / f"score_{metric}"
        score_dir.mkdir(parents=True, exist_ok=True)
        ref = {utt: tokenize(text) for utt, text in references.items()}
        hyp = {utt: tokenize(text) for utt, text in hypotheses.items()}
        write_trn(score_dir / "ref.trn", ref, utt2spk)
        write_trn(score_dir / "hyp.trn", hyp, utt2spk)
        if sclite:
            report = run_sclite(sclite, score_dir, score_opts)
        else:
            report = jiwer_report(ref, hyp, utt2spk)
        write_text(score_dir / "result.txt", report)


def load_units(data: Path, decoded: Path) -> wer.Units:
    """Return a decoded test set's word errors in the units that a bootstrap draws.

    Args:
        data: data directory with ``text`` and ``utt2spk``; where it has
            ``utt2recordings`` (one recording for each word of an utterance), the
            units are these recordings, otherwise the utterances.
        decoded: folder with the decoded ``text``.

    Raises:
        ValueError: the utterances of ``data`` and ``decoded`` differ.
    """
    references = {u: t.split() for u, t in read_table(data / "text").items()}
    hypotheses = {u: t.split() for u, t in read_table(decoded / "text").items()}
    utt2spk = read_table(data / "utt2spk")
    joined = data / "utt2recordings"
    if not joined.exists():
        return wer.units_by_utterance(references, hypotheses, utt2spk)
    recordings = {u: names.split() for u, names in read_table(joined).items()}
    return wer.units_by_recording(references, hypotheses, utt2spk, recordings)


def write_trn(path: Path, tokens: wer.Tokens, utt2spk: Dict[str, str]) -> None:
    """Write ``tokens<TAB>(speaker-utterance)`` lines."""
    lines = [f"{' '.join(tokens[u])}\t({utt2spk[u]}-{u})\n" for u in sorted(tokens)]
    write_text(path, "".join(lines))


def run_sclite(sclite: str, score_dir: Path, score_opts: str) -> str:
    """Return sclite's report on ref.trn and hyp.trn."""
    ref, hyp = str(score_dir / "ref.trn"), str(score_dir / "hyp.trn")
    command = [sclite, *score_opts.split(), "-r", ref, "trn", "-h", hyp, "trn"]
    command += ["-i", "rm", "-o", "all", "stdout"]
    done = subprocess.run(command, capture_output=True)
    report = done.stdout.decode("utf-8", errors="replace")
    if done.returncode or "Sum/Avg" not in report:
        raise RuntimeError(f"sclite failed on {ref}: {done.stderr.decode()}")
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
        rows = []
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
