"""Compare the device engine with packed inference in PyTorch, utterance by utterance.

    python -m benchmarks.device.agreement exp/asr_train_rnnt_gq --data data/test

MODEL is what espnet-gq export takes, DATA a data directory (wav.scp, text). Tokens and
scores of the engine's exact mode are compared with PyTorch's packed exact mode (of
models with CTC, with the best label of each frame), those of the engine fed in chunks
with those of the whole utterance. Each utterance that differs is listed with both
hypotheses. Where there are transcripts, the word error rates of both and of the
engine's int8 mode follow.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
import soundfile
import torch

from benchmarks.options import command, new_parser
from benchmarks.report import machine
from espnet_gq.analysis.tables import markdown
from espnet_gq.analysis.wer import count, total
from espnet_gq.device import Model, Result
from espnet_gq.files import write_json
from espnet_gq.recipe.datadir import read_table

Labels = Tuple[int, ...]
Found = Tuple[Labels, float, str]
"""Labels, score and text of the best hypothesis."""
CLOSE = 1e-3
"""Difference of scores that counts as none."""


def reference(source: Any, beam: int, output: str) -> Callable[[np.ndarray], Found]:
    """Return what decodes samples (n,) in PyTorch's packed exact mode.

    Args:
        source: The model.
        beam: Hypotheses of a transducer's search.
        output: "transducer", or "ctc" for the best label of each frame.
    """
    from espnet_gq import Speech2Text

    options = {"beam_size": beam} if output == "transducer" else {}
    speech2text = Speech2Text.from_pretrained(source, **options)

    @torch.no_grad()
    def search(samples: np.ndarray) -> Found:
        text, _, token_int, hyp = speech2text(samples)[0]
        return tuple(map(int, token_int)), float(hyp.score), text

    @torch.no_grad()
    def best_path(samples: np.ndarray) -> Found:
        model, lengths = speech2text.asr_model, torch.tensor([len(samples)])
        encoded, _ = model.encode(torch.from_numpy(samples)[None], lengths)
        encoded = encoded[0] if isinstance(encoded, tuple) else encoded
        logp = model.ctc.log_softmax(encoded)[0].double()[:, :-1]
        scores, best = logp.max(-1)
        path = best.tolist()
        labels = [b for a, b in zip([0, *path], path) if b and a != b]
        token = speech2text.converter.ids2tokens(labels)
        text = speech2text.tokenizer.tokens2text(token)
        return tuple(labels), float(scores.sum()), text

    return search if output == "transducer" else best_path


def chunked(
    model: Model, samples: np.ndarray, size: int, options: Dict[str, Any]
) -> Result:
    """Return the engine's best result for samples that come in chunks."""
    with model.stream(**options) as stream:
        for i in range(0, len(samples), size):
            stream.feed(samples[i : i + size])
        stream.finish()
        return stream.results()[0]


def compare(
    model: Model,
    decode: Callable[[np.ndarray], Found],
    wavs: Dict[str, str],
    beam: int,
    chunk: int,
) -> List[Dict[str, Any]]:
    """Return a row per utterance.

    Args:
        model: The exported model.
        decode: Decodes in PyTorch.
        wavs: Name -> audio file.
        beam: Hypotheses of the search.
        chunk: Samples per chunk.
    """
    rows = []
    for name, path in wavs.items():
        samples, rate = soundfile.read(path, dtype="float32")
        if rate != model.sample_rate:
            raise ValueError(
                f"{path} has {rate} samples per second; allowed: {model.sample_rate}"
            )
        labels, score, text = decode(samples)
        exact: Dict[str, Any] = dict(mode="exact", beam=beam)
        found = model.transcribe(samples, **exact)[0]
        parts = chunked(model, samples, chunk, exact)
        int8 = model.transcribe(samples, mode="int8", beam=beam)[0]
        rows.append(
            dict(
                utterance=name,
                same=found.token_int == labels,
                difference=abs(found.score - score),
                same_in_chunks=parts.token_int == found.token_int,
                difference_in_chunks=abs(parts.score - found.score),
                same_in_int8=int8.token_int == labels,
                pytorch=dict(text=text, labels=labels, score=score),
                engine=dict(text=found.text, labels=found.token_int, score=found.score),
                int8=dict(text=int8.text),
            )
        )
        if len(rows) % 100 == 0:
            print(f"{len(rows)} of {len(wavs)}", file=sys.stderr, flush=True)
    return rows


def summary(rows: Sequence[Dict[str, Any]]) -> Dict[str, Any]:
    """Return the counts of a comparison."""
    same = [row for row in rows if row["same"]]
    return {
        "utterances": len(rows),
        "tokens": sum(len(row["pytorch"]["labels"]) for row in rows),
        "same tokens": len(same),
        "largest difference of a score": max(
            (r["difference"] for r in same), default=0
        ),
        "same in chunks": sum(row["same_in_chunks"] for row in rows),
        "same in int8": sum(row["same_in_int8"] for row in rows),
    }


def error_rates(
    rows: Sequence[Dict[str, Any]], transcripts: Dict[str, str]
) -> Dict[str, float]:
    """Return word error rates in percent."""
    names = [row["utterance"] for row in rows]
    references = {name: transcripts[name].split() for name in names}
    found = {}
    for what in ("pytorch", "engine", "int8"):
        hypotheses = {row["utterance"]: row[what]["text"].split() for row in rows}
        counts = total(count(references, hypotheses))
        words = sum(map(len, references.values()))
        found[f"WER {what}"] = 100 * counts.errors / max(1, words)
    return found


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = new_parser(__doc__ or "")
    parser.add_argument("model", nargs="+", metavar="MODEL")
    parser.add_argument("--data", type=Path, required=True, help="data directory")
    parser.add_argument("--beam", type=int, default=1)
    parser.add_argument("--chunk-ms", type=int, default=160)
    parser.add_argument("--utterances", type=int, default=0, help="0: all of them")
    parser.add_argument("--json", type=Path, help="write all of it")
    return parser


def main(cmd: Optional[Sequence[str]] = None) -> int:
    """Compare, print; return 1 where more than one utterance of 1,000 differs."""
    from espnet_gq.espnet.exporting import export

    args = get_parser().parse_args(cmd)
    source = args.model[0] if len(args.model) == 1 else args.model
    wavs = read_table(args.data / "wav.scp")
    if args.utterances:
        wavs = dict(list(wavs.items())[: args.utterances])
    with tempfile.TemporaryDirectory() as folder:
        try:
            export(source, Path(folder) / "model.gguf")
        except (ValueError, OSError) as e:
            raise SystemExit(str(e)) from None
        model = Model(Path(folder) / "model.gguf")
        decode = reference(source, args.beam, model.text("output") or "transducer")
        size = max(1, args.chunk_ms * model.sample_rate // 1000)
        rows = compare(model, decode, wavs, args.beam, size)
    found = summary(rows)
    if (args.data / "text").exists():
        found.update(error_rates(rows, read_table(args.data / "text")))
    shown = [f"{v:.2g}" if isinstance(v, float) else str(v) for v in found.values()]
    print(markdown(list(found), [shown], left=()))
    for row in rows:
        if not row["same"] or not row["same_in_chunks"] or row["difference"] > CLOSE:
            print(f"{row['utterance']}: {row['pytorch']} {row['engine']}")
    if args.json:
        whole = dict(summary=found, rows=rows, machine=machine("cpu"))
        write_json(args.json, dict(command=command("--json"), **whole))
    return int(found["same tokens"] < 0.999 * len(rows))


if __name__ == "__main__":
    sys.exit(main())
