"""Fuzz the device engine: hostile model files and WAV files.

    python -m tests.robustness.device --runs 1000000 \
        --json tests/robustness/results/device.json

libFuzzer (clang) mutates small valid files, guided by coverage; the engine is built with
AddressSanitizer and UndefinedBehaviorSanitizer. Each model that opens is verified and
used by two searches. Exits with 1 at a finding; the input is kept in --work.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

from benchmarks import ROOT
from benchmarks.options import command, new_parser
from benchmarks.report import machine
from espnet_gq.analysis.tables import markdown
from espnet_gq.files import write_json
from tests.robustness.device.corpus import write_models, write_wavs

HERE = Path(__file__).resolve().parent
DEVICE = ROOT / "espnet_gq" / "device" / "csrc"
KERNELS = ROOT / "espnet_gq" / "native" / "csrc"
FLAGS = ["-std=c++17", "-O1", "-g1", "-pthread", f"-I{DEVICE}", f"-I{KERNELS}"]
FLAGS += ["-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"]
SANITIZE = ["-fsanitize=address,undefined,fuzzer-no-link", "-fno-sanitize-recover=all"]
TARGETS: Dict[str, Callable[[Path], None]] = {
    "model": write_models,
    "wav": write_wavs,
}
"""Name of a harness in this folder -> what writes its first inputs."""
LIMITS = ["-rss_limit_mb=2048", "-timeout=20", "-max_len=20000"]


def build(folder: Path) -> Dict[str, Path]:
    """Build the harnesses; the kernels of special instruction sets without sanitizers.

    Returns:
        Name -> program.
    """
    objects = []
    jobs = []
    for room in (KERNELS, DEVICE):
        for source in sorted(room.rglob("*.cpp")):
            if source.name == "main.cpp":
                continue
            made = folder / f"{room.parent.name}_{source.parent.name}_{source.stem}.o"
            plain = "avx" in source.stem or source.stem in ("vnni", "neon")
            flags = [*FLAGS, *([] if plain else SANITIZE)]
            jobs.append(["clang++", *flags, "-c", str(source), "-o", str(made)])
            objects.append(made)
    for job in jobs:
        subprocess.run(job, check=True)
    programs = {}
    for name in TARGETS:
        programs[name] = folder / name
        whole = [*FLAGS, "-fsanitize=address,undefined,fuzzer"]
        harness = [str(HERE / f"{name}.cpp"), *map(str, objects)]
        out = ["-o", str(programs[name])]
        subprocess.run(["clang++", *whole, *harness, *out], check=True)
    return programs


def fuzz(program: Path, name: str, work: Path, runs: int, seed: int) -> Dict[str, Any]:
    """Run a harness; return its row of the table."""
    corpus = work / name
    TARGETS[name](corpus)
    words = [str(program), f"-runs={runs}", f"-seed={seed}", *LIMITS]
    done = subprocess.run(
        [*words, f"-artifact_prefix={work}/{name}-", "-print_final_stats=1", corpus],
        capture_output=True,
        text=True,
    )
    found = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
    covered = re.findall(r"cov: (\d+)", done.stderr)
    if done.returncode:
        print(done.stderr[-4000:], file=sys.stderr)
    return {
        "input": name,
        "executions": int(found[1]) if found else 0,
        "edges covered": int(covered[-1]) if covered else 0,
        "corpus": len(list(corpus.iterdir())),
        "findings": int(done.returncode != 0),
    }


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = new_parser(__doc__ or "")
    parser.add_argument("--runs", type=int, default=1000000, help="per kind of input")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, help="folder to keep")
    parser.add_argument("--json", type=Path, help="write the table and the machine")
    return parser


def main(cmd: Optional[Sequence[str]] = None) -> int:
    """Build, fuzz, and print a table; return the exit status."""
    args = get_parser().parse_args(cmd)
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        programs = build(work)
        rows: List[Dict[str, Any]] = [
            fuzz(program, name, work, args.runs, args.seed)
            for name, program in programs.items()
        ]
    cells = [[str(value) for value in row.values()] for row in rows]
    print(markdown(list(rows[0]), cells))
    if args.json:
        found = dict(command=command("--json", "--work"), rows=rows)
        write_json(args.json, dict(found, machine=machine("cpu"), seed=args.seed))
    return int(any(row["findings"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
