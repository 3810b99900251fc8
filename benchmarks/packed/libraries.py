"""Two builds of the native library side by side: the same results, and how fast.

    python -m benchmarks.packed.libraries OLD.so --check 200 --time

OLD.so is the library of an earlier commit (`setup.py build_ext --inplace` in a worktree
of it); the new one is that of this checkout. `--check` compares random products and
recurrences on every instruction set with 1 and 2 threads: the same bits in mode int8,
within 1e-6 of the sum of magnitudes in mode exact. `--time` interleaves both.
"""

import argparse
import ctypes
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Sequence, Tuple

import numpy as np
import torch

from benchmarks import options
from benchmarks.measuring import interleave, seconds_clock
from benchmarks.packed.kernels import cache_bytes
from espnet_gq.analysis.tables import markdown
from espnet_gq.native import library
from espnet_gq.native.library import MODES, Weight, torch_team
from espnet_gq.runtime.layout import planes_size

CYCLED_BYTES = 160_000_000
"""Weights that take turns fill this at one byte per weight, so that none is cached."""
TOLERANCE = 1e-6
"""Largest difference in mode exact, relative to the sum of the magnitudes."""

_p, _n, _i = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_w = ctypes.POINTER(Weight)
SIGNATURES = dict(
    gq_isa_name=[_i],
    gq_linear=[_w, _p, _n, _p, _i, _i, _i],
    gq_recurrence=[_i, _w, _w, _n, _p, _p, _n, _i, _p, _p, _p, _n, _i, _i, _i],
)
"""The functions that every build has had."""


def open_library(path: Path) -> ctypes.CDLL:
    """Return the library of a file, as far as `SIGNATURES` goes."""
    opened = ctypes.CDLL(str(path.resolve()))
    for name, arguments in SIGNATURES.items():
        getattr(opened, name).argtypes = arguments
    opened.gq_isa_name.restype = ctypes.c_char_p
    if hasattr(opened, "gq_set_team"):
        opened.gq_set_team.argtypes, opened.gq_set_team.restype = [_p], None
        opened.gq_set_team(torch_team())
    return opened


class Matrix:
    """A random packed weight and its C structure.

    Args:
        rows, cols, bits: Its sizes.
        copies: Weights of these sizes that take turns.
        scales: Number of scales.
        numbers: Where the values come from.
    """

    def __init__(
        self,
        rows: int,
        cols: int,
        bits: int,
        copies: int = 1,
        scales: int = 1,
        numbers: np.random.Generator = np.random.default_rng(0),
    ):
        size = planes_size(rows, cols, bits)
        self.planes = numbers.integers(0, 256, (copies, size), dtype=np.uint8)
        self.codebook = numbers.standard_normal(2**bits, dtype=np.float32)
        self.scale = 0.05 + numbers.random(scales, dtype=np.float32)
        self.bias = numbers.standard_normal(rows, dtype=np.float32)
        self.rows, self.cols = rows, cols
        self.handles = [
            Weight(
                *(of.ctypes.data for of in (one, self.codebook, self.scale, self.bias)),
                *(rows, cols, scales, bits),
            )
            for one in self.planes
        ]


# --- the same results -----------------------------------------------------------------


class Checked(NamedTuple):
    """How many results were compared, and the largest difference in mode exact."""

    values: int = 0
    difference: float = 0.0


def _compare(int8: bool, old: np.ndarray, new: np.ndarray, what: str) -> float:
    """Return the relative difference.

    Raises:
        SystemExit: If it is too large.
    """
    if np.array_equal(old.view(np.int32), new.view(np.int32)):
        return 0.0
    largest = np.abs(old).max(-1, keepdims=True)
    difference = float((np.abs(old - new) / np.maximum(largest, 1e-30)).max())
    if int8 or not difference <= TOLERANCE:
        raise SystemExit(f"{what}: results differ by {difference:.2g}")
    return difference


def _random_sizes(numbers: np.random.Generator) -> Tuple[int, int, int]:
    edges = np.array([1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 512, 513, 1024])
    rows, cols = (
        int(numbers.choice(edges) if numbers.random() < 0.6 else numbers.integers(1, n))
        for n in (400, 1200)
    )
    batch = int(numbers.choice([1, 2, 3, 4, 5, 8, 9, 16, 23, 64, 72, 80, 129, 300]))
    return rows, cols, batch


def check_products(
    old: ctypes.CDLL, new: ctypes.CDLL, sets: Sequence[Tuple[int, int]], rounds: int
) -> Checked:
    """Compare random products on every instruction set with 1 and 2 threads."""
    numbers = np.random.default_rng(1)
    values, most = 0, 0.0
    for _ in range(rounds):
        rows, cols, batch = _random_sizes(numbers)
        bits = int(numbers.integers(1, 9))
        scales = rows if numbers.random() < 0.4 else 1
        kept = Matrix(rows, cols, bits, 1, scales, numbers)
        w = kept.handles[0]
        # Of one sign: no cancellation, so that differences are relative to the sum.
        np.abs(kept.codebook, out=kept.codebook)
        np.abs(kept.bias, out=kept.bias)
        x = numbers.random((batch, cols), dtype=np.float32)
        for (i, j), (name, mode) in (
            (s, m) for s in sets for m in MODES.items() if cols <= 2**16
        ):
            for threads in (1, 2):
                made = np.empty((2, batch, rows), dtype=np.float32)
                for lib, isa, out in ((old, i, made[0]), (new, j, made[1])):
                    ref = ctypes.byref(w)
                    args = x.ctypes.data, batch, out.ctypes.data, mode, threads, isa
                    if lib.gq_linear(ref, *args):
                        raise SystemExit(f"gq_linear refused ({rows}, {cols})")
                what = f"({rows}, {cols}) of {bits} bits, batch {batch}, {name}, "
                what += f"{new.gq_isa_name(j).decode()}, {threads} threads"
                most = max(most, _compare(name == "int8", made[0], made[1], what))
                values += made[0].size
    return Checked(values, most)


def check_recurrences(
    old: ctypes.CDLL, new: ctypes.CDLL, sets: Sequence[Tuple[int, int]], rounds: int
) -> Checked:
    """Compare random LSTM and GRU layers, of a few steps: errors do not grow."""
    numbers = np.random.default_rng(2)
    values, most = 0, 0.0
    for _ in range(rounds):
        cell, units = int(numbers.integers(2)), int(numbers.integers(1, 200))
        batch, steps = int(numbers.choice([1, 2, 5, 9, 20])), int(
            numbers.integers(1, 4)
        )
        gates = (4 - cell) * units
        bits = int(numbers.integers(1, 9))
        kept = Matrix(gates, units, bits, 1, 1, numbers)
        kept.scale *= 0.3 / units**0.5
        given = numbers.standard_normal((steps * batch, gates), dtype=np.float32)
        states = numbers.standard_normal((2, batch, units), dtype=np.float32)
        active = np.full(steps, batch, dtype=np.int64)
        for (i, j), (name, mode) in ((s, m) for s in sets for m in MODES.items()):
            for threads in (1, 2):
                results = []
                for lib, isa in ((old, i), (new, j)):
                    h, c = states.copy()
                    out = np.empty((steps * batch, units), dtype=np.float32)
                    if lib.gq_recurrence(
                        *(cell, ctypes.byref(kept.handles[0]), None, units),
                        *(given.ctypes.data, active.ctypes.data, steps, 0),
                        *(h.ctypes.data, c.ctypes.data, out.ctypes.data, units),
                        *(mode, threads, isa),
                    ):
                        raise SystemExit(f"gq_recurrence refused {units} units")
                    results.append(np.concatenate([out, h, c]))
                what = f"cell {cell} of {units} units, {bits} bits, batch {batch}, "
                what += f"{name}, {new.gq_isa_name(j).decode()}, {threads} threads"
                most = max(most, _compare(name == "int8", results[0], results[1], what))
                values += results[0].size
    return Checked(values, most)


# --- time -----------------------------------------------------------------------------


class Shape(NamedTuple):
    """A product that is timed; `beyond`: weights take turns, so that none is cached."""

    rows: int
    cols: int
    batch: int
    beyond: bool


def timed(
    lib: ctypes.CDLL, w: Matrix, x: np.ndarray, mode: int, threads: int, seconds: float
) -> Callable[[], float]:
    """Return a function that measures the seconds of a product."""
    out = np.empty((len(x), w.rows), dtype=np.float32)
    data, result, m = _p(x.ctypes.data), _p(out.ctypes.data), len(x)
    handles = [ctypes.byref(handle) for handle in w.handles]
    call, size, at = lib.gq_linear, len(handles), 0
    clock = seconds_clock(threads)

    def run(count: int) -> float:
        nonlocal at
        call(handles[at - 1], data, m, result, mode, threads, 0)
        start = clock()
        for k in range(at, at + count):
            call(handles[k % size], data, m, result, mode, threads, 0)
        took = (clock() - start) / count
        at = (at + count) % size
        return took

    least = min(run(2) for _ in range(3))
    count = max(2, min(2000, int(seconds / least)))
    return lambda: run(count) if out.size else 0.0


def low_quartile(values: Sequence[float]) -> float:
    """Return the first quartile: on a shared machine the rest measures its load."""
    return sorted(values)[len(values) // 4]


def measure(
    libraries: Dict[str, ctypes.CDLL],
    shapes: Sequence[Shape],
    bits: Sequence[int],
    args: argparse.Namespace,
) -> List[List[str]]:
    """Return the rows of the table: microseconds, and new / old."""
    rows = []
    for shape in shapes:
        x = np.random.default_rng(0).standard_normal((shape.batch, shape.cols))
        x = x.astype(np.float32)
        for b in bits:
            copies = 1
            if shape.beyond:
                amount = max(CYCLED_BYTES, 5 * max(cache_bytes().values(), default=0))
                copies = -(-amount // (shape.rows * shape.cols))
            w = Matrix(shape.rows, shape.cols, b, copies)
            for name in args.modes:
                calls = {
                    key: timed(lib, w, x, MODES[name], args.threads, args.seconds)
                    for key, lib in libraries.items()
                }
                found = interleave(calls, args.rounds)
                where = "beyond" if shape.beyond else "cached"
                first = {key: low_quartile(values) for key, values in found.items()}
                ratios = sorted(n / o for n, o in zip(found["new"], found["old"]))
                middle = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
                rows.append(
                    [
                        *(f"{shape.rows}x{shape.cols} {where}", str(shape.batch)),
                        *(str(b), name, f"{1e6 * first['old']:.1f}"),
                        f"{1e6 * first['new']:.1f}",
                        f"{first['new'] / first['old']:.3f}",
                        f"{middle[0]:.2f}..{middle[1]:.2f}",
                    ]
                )
                print(" | ".join(rows[-1]), flush=True)
    return rows


def parse_shape(text: str) -> Shape:
    """Return the shape of ROWSxCOLSxBATCH, with a final + beyond the caches."""
    rows, cols, batch = (int(n) for n in text.rstrip("+").split("x"))
    return Shape(rows, cols, batch, text.endswith("+"))


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = options.new_parser(__doc__, show_defaults=True)
    add = parser.add_argument
    add("old", type=Path, help="the other build")
    add("--new", type=Path, help="a build in place of this checkout's")
    add("--check", type=int, default=0, help="random products, and recurrences")
    add("--time", action="store_true", help="measure")
    default = "1024x512x1,1024x1024x1,1024x1024x1+,4096x1024x1+,1024x1024x16,"
    default += "1024x1024x64,1024x1024x256,1024x1024x512"
    add("--shapes", default=default, help="ROWSxCOLSxBATCH, + beyond the caches")
    add("--modes", type=options.listed(str), default="int8,exact", help="modes")
    add("--bits", type=options.listed(int), default="8,5,4,2,1", help="bit widths")
    add("--threads", type=int, default=1, help="threads of a product")
    add("--rounds", type=int, default=40, help="rounds")
    add("--seconds", type=float, default=0.001, help="time of one measurement")
    return parser


def main() -> None:
    """Check, then measure."""
    args = get_parser().parse_args()
    torch.set_num_threads(args.threads)
    built = args.new or next(Path(library.__file__).parent.glob("_native*.so"))
    old, new = (open_library(path) for path in (args.old, built))
    names = [
        [lib.gq_isa_name(i).decode() for i in range(lib.gq_isa_count())]
        for lib in (old, new)
    ]
    sets = [(names[0].index(n), j) for j, n in enumerate(names[1]) if n in names[0]]
    if args.check:
        for what, check in (
            ("products", check_products),
            ("recurrences", check_recurrences),
        ):
            found = check(old, new, sets, args.check)
            print(
                f"{found.values:,} values of {args.check} {what}: int8 the same bits, "
                f"exact within {found.difference:.1e} (allowed: {TOLERANCE:g})"
            )
    if args.time:
        shapes = [parse_shape(text) for text in args.shapes.split(",")]
        rows = measure(dict(old=old, new=new), shapes, args.bits, args)
        header = ["weight", "batch", "bits", "mode", "old us", "new us", "new / old"]
        header += ["in half of the rounds"]
        print("\n" + markdown(header, rows))


if __name__ == "__main__":
    main()
