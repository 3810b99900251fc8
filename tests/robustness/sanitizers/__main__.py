r"""Call packed layers with wrong arguments, with kernels built with sanitizers.

    python -m tests.robustness.sanitizers --calls 6000 \
        --json tests/robustness/results/sanitizers.json

The library is built with AddressSanitizer and UndefinedBehaviorSanitizer and called
through its Python binding: with activations, indices, states, biases and buffers of
another type, size, device or layout, with other defaults of the process, with operators
and constructors given other numbers. A call is generated from --seed and its number, so
that any call can be reproduced: --first 17 --calls 1. Its verdict is one of

    right      returned the result of PyTorch operations without the library
    refused    one sentence: TypeError, ValueError, RuntimeError, IndexError or the like
    wrong      returned something else
    unclear    refused in several lines, or by another exception
    crash      the process ended; the output of the sanitizers is printed

Exits with 1 if any verdict is not right or refused.
"""

import argparse
import collections
import importlib.machinery
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from benchmarks import ROOT
from benchmarks.options import command, new_parser
from benchmarks.report import machine
from espnet_gq.analysis.tables import markdown
from espnet_gq.files import write_json
from espnet_gq.native import library
from tests.robustness.sanitizers.calls import child

SOURCES = Path(library.__file__).parent / "csrc"
FLAGS = ["-std=c++17", "-pthread", "-fPIC", f"-I{SOURCES}"]
FLAGS += ["-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
LINES = ["-O1", "-g1", "-fno-var-tracking"]
VERDICTS = ("right", "refused", "wrong", "unclear", "crash")
BATCH = 1000


def build(folder: Path, names: Sequence[str]) -> Path:
    """Build the library; only the named instruction sets are instrumented."""
    compiler = shlex.split(os.environ.get("CXX") or "g++")
    plain = {
        "vnni": "AVX-512 VNNI",
        "avx512": "AVX-512",
        "pass_avx512": "AVX-512",
        "avx2": "AVX2",
        "pass_avx2": "AVX2",
        "neon": "NEON",
    }
    objects = []
    for source in sorted(SOURCES.rglob("*.cpp")):
        made = folder / f"{source.stem}.o"
        flags = [*FLAGS, *LINES]
        if source.stem not in plain or plain[source.stem] in names:
            flags += SANITIZE
        subprocess.run([*compiler, *flags, "-c", source, "-o", made], check=True)
        objects.append(made)
    path = folder / f"native{importlib.machinery.EXTENSION_SUFFIXES[0]}"
    flags = [*SANITIZE, "-pthread", "-shared"]
    subprocess.run([*compiler, *flags, *objects, "-o", path], check=True)
    return path


def preloaded() -> str:
    """Return the paths of the sanitizers' runtimes."""
    compiler = shlex.split(os.environ.get("CXX") or "g++")
    return " ".join(
        subprocess.run(
            [*compiler, f"-print-file-name={name}"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so", "libstdc++.so")
    )


def batch(path: Path, args: argparse.Namespace, first: int, count: int):
    """Yield (index, verdict, message) of calls; a crash starts a new process."""
    environment = dict(
        os.environ,
        LD_PRELOAD=preloaded(),
        ASAN_OPTIONS="detect_leaks=0:allocator_may_return_null=1:handle_segv=1",
        UBSAN_OPTIONS="print_stacktrace=1",
        OMP_NUM_THREADS="1",
    )
    end = first + count
    while first < end:
        done = subprocess.run(
            [sys.executable, "-m", "tests.robustness.sanitizers"]
            + ["--child", str(path), "--seed", str(args.seed)]
            + ["--first", str(first), "--calls", str(end - first)]
            + ["--instruction-sets", *args.instruction_sets],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        lines = [json.loads(x) for x in done.stdout.splitlines() if x.startswith("[")]
        yield from (tuple(line) for line in lines if line[1] != "begun")
        if done.returncode == 0:
            return
        if not lines or lines[-1][1] != "begun":
            raise SystemExit(f"the process ended without a call: {done.stderr[-2000:]}")
        yield lines[-1][0], "crash", done.stderr[-3000:]
        first = lines[-1][0] + 1


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = new_parser(__doc__)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="number of the first call")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--instruction-sets",
        nargs="+",
        default=["portable"],
        help="which are instrumented and called; wide ones take minutes to compile",
    )
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser


def main(cmd: Optional[Sequence[str]] = None) -> int:
    """Make the calls, print the table; return the exit status."""
    args = get_parser().parse_args(cmd)
    if args.child:
        child(args.child, args.instruction_sets, args.seed, args.first, args.calls)
        return 0
    counts: Dict[str, int] = collections.Counter({verdict: 0 for verdict in VERDICTS})
    bad: List[Dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="sanitizers") as name:
        path = build(Path(name), args.instruction_sets)
        for first in range(args.first, args.first + args.calls, BATCH):
            count = min(BATCH, args.first + args.calls - first)
            for index, verdict, words in batch(path, args, first, count):
                counts[verdict] += 1
                if verdict not in ("right", "refused"):
                    bad.append(dict(index=index, verdict=verdict, words=words))
                    print(f"{index}: {verdict}: {words}")
            print(f"{first + count}: {dict(counts)}", file=sys.stderr, flush=True)
    rows = [[str(sum(counts.values())), *(str(counts[v]) for v in VERDICTS)]]
    print(markdown(["calls", *VERDICTS], rows))
    if args.json:
        figures = dict(counts=counts, bad=bad, seed=args.seed, machine=machine("cpu"))
        figures["instruction_sets"] = args.instruction_sets
        write_json(
            args.json,
            dict(benchmark="sanitizers", command=command("--json"), **figures),
        )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
