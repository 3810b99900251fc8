"""Whole processes that recognize speech: the device engine and what it replaces.

    python -m benchmarks.device.recognition --json device_recognition.json

See benchmarks/README.md.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional

import torch

from benchmarks import options
from benchmarks.device import plot, table
from benchmarks.device.commands import NotRun, build_program, command, model_bytes
from benchmarks.device.measuring import figures
from benchmarks.device.models import SIZES, Models
from benchmarks.device.process import Run, run
from benchmarks.device.speech import Spoken, some, write
from benchmarks.device.variants import Variant, variants
from benchmarks.measuring import MIB, in_turn
from benchmarks.packed.speech import DATA
from benchmarks.report import installed, machine, machine_lines, progress, quiet
from espnet_gq.files import write_json
from espnet_gq.native import available

OTHERS = ("torch int8", "onnx int8")
FILES = ("--json", "--plot", "--cache", "--data", "--program")
"""Options that do not affect the figures, except --data: the speech is recorded."""
TUNING = 6
"""Utterances that the rate of tokens is set on."""


def measure(
    models: Models, compared: List[Variant], spoken: Spoken, program: Path, args: Any
) -> Dict[str, Any]:
    """Measure a size: all variants take turns, in processes of their own."""
    models.make(compared)
    commands: Dict[Variant, List[str]] = {}
    not_run = []
    for variant in compared:
        try:
            commands[variant] = command(models, variant, program, args.threads)
        except NotRun as e:
            not_run.append(dict(what=str(variant), reason=str(e)))
    runs: Dict[Variant, List[Run]] = {variant: [] for variant in commands}
    for index in range(args.runs):
        for variant in in_turn(list(commands), index) if commands else ():
            progress(f"{models.name}: run {index + 1} of {args.runs}: {variant}")
            runs[variant].append(run(commands[variant], spoken.paths, args.threads))
    found = figures(runs, sum(spoken.seconds))
    for row in found:
        row["model_bytes"] = model_bytes(models, table.variant_of(row))
    return dict(
        what=models.size.what,
        parameters=models.parameters,
        tokens=models.size.tokens,
        chunk_ms=models.size.chunk_ms,
        variants=found,
        not_run=not_run,
    )


def run_all(args: argparse.Namespace, folder: Path) -> Dict[str, Any]:
    """Measure, print and write all sizes; return the figures."""
    program = args.program or build_program(folder / "build")
    described = machine("cpu")
    described["threads"] = args.threads
    described["versions"]["onnxruntime"] = installed("onnxruntime")
    spoken = write(args.data, folder / "speech", args.utterances, args.longest)
    print("\n".join(machine_lines(described)))
    print(f"speech    {spoken.what}")
    print(f"program   {program.stat().st_size / MIB:.2f} MiB, stripped", flush=True)
    found: Dict[str, Any] = dict(
        benchmark="device_recognition",
        command=options.command(*FILES),
        machine=described,
        conditions={k: v for k, v in vars(args).items() if f"--{k}" not in FILES},
        speech=spoken.what,
        program_bytes=program.stat().st_size,
        sizes={},
    )
    compared = variants(args.bits, args.espnet_bits, args.others)
    for name in args.sizes:
        models = Models(name, folder, some(spoken, TUNING))
        one = measure(models, compared, spoken, program, args)
        one["aims"] = table.aims(name, one, found["program_bytes"])
        print(
            f"\n{name}: {one['what']}, {one['parameters'] / 1e6:.1f} M parameters, "
            f"{one['tokens']} tokens, chunks of {one['chunk_ms']} ms\n"
        )
        print("\n".join(table.lines(one)))
        if one["aims"]:
            print("\n" + "\n".join(map(str, one["aims"])))
        one["aims"] = [aim.record() for aim in one["aims"]]
        found["sizes"][name] = one
        if args.json:
            write_json(args.json, found)
    return found


def _widths(text: str) -> List[int]:
    return [] if text == "none" else options.listed(int)(text)


def get_parser(quick: bool = False) -> argparse.ArgumentParser:
    """Return the command line's parser; `quick` selects the defaults of --quick."""
    parser = options.new_parser(__doc__, show_defaults=True)
    add = parser.add_argument
    usual = [name for name in SIZES if not name.startswith("tiny")]
    tiny = [name for name in SIZES if name.startswith("tiny")]
    names = options.listed(str)
    add(
        "--sizes",
        type=names,
        default=",".join(tiny if quick else usual),
        help=f"models to measure: some of {', '.join(SIZES)}",
    )
    options.add_bits(parser, "8,5" if quick else "8,6,5,4,3,2", "the engine's widths")
    add(
        "--espnet-bits",
        "--espnet_bits",
        type=_widths,
        default="5",
        help="widths of ESPnet's decoder on packed weights, or 'none'",
    )
    add(
        "--others",
        type=names,
        default=",".join(OTHERS),
        help=f"some of {', '.join(OTHERS)}, or 'none'",
    )
    add("--runs", type=int, default=1 if quick else 5, help="processes per variant")
    add("--threads", type=int, default=1, help="threads of every process")
    add("--data", type=Path, default=DATA, help="folder that contains LibriSpeech/")
    add(
        "--utterances",
        type=int,
        default=2 if quick else 12,
        help="maximum number of utterances, evenly spaced; 0: all",
    )
    add("--longest", type=float, default=5.0, help="longest utterance, seconds")
    add("--program", type=Path, help="a stripped gq-asr; default: built with CMake")
    add("--cache", type=Path, help="folder for the models; default: temporary")
    add("--quick", action="store_true", help="use tiny models and small defaults")
    add("--json", type=Path, help="file for the figures")
    add("--plot", type=Path, help="file for the plot")
    return parser


def parse(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Read and check the command line."""
    parser, args = options.parse_quick(get_parser, argv, ("runs", "threads"))
    args.others = [name for name in args.others if name != "none"]
    options.check_known(parser, "--sizes", args.sizes, list(SIZES))
    options.check_known(parser, "--others", args.others, OTHERS)
    for bits in args.espnet_bits:
        if not 1 <= bits <= 8:
            parser.error(f"--espnet-bits {bits}; allowed: 1 to 8")
    if args.utterances < 0:
        parser.error("--utterances; allowed: 0 (all) or more")
    if not Path("/proc/self/smaps_rollup").exists():
        parser.error("the benchmark needs Linux, which reports a process's memory")
    if not available():
        parser.error("the native library was not built: reinstall with a C++ compiler")
    return args


def main(argv: Optional[List[str]] = None) -> None:
    """Measure, print, write and plot."""
    args = parse(argv)
    quiet()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as temporary:
        found = run_all(args, args.cache or Path(temporary))
    if args.plot:
        reason = plot.plot(found, args.plot)
        print(f"\nplot: {args.plot if reason is None else reason}")


if __name__ == "__main__":
    main()
