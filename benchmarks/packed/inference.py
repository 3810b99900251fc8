"""Packed CPU inference compared with float32 and PyTorch's dynamic int8.

    python -m benchmarks.packed.inference --json packed_inference.json

See benchmarks/README.md.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

import torch

from benchmarks import options
from benchmarks.measuring import MIB
from benchmarks.packed import kernels, latency, memory, plot, stack, steps
from benchmarks.packed.models import SIZES, describe, import_packages
from benchmarks.packed.speech import DATA, Utterance, utterances
from benchmarks.packed.variants import Aim, Variant, variants
from benchmarks.report import machine, machine_lines, quiet
from espnet_gq.files import write_json
from espnet_gq.native import available, instruction_sets
from espnet_gq.native.library import MODES

PARTS = ("kernels", "stack", "models", "latency", "memory")
FILES = ("--json", "--plot", "--cache", "--data")
"""Options that do not affect the figures, except --data: the speech is recorded."""


class Run:
    """A run of the benchmark: the compared variants and the figures so far.

    Args:
        args: The command line.
        cache: Folder of the models' files.
    """

    def __init__(self, args: argparse.Namespace, cache: Path):
        self.args, self.cache = args, cache
        self.compared: List[Variant] = variants(args.bits, args.modes)
        self.figures = read_figures(args.json)
        self.spoken: List[Utterance] = []
        self.speech = ""

    def start(self, part: str) -> Dict[str, Any]:
        """Add a part with its command, machine and options to the figures."""
        found = dict(
            command=options.command(*FILES),
            machine=describe_machine(),
            conditions={
                k: v for k, v in vars(self.args).items() if f"--{k}" not in FILES
            },
        )
        self.figures["parts"][part] = found
        return found

    def write(self) -> None:
        """Write the figures so far."""
        if self.args.json:
            write_json(self.args.json, self.figures)

    def finish(self, part: str, found: Dict[str, Any], aims: List[Aim]) -> None:
        """Print a part's targets and add them to the figures, and write the figures."""
        found["aims"] = [aim.record() for aim in aims]
        if aims:
            print("\n" + "\n".join(str(aim) for aim in aims), flush=True)
        self.write()

    def listen(self) -> None:
        """Read the utterances on the first call, and print what they are."""
        if not self.spoken:
            args = self.args
            self.spoken, self.speech = utterances(args.data, args.utterances)
        print(f"utterances: {self.speech}")

    # --- the parts -------------------------------------------------------------------

    def kernels(self) -> None:
        """Time matrix products."""
        args, part = self.args, self.start("kernels")
        print(f"\n## kernels\n\n{args.rounds} rounds", flush=True)
        cases = kernels.measure(self.compared, args.threads, args.rounds, args.quick)
        part["cases"] = cases
        part["notes"] = kernels.notes(cases)
        print("\n".join([*kernels.lines(cases), *part["notes"]]))
        self.finish("kernels", part, kernels.aims(cases))

    def stack(self) -> None:
        """Time a step of LSTM layers."""
        args, part = self.args, self.start("stack")
        print("\n## stack", flush=True)
        found = stack.measure(self.compared, args.rounds, args.quick)
        part.update(found)
        print("\n".join(stack.lines(found)))
        self.finish("stack", part, stack.aims(found))

    def models(self) -> None:
        """Time steps and utterances."""
        args = self.args
        seconds = 1.0 if args.quick else steps.UTTERANCE_SECONDS
        rounds = args.rounds, args.utterance_rounds
        self._sizes(
            "models",
            args.sizes,
            lambda name: steps.measure(
                name, self.compared, self.cache, *rounds, seconds
            ),
            steps.lines,
        )

    def latency(self) -> None:
        """Measure latency of chunked decoding on a simulated clock."""
        args = self.args
        streaming = [name for name in args.sizes if SIZES[name].streams]
        self._sizes(
            "latency",
            streaming,
            lambda name: latency.measure(
                name, self.compared, self.cache, self.spoken, args.chunk_ms
            ),
            latency.lines,
            latency.aims,
            left_out=[name for name in args.sizes if name not in streaming],
        )

    def memory(self) -> None:
        """Measure the memory of loading and decoding in new processes."""
        args = self.args
        self._sizes(
            "memory",
            args.sizes,
            lambda name: memory.measure(
                *(name, self.compared, self.cache, self._typical(), args.chunk_ms),
                *(args.threads, args.memory_runs),
            ),
            memory.lines,
            memory.aims,
        )

    def _typical(self) -> Utterance:
        """Return the utterance of median length."""
        return sorted(self.spoken, key=lambda u: u.seconds)[len(self.spoken) // 2]

    def _sizes(
        self,
        name_of_part: str,
        names: List[str],
        measure: Callable[[str], Dict[str, Any]],
        lines: Callable[[Dict[str, Any]], List[str]],
        aims: Callable[[str, Dict[str, Any]], List[Aim]] = lambda name, found: [],
        left_out: Sequence[str] = (),
    ) -> None:
        """Measure, print and write a part for one size after another."""
        part = self.start(name_of_part)
        print(f"\n## {name_of_part}\n", flush=True)
        if name_of_part != "models":
            self.listen()
            part["speech"] = self.speech
        if left_out:
            print(f"left out (needs the whole utterance): {', '.join(left_out)}")
        part["sizes"], reached = {}, []
        for name in names:
            print("\n" + describe(name, self.cache)[1], flush=True)
            part["sizes"][name] = found = measure(name)
            print("\n".join(lines(found)), flush=True)
            reached += aims(name, found)
            self.write()
        self.finish(name_of_part, part, reached)


def read_figures(path: Optional[Path]) -> Dict[str, Any]:
    """Read the figures of earlier runs; empty if there is no file.

    Raises:
        ValueError: If the file holds something else.
    """
    empty: Dict[str, Any] = dict(benchmark="packed_inference", parts={})
    if path is None or not path.exists():
        return empty
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["benchmark"] == empty["benchmark"] and isinstance(
            found["parts"], dict
        ):
            return found
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(f"{path} holds no figures of this benchmark; allowed: a new file")


def describe_machine() -> Dict[str, Any]:
    """Describe hardware and versions, on which the figures depend."""
    return dict(
        machine("cpu"),
        packed_instruction_set=instruction_sets()[0] if available() else None,
        torch_int8_engine=torch.backends.quantized.engine,
        cache_bytes=kernels.cache_bytes(),
    )


def print_machine() -> None:
    """Print the machine and the versions."""
    found = describe_machine()
    print("\n".join(machine_lines(found)))
    caches = ", ".join(
        f"{level} {size / MIB:g} MiB" for level, size in found["cache_bytes"].items()
    )
    print(f"packed    {found['packed_instruction_set'] or 'not built'}")
    print(f"torch     dynamic int8 by {found['torch_int8_engine']}")
    print(f"caches    {caches or 'unknown'}", flush=True)


def get_parser(quick: bool = False) -> argparse.ArgumentParser:
    """Return the command line's parser; `quick` selects the defaults of --quick."""
    parser = options.new_parser(__doc__, show_defaults=True)
    add = parser.add_argument
    usual = [name for name in SIZES if not name.startswith("tiny")]
    for name, allowed, default, of in (
        ("parts", PARTS, PARTS, "parts to run"),
        ("sizes", SIZES, ["tiny"] if quick else usual, "models to measure"),
        ("modes", MODES, ("int8", "exact"), "modes of packed layers"),
    ):
        add(
            f"--{name}",
            type=options.listed(str),
            default=",".join(default),
            help=f"{of}: some of {', '.join(allowed)}",
        )
    widths = "8,5" if quick else "8,6,5,4,2,1"
    options.add_bits(parser, widths, "bit widths of the packed variants")
    rounds, whole, runs = (2, 1, 1) if quick else (20, 7, 2)
    threads = 1 if quick else torch.get_num_threads()
    add("--threads", type=int, default=threads, help="threads of PyTorch and kernels")
    add("--rounds", type=int, default=rounds, help="rounds of products and steps")
    add("--utterance-rounds", type=int, default=whole, help="rounds of utterances")
    add("--memory-runs", type=int, default=runs, help="processes per variant")
    add("--data", type=Path, default=DATA, help="folder that contains LibriSpeech/")
    add(
        "--utterances",
        type=int,
        default=2 if quick else 0,
        help="maximum number of utterances, evenly spaced; 0: all",
    )
    add("--chunk-ms", "--chunk_ms", type=int, default=160, help="length of a chunk")
    add("--cache", type=Path, help="folder for the models; default: temporary")
    add("--quick", action="store_true", help="use a tiny model and small defaults")
    add("--json", type=Path, help="file for the figures; its other parts are kept")
    add("--plot", type=Path, help="file for the plot (PNG)")
    return parser


def parse(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Read and check the command line."""
    counts = ("rounds", "utterance_rounds", "memory_runs", "threads", "chunk_ms")
    parser, args = options.parse_quick(get_parser, argv, counts)
    for name, allowed in (("parts", PARTS), ("sizes", SIZES), ("modes", MODES)):
        options.check_known(parser, f"--{name}", getattr(args, name), list(allowed))
    if args.utterances < 0:
        parser.error("--utterances; allowed: 0 (all) or more")
    if "memory" in args.parts and not Path("/proc/self/status").exists():
        parser.error("--parts memory needs Linux, which reports resident memory")
    if not available():
        parser.error("the packed kernels were not built: reinstall with a C++ compiler")
    try:
        read_figures(args.json)
    except ValueError as e:
        parser.error(f"--json {e}")
    return args


def main(argv: Optional[List[str]] = None) -> None:
    """Measure, print, write and plot."""
    args = parse(argv)
    quiet()
    torch.set_num_threads(args.threads)
    import_packages()
    print_machine()
    with tempfile.TemporaryDirectory() as temporary:
        run = Run(args, args.cache or Path(temporary))
        for part in (p for p in PARTS if p in args.parts):
            getattr(run, part)()
    if args.plot:
        reason = plot.plot(run.figures["parts"], args.plot)
        print(f"\nplot: {args.plot if reason is None else reason}")


if __name__ == "__main__":
    main()
