"""Imports and memory of a process that decodes with PyTorch, without ESPnet.

    python -m benchmarks.packed.without_espnet --json without_espnet.json

Each stage is measured in new processes. See benchmarks/README.md.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional

import torch

from benchmarks import ROOT, options
from benchmarks.espnet_models import set_codebooks
from benchmarks.measuring import MIB, spread
from benchmarks.packed import plain_transducer
from benchmarks.report import machine, machine_lines, progress, spread_cell
from espnet_gq.analysis.tables import markdown
from espnet_gq.files import write_json
from espnet_gq.nn.prepare import prepare
from espnet_gq.packing import pack_state_dict, save

STAGES = ("import torch", "import espnet_gq", "import espnet_gq.packing") + (
    "load",
    "compute",
)
MODULES = ("torch", "espnet_gq", "espnet_gq.packing")
HEAVY = ("triton", "torch._dynamo", "sympy")
CHILD = f"""
import json, sys, time

def now():
    with open("/proc/self/status") as status:
        lines = dict(line.split(":", 1) for line in status)
    kib = {{key: int(lines[key].split()[0]) for key in ("VmRSS", "VmHWM")}}
    found.append(dict(
        seconds=time.process_time(),
        rss_bytes=1024 * kib["VmRSS"],
        peak_bytes=1024 * kib["VmHWM"],
        heavy=[name for name in {HEAVY!r} if name in sys.modules],
    ))

found = []
import torch
now()
import espnet_gq
now()
import espnet_gq.packing
now()
sys.path.append({str(Path(plain_transducer.__file__).parent)!r})
import plain_transducer
torch.set_num_threads(1)
with espnet_gq.runtime.skeleton():
    model = plain_transducer.Transducer(**json.loads(sys.argv[2]))
espnet_gq.packing.load_packed(model.eval(), sys.argv[1], "int8")
now()
with torch.no_grad():
    model()
now()
print(json.dumps(found))
"""


def environment(tree: Path) -> Dict[str, str]:
    """Return the environment of a process that imports espnet_gq from a folder."""
    return {**os.environ, "PYTHONPATH": str(tree)}


def run(tree: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run Python with the espnet_gq of a folder.

    Raises:
        RuntimeError: If it fails; with what it printed.
    """
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run(
            [sys.executable, *arguments],
            env=environment(tree),
            cwd=empty,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise RuntimeError(f"{arguments[0]} with {tree} failed: {done.stderr[-2000:]}")
    return done


def import_seconds(tree: Path) -> Dict[str, float]:
    """Return the seconds of each import after the ones before it, of -X importtime."""
    code = "; ".join(f"import {name}" for name in MODULES)
    found: Dict[str, float] = {}
    for line in run(tree, "-X", "importtime", "-c", code).stderr.splitlines():
        cells = line.removeprefix("import time:").split("|")
        if len(cells) == 3 and cells[2].strip() in MODULES:
            found.setdefault(cells[2].strip(), int(cells[1]) / 1e6)
    return found


def figures(runs: List[Dict[str, Any]]) -> Dict[str, Any]:
    """Return the spread of each figure of a stage over the processes."""
    keys = ("seconds", "rss_bytes", "peak_bytes")
    found: Dict[str, Any] = {key: spread([r[key] for r in runs]) for key in keys}
    found["loaded"] = runs[0]["heavy"]
    return found


def measure(
    tree: Path, files: Dict[int, Path], sizes: Dict[str, int], runs: int
) -> Dict[str, Any]:
    """Measure one folder: imports, and by bit width the stages of a process."""
    shape = json.dumps(sizes)
    times = [import_seconds(tree) for _ in range(runs)]
    found: Dict[str, Any] = dict(
        tree=str(tree), imports={m: spread([t[m] for t in times]) for m in MODULES}
    )
    for bits, file in files.items():
        stages = [
            json.loads(run(tree, "-c", CHILD, str(file), shape).stdout)
            for _ in range(runs)
        ]
        found[f"{bits} bits"] = {
            stage: figures([run[i] for run in stages]) for i, stage in enumerate(STAGES)
        }
        progress(f"{tree}: {bits} bits")
    return found


def lines(found: Dict[str, Any], bits: List[int]) -> List[str]:
    """Format the figures of one folder."""
    rows = [[m, spread_cell(found["imports"][m], 1.0, 2)] for m in MODULES]
    text = ["", found["tree"], "", markdown(["import", "seconds (min..max)"], rows)]
    header = ["bits", "after", "MiB (min..max)", "peak MiB", "loaded"]
    rows = [
        [
            str(width),
            stage,
            spread_cell(row["rss_bytes"], MIB, 0),
            f"{row['peak_bytes']['median'] / MIB:.0f}",
            ", ".join(row["loaded"]) or "-",
        ]
        for width in bits
        for stage, row in found[f"{width} bits"].items()
    ]
    return [*text, "", markdown(header, rows)]


def write_model(bits: int, sizes: Dict[str, int], folder: Path) -> Path:
    """Write the packed file of a transducer with random weights."""
    torch.manual_seed(0)
    with torch.no_grad():
        model = prepare(plain_transducer.Transducer(**sizes), {"bits": bits})
        set_codebooks(model)
        save(pack_state_dict(model.state_dict()), folder / f"{bits}.pth")
    return folder / f"{bits}.pth"


def get_parser(quick: bool = False) -> argparse.ArgumentParser:
    """Return the command line's parser; `quick` selects the defaults of --quick."""
    parser = options.new_parser(__doc__, show_defaults=True)
    add = parser.add_argument
    options.add_bits(parser, "5" if quick else "8,5", "bit widths of the packed files")
    add("--runs", type=int, default=1 if quick else 3, help="processes per figure")
    add(
        "--compared",
        type=Path,
        nargs="*",
        default=[],
        help="folders of other versions of this project, with their native libraries",
    )
    add("--quick", action="store_true", help="use a tiny model and small defaults")
    add("--json", type=Path, help="file for the figures")
    return parser


def main(argv: Optional[List[str]] = None) -> None:
    """Measure, print and write."""
    parser, args = options.parse_quick(get_parser, argv, ("runs",))
    if not Path("/proc/self/status").exists():
        parser.error("this needs Linux, which reports resident memory")
    for tree in args.compared:
        if not (tree / "espnet_gq" / "__init__.py").exists():
            parser.error(f"--compared {tree}; allowed: a folder with espnet_gq/ in it")
    sizes = plain_transducer.TINY if args.quick else plain_transducer.SIZES
    print("\n".join(machine_lines(machine("cpu"))))
    found: Dict[str, Any] = dict(
        benchmark="without_espnet",
        command=options.command("--json", "--compared"),
        machine=machine("cpu"),
        sizes=sizes,
        trees=[],
    )
    with tempfile.TemporaryDirectory() as folder:
        files = {bits: write_model(bits, sizes, Path(folder)) for bits in args.bits}
        for tree in (*args.compared, ROOT):
            measured = measure(tree.resolve(), files, sizes, args.runs)
            print("\n".join(lines(measured, args.bits)), flush=True)
            found["trees"].append(measured)
    if args.json:
        for tree, measured in zip((*args.compared, "this"), found["trees"]):
            measured["tree"] = Path(tree).name
        write_json(args.json, found)


if __name__ == "__main__":
    main()
