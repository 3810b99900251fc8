"""Fuzz the device engine, or stress it with many streams.

    python -m tests.robustness.device fuzz --executions 1000000 \
        --json tests/robustness/results/device.json
    python -m tests.robustness.device stress --utterances 1000

`fuzz` feeds mutated model files and WAV files (libFuzzer, which follows the coverage)
to the engine and the reader of its program, built with clang, AddressSanitizer and
UndefinedBehaviorSanitizer. --work keeps the build and what it has found, so that a
further call continues. A finding is copied to FOLDER/found; put the input into
tests/robustness/device/regressions when it is mended.

`stress` runs 8 streams in 4 threads: with --sanitize thread under ThreadSanitizer,
without it to see the growth of memory.

Both exit with 1 if something was found.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional

import soundfile

from benchmarks.options import command, new_parser
from benchmarks.report import machine
from espnet_gq.files import write_json
from tests.robustness.device.building import OPTIONS, build, call
from tests.robustness.device.corpus import write_models
from tests.robustness.device.seeds import model_seeds, wav_seeds

LIMITS = dict(max_len=32768, timeout=120, rss_limit_mb=2000, malloc_limit_mb=1000)
BATCH = 50000


class Fuzzer:
    """One target and its corpus.

    Args:
        work: Folder of the build, the corpora and the findings.
        name: "model" or "wav".
        model: A model file, for what the WAV target accepts.
    """

    def __init__(self, work: Path, name: str, model: Path):
        self.program = work / "build" / f"fuzz_{name}"
        self.corpus = work / f"corpus_{name}"
        self.found = work / "found"
        self.name, self.model = name, model
        self.executions = 0
        self.coverage = 0
        self.findings: List[str] = []

    def run(self, executions: int, seed: int) -> None:
        """Execute that many inputs, or fewer where one is a finding."""
        limits = [f"-{key}={value}" for key, value in LIMITS.items()]
        artifacts = f"-artifact_prefix={self.found}/{self.name}-"
        done = subprocess.run(
            [
                *(str(self.program), str(self.corpus), f"-runs={executions}"),
                *(f"-seed={seed}", artifacts, "-print_final_stats=1", *limits),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**OPTIONS, "GQ_ASR_FUZZ_MODEL": str(self.model)},
        )
        output = done.stdout.decode(errors="replace")
        counts = re.findall(r"number_of_executed_units: (\d+)", output)
        counts = counts or re.findall(r"^#(\d+)\t", output, re.M)
        self.executions += int(counts[-1]) if counts else 0
        self.coverage = max([0, *map(int, re.findall(r"cov: (\d+)", output))])
        if done.returncode:
            number = len(self.findings)
            (self.found / f"{self.name}-{seed}.log").write_text(output[-20000:])
            summary = re.findall(r"SUMMARY: .*|.*runtime error.*", output)
            self.findings.append(summary[0] if summary else output[-300:])
            print(f"{self.name} {number}: {self.findings[-1]}", flush=True)


def fuzz(args: argparse.Namespace, work: Path) -> int:
    """Fuzz both targets in turn; return the number of findings."""
    names = ("model", "wav")
    targets = [f"fuzz_{name}" for name in names]
    sanitize = "address,undefined"
    build(work / "build", targets, sanitize, args.clang, fuzzers=True)
    (work / "found").mkdir(exist_ok=True)
    fuzzers = [Fuzzer(work, name, work / "corpus_model" / "lstm") for name in names]
    for fuzzer in fuzzers:
        fuzzer.corpus.mkdir(exist_ok=True)
    write_models(fuzzers[0].corpus)
    for path in model_seeds(work / "models"):
        (fuzzers[0].corpus / path.name).write_bytes(path.read_bytes())
    for name, contents in wav_seeds():
        (fuzzers[1].corpus / name).write_bytes(contents)
    seed = args.seed
    for fuzzer, share in zip(fuzzers, (0.8, 0.2)):
        while fuzzer.executions < share * args.executions:
            left = int(share * args.executions) - fuzzer.executions
            fuzzer.run(min(BATCH, max(left, 1000)), seed)
            seed += 1
            record(args, {f.name: figures(f) for f in fuzzers})
    return sum(len(fuzzer.findings) for fuzzer in fuzzers)


def figures(fuzzer: Fuzzer) -> Dict[str, Any]:
    """Return what the record says of a fuzzer."""
    return dict(
        executions=fuzzer.executions,
        edges=fuzzer.coverage,
        corpus=len(list(fuzzer.corpus.iterdir())),
        findings=fuzzer.findings,
    )


def record(args: argparse.Namespace, counts: Dict[str, Any]) -> None:
    """Print the figures, and write them where --json says."""
    print(counts, flush=True)
    if args.json:
        call_of = dict(benchmark="device", command=command("--json", "--work"))
        write_json(args.json, dict(call_of, counts=counts, machine=machine("cpu")))


def stress(args: argparse.Namespace, work: Path) -> int:
    """Run the streams; return 1 if there was a race or a wrong result."""
    folder = work / f"build_{args.sanitize or 'plain'}"
    build(folder, ["stress"], args.sanitize, args.clang if args.sanitize else "c++")
    model = args.model or next(model_seeds(work / "models"))
    words = [str(folder / "stress"), str(model), "4", "8", str(args.utterances)]
    try:
        print(call(words + [str(path) for path in speech(work)]))
    except subprocess.CalledProcessError:
        return 1
    return 0


def speech(folder: Path) -> List[Path]:
    """Write utterances as WAV files; return the paths."""
    from exporting.recognizers import FRONTEND, utterances

    paths = []
    for name, samples in utterances(8).items():
        paths.append(folder / f"{name}.wav")
        soundfile.write(paths[-1], samples, FRONTEND["fs"])
    return paths


def get_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    parser.add_argument("what", choices=["fuzz", "stress"])
    parser.add_argument("--executions", type=int, default=1000, help="of fuzz")
    parser.add_argument("--utterances", type=int, default=100, help="of stress")
    parser.add_argument("--model", type=Path, help="model file of stress")
    parser.add_argument("--sanitize", default="", help="sanitizers of stress")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, help="folder to keep")
    parser.add_argument("--clang", default="clang++")
    parser.add_argument("--json", type=Path)
    return parser


def main(cmd: Optional[List[str]] = None) -> int:
    args = get_parser().parse_args(cmd)
    with tempfile.TemporaryDirectory(prefix="engine") as name:
        work = args.work or Path(name)
        work.mkdir(parents=True, exist_ok=True)
        return int({"fuzz": fuzz, "stress": stress}[args.what](args, work) > 0)


if __name__ == "__main__":
    sys.exit(main())
