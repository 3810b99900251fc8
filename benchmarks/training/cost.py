"""Step time and peak memory of quantization-aware training relative to float training.

    python -m benchmarks.training.cost --json training_cost.json

See benchmarks/README.md.
"""

import argparse
import gc
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import torch

from benchmarks import options
from benchmarks.measuring import MIB, in_new_process, in_turn, resident, spread
from benchmarks.report import machine, machine_lines, progress, quiet, spread_cell
from benchmarks.training.profile import profile, profile_rows
from benchmarks.training.step import PHASES, Trainee, Workload
from benchmarks.training.variants import (
    METHODS,
    TINY,
    Size,
    Variant,
    build,
    check_same_weights,
    import_packages,
    quantized_size,
)
from espnet_gq.analysis.tables import markdown
from espnet_gq.files import write_json

AIMS = {"8x10": (1.10, 1.05), "4x8": (1.20, None)}
"""Target ratios of GQ to float: time, memory."""


# --- time ----------------------------------------------------------------------------


def time_steps(
    trainees: List[Trainee], workload: Workload, size: Size, rounds: int, warmup: int
) -> Dict[Variant, List[Dict[str, float]]]:
    """Time the phases of each variant's steps, interleaved by round.

    Every round uses a new batch for all variants and starts with another variant.
    """
    found: Dict[Variant, List[Dict[str, float]]] = {t.variant: [] for t in trainees}
    for index in range(-warmup, rounds):
        batch = workload.batch(index + warmup, size.vocabulary, trainees[0].device)
        gc.collect()
        for trainee in in_turn(trainees, index):
            seconds = trainee.step(batch, index + warmup)
            if index >= 0:
                found[trainee.variant].append(seconds)
        what = f"round {index + 1} of {rounds}" if index >= 0 else "warm-up"
        progress(f"{workload}: {what}")
    return found


def _total(seconds: Dict[str, float]) -> float:
    return sum(seconds[phase] for phase in PHASES)


def time_figures(
    steps: List[Dict[str, float]], float_steps: List[Dict[str, float]]
) -> Dict[str, Any]:
    """Return a variant's step times and their ratios to float in the same round."""
    ratios = [_total(a) / _total(b) for a, b in zip(steps, float_steps)]
    return dict(
        seconds=spread([_total(s) for s in steps]),
        time_ratio=spread(ratios),
        phase_seconds={p: statistics.median(s[p] for s in steps) for p in PHASES},
    )


# --- memory --------------------------------------------------------------------------


def memory_of(
    variant: Variant,
    workload: Workload,
    size: Size,
    device: str,
    threads: int,
    steps: int,
) -> Tuple[int, int]:
    """Return bytes in use before the model is built, and at the peak.

    To be called in a new process. The first figure is taken after a step of a tiny
    model, when every library has loaded its lazy parts. On a GPU both figures count
    tensors only.
    """
    quiet()
    torch.set_num_threads(threads)
    import_packages(variant)
    Trainee(variant, TINY, device).step(
        Workload(1, 1).batch(0, TINY.vocabulary, device), 0
    )
    gc.collect()
    before = resident("VmRSS") if device == "cpu" else torch.cuda.memory_allocated()
    trainee = Trainee(variant, size, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for seed in range(steps):
        trainee.step(workload.batch(seed, size.vocabulary, device), seed)
    peak = resident("VmHWM") if device == "cpu" else torch.cuda.max_memory_allocated()
    return before, peak


def measure_memory(
    variant: Variant, workload: Workload, size: Size, args: argparse.Namespace
) -> Dict[str, Any]:
    """Measure the memory of one variant, each time in a new process."""
    found = []
    for _ in range(args.memory_runs):
        job = (variant, workload, size, args.device, args.threads, args.memory_steps)
        found.append(in_new_process(memory_of, *job))
    progress(f"{workload}: memory of {variant}")
    return dict(
        peak_bytes=spread([peak for _, peak in found]),
        training_bytes=spread([peak - before for before, peak in found]),
    )


def add_memory_ratios(row: Dict[str, Any], float_row: Dict[str, Any]) -> None:
    """Add the ratios of the medians to those of float."""
    for key in ("peak_bytes", "training_bytes"):
        ratio = row[key]["median"] / float_row[key]["median"]
        row[key.replace("bytes", "ratio")] = ratio


# --- the report ----------------------------------------------------------------------


def run_workload(
    workload: Workload, variants: List[Variant], size: Size, args: argparse.Namespace
) -> List[Dict[str, Any]]:
    """Measure memory, then time, of every variant; return one dict of figures each."""
    rows: List[Dict[str, Any]] = []
    for variant in variants:
        row: Dict[str, Any] = dict(method=variant.method, bits=variant.bits)
        row["note"] = variant.missing()
        if row["note"] is None and args.memory_runs:
            row.update(measure_memory(variant, workload, size, args))
            add_memory_ratios(row, (rows or [row])[0])
        rows.append(row)
    trainees = [Trainee(v, size, args.device) for v in variants if not v.missing()]
    for trainee in trainees[1:]:
        check_same_weights(trainees[0].model, trainee.model)
    steps = time_steps(trainees, workload, size, args.rounds, args.warmup)
    by_variant = dict(zip(variants, rows))
    for trainee in trainees:
        row = by_variant[trainee.variant]
        row.update(time_figures(steps[trainee.variant], steps[variants[0]]))
        row["first_loss"] = trainee.losses[0]
        row["quantized_tensors"], row["quantized_weights"] = quantized_size(
            trainee.model
        )
        if args.profile and trainee.variant.method == "gq":
            progress(f"{workload}: profile of {trainee.variant}")
            batches = [
                workload.batch(seed, size.vocabulary, args.device)
                for seed in range(args.rounds)
            ]
            row["profile"] = profile(trainee.step, batches)
    return rows


HEADER = (
    "variant",
    "tensors",
    "weights M",
    "step s (min..max)",
    "x float (min..max)",
    "peak MiB",
    "x float",
    "training MiB",
    "x float",
    "loss",
)


def _row_cells(row: Dict[str, Any]) -> List[str]:
    name = str(Variant(row["method"], row["bits"]))
    if row["note"]:
        return [name] + ["-"] * (len(HEADER) - 1)
    memory = [""] * 4
    if "peak_bytes" in row:
        memory = [
            f"{row['peak_bytes']['median'] / MIB:,.0f}",
            f"{row['peak_ratio']:.3f}",
            f"{row['training_bytes']['median'] / MIB:,.0f}",
            f"{row['training_ratio']:.3f}",
        ]
    return [
        name,
        str(row["quantized_tensors"]),
        f"{row['quantized_weights'] / 1e6:.1f}",
        spread_cell(row["seconds"]),
        spread_cell(row["time_ratio"]),
        *memory,
        f"{row['first_loss']:.2f}",
    ]


def _phase_table(rows: List[Dict[str, Any]]) -> str:
    cells = [
        [str(Variant(row["method"], row["bits"]))]
        + [f"{1e3 * row['phase_seconds'][p]:,.1f}" for p in PHASES]
        for row in rows
        if not row["note"]
    ]
    return markdown(["ms per step (median)", *PHASES], cells)


def _note_lines(rows: List[Dict[str, Any]]) -> List[str]:
    notes = {row["method"]: row["note"] for row in rows if row["note"]}
    return [f"{method} is {note}" for method, note in notes.items()]


def _aim_lines(workload: str, rows: List[Dict[str, Any]]) -> List[str]:
    """Compare GQ's ratios with their targets."""
    lines = []
    time_aim, memory_aim = AIMS.get(workload, (None, None))
    for row in rows:
        if row["method"] != "gq" or time_aim is None:
            continue
        line = f"gq {row['bits']} bits: {row['time_ratio']['median']:.3f} x time"
        line += f" (target: {time_aim:.2f})"
        if memory_aim and "peak_ratio" in row:
            line += f", {row['peak_ratio']:.3f} x peak memory"
            line += f" (target: {memory_aim:.2f})"
        lines.append(line)
    return lines


def print_workload(workload: str, rows: List[Dict[str, Any]]) -> None:
    """Print the tables of one workload."""
    print(f"\n{workload} (utterances x seconds)\n")
    print(markdown(HEADER, [_row_cells(row) for row in rows]))
    for line in _note_lines(rows) + _aim_lines(workload, rows):
        print(line)
    profiled = [row for row in rows if "profile" in row]
    if profiled:
        print("\n" + _phase_table(rows))
    for row in profiled:
        print(f"\nInside the quantizers at {row['bits']} bits\n")
        print(markdown(*profile_rows(row["profile"], row["quantized_weights"])))


def get_parser(quick: bool = False) -> argparse.ArgumentParser:
    """Return the command line's parser; `quick` selects the defaults of --quick."""
    parser = options.new_parser(__doc__, show_defaults=True)
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add(
        "--workloads",
        type=options.listed(Workload.parse),
        default="2x2" if quick else "8x10,4x8",
        help="batch sizes as utterances x seconds",
    )
    add(
        "--variants",
        type=options.listed(str),
        default="float,gq" if quick else ",".join(METHODS),
        help=f"some of {', '.join(METHODS)}; float always runs",
    )
    options.add_bits(
        parser, "5" if quick else "5,8", "bit widths of the quantized variants"
    )
    rounds, runs, threads = (2, 1, 1) if quick else (10, 3, torch.get_num_threads())
    add("--rounds", type=int, default=rounds, help="timed steps per variant")
    add("--warmup", type=int, default=1, help="untimed steps before them")
    add("--memory-runs", type=int, default=runs, help="processes per variant; 0: none")
    add("--memory-steps", type=int, default=4, help="steps per process")
    add("--threads", type=int, default=threads, help="threads of PyTorch")
    add("--profile", action="store_true", help="profile GQ's quantizers")
    add("--quick", action="store_true", help="use a tiny model and small defaults")
    add("--json", type=Path, help="file for the figures")
    return parser


def parse(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Read and check the command line."""
    least_one = ("rounds", "memory_steps", "threads")
    parser, args = options.parse_quick(get_parser, argv, least_one)
    options.check_known(parser, "--variants", args.variants, METHODS)
    options.check_device(parser, args.device)
    return args


def main(argv: Optional[List[str]] = None) -> None:
    """Measure, print and write."""
    args = parse(argv)
    quiet()
    torch.set_num_threads(args.threads)
    import_packages(Variant("float"))
    size = TINY if args.quick else Size()
    variants = [Variant("float")]
    for method in (m for m in METHODS if m in args.variants and m != "float"):
        variants += [Variant(method, bits) for bits in args.bits]
    parameters = sum(p.numel() for p in build(variants[0], size, "cpu").parameters())
    figures: Dict[str, Any] = dict(
        benchmark="training_cost",
        command=options.command(),
        machine=machine(args.device),
        model=dict(asdict(size), parameters=parameters),
        conditions={k: v for k, v in vars(args).items() if k not in ("json",)},
    )
    figures["conditions"]["workloads"] = [str(w) for w in args.workloads]
    print("\n".join(machine_lines(figures["machine"])))
    print(
        f"model     Conformer, {parameters / 1e6:.2f} M parameters; {args.rounds} "
        f"rounds after {args.warmup}; Adam, float32, on {args.device}"
    )
    figures["workloads"] = {}
    for workload in args.workloads:
        rows = run_workload(workload, variants, size, args)
        print_workload(str(workload), rows)
        figures["workloads"][str(workload)] = rows
        if args.json:
            write_json(args.json, figures)


if __name__ == "__main__":
    main()
