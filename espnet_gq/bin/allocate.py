"""Choose the bit width of every tensor under a budget, and write it as a gq_conf.

Reads the file of espnet-gq sensitivity. With --base the output is that training config
with the chosen widths; without, the three gq_conf to paste into one.
"""

import argparse
from pathlib import Path
from typing import Dict, List, Optional, Sequence

import yaml

from espnet_gq.analysis.allocation import (
    KINDS,
    Allocation,
    allocate,
    allocation_of,
    gq_confs,
    merge,
    split_name,
)
from espnet_gq.analysis.sensitivity import Sensitivity
from espnet_gq.analysis.tables import markdown
from espnet_gq.bin._common import Parser, execute, number, read_config, size
from espnet_gq.files import write_text


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser("allocate", __doc__)
    parser.add_argument(
        "sensitivity", metavar="SENSITIVITY.json", help="the measured costs"
    )
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument(
        "--effective_bits", type=number, help="mean bits per quantized weight"
    )
    budget.add_argument(
        "--max_size", type=size, help="size of the whole packed file, such as 6MB"
    )
    budget.add_argument(
        "--max_loss",
        type=number,
        help="largest summed cost, for the smallest file",
    )
    parser.add_argument(
        "--by",
        choices=KINDS,
        default=KINDS[0],
        help="the cost that counts: the second-order estimate, or the magnitude of the "
        "measured loss difference, the noisier of the two",
    )
    parser.add_argument(
        "--default_bits",
        type=int,
        choices=range(1, 9),
        help="width without a rule; default: the most common one of each part",
    )
    parser.add_argument(
        "--base",
        type=Path,
        help="training config with quantized classes; bits and rules of its gq_conf "
        "are replaced",
    )
    parser.add_argument("--output", type=Path, required=True, help="YAML to write")
    return parser


def table(sensitivity: Sensitivity, chosen: Allocation) -> str:
    """Return the number of tensors of each part at each width, as a Markdown table."""
    parts: Dict[str, List] = {}
    for tensor in sensitivity.tensors:
        part = split_name(tensor.name)[0].removesuffix("_conf")
        parts.setdefault(part, []).append(tensor)
    parts["all"] = list(sensitivity.tensors)
    widths = sorted(set(chosen.bits.values()))
    header = ["part", "weights", *(f"{b} bits" for b in widths), "mean bits", "cost"]
    rows = []
    for part, tensors in parts.items():
        bits = [chosen.bits[t.name] for t in tensors]
        numel = sum(t.numel for t in tensors)
        mean = sum(t.numel * b for t, b in zip(tensors, bits)) / numel
        cost = sum(chosen.costs[t.name] for t in tensors)
        counts = [str(bits.count(b)) for b in widths]
        rows.append([part, f"{numel:,}", *counts, f"{mean:.2f}", f"{cost:.4g}"])
    return markdown(header, rows)


def _summary(chosen: Allocation) -> str:
    return (
        f"{chosen.effective_bits:.3f} effective bits, packed file "
        f"{chosen.file_bytes / 1e6:.3f} MB, cost {chosen.cost:.4g}"
    )


def _uniform(sensitivity: Sensitivity, by: str) -> List[Allocation]:
    """Return the allocations with one width, for comparison."""
    tensors = sensitivity.tensors
    widths = set.intersection(*(set(t.costs) for t in tensors))
    return [allocation_of(sensitivity, [b] * len(tensors), by) for b in sorted(widths)]


def run(args: argparse.Namespace) -> None:
    """Choose, write and print.

    Raises:
        OSError, ValueError: If an input cannot be used.
    """
    base = read_config(args.base) if args.base else None
    sensitivity = Sensitivity.read(args.sensitivity)
    try:
        chosen = allocate(
            sensitivity, args.by, args.effective_bits, args.max_size, args.max_loss
        )
    except ValueError as e:
        raise ValueError(f"{args.sensitivity}: {e}") from None
    confs = gq_confs(chosen.bits, args.default_bits)
    if base is not None:
        try:
            confs = merge(base, confs, sensitivity.task)
        except ValueError as e:
            raise ValueError(f"{args.base}: {e}") from None
    head = f"# {_summary(chosen)} (by {args.by})\n"
    write_text(args.output, head + yaml.safe_dump(confs, sort_keys=False))
    print(table(sensitivity, chosen))
    print(f"\n{_summary(chosen)} (float loss {sensitivity.base_loss:.4g})")
    for one in _uniform(sensitivity, args.by):
        print(f"all tensors alike: {_summary(one)}")
    print(f"wrote {args.output}")


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    execute(get_parser(), run, cmd)


if __name__ == "__main__":
    main()
