"""Compile the Triton kernels to machine code without a GPU.

    python -m benchmarks.gpu.compile_kernels --json compiled.json

Compiles every form of both kernels for every compute capability (about five minutes on
one core) and checks the resources that each compiled kernel uses against LIMITS.
"""

import itertools
import re
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence

from benchmarks.options import new_parser
from espnet_gq.files import write_json
from espnet_gq.quantizer import triton_kernel

CAPABILITIES = (75, 80, 86, 89, 90, 100, 120)
KERNELS = ("forward", "backward")
WIDTHS = range(1, 9)
LIMITS = {"registers": 168, "stack": 16, "shared": 2048, "float64": 0}
"""Maxima of registers per thread (168 allow three blocks per multiprocessor), bytes of
stack per thread (spilled registers are stored there), bytes of shared memory per block
and float64 instructions. Consumer GPUs have few float64 units, and Triton computes in
float64 when a constant cannot be represented in float32.
"""


@dataclass(frozen=True)
class Form:
    """One compiled form of a kernel.

    Args:
        kernel: One of KERNELS.
        capability: Compute capability times ten, for example 86.
        bits: Bit width.
        per_row: One scale per row (granularity "channel") instead of one per tensor.
        hard: Hard instead of soft assignment.
        aligned: Pointers and columns are divisible by 16, as in most calls.
    """

    kernel: str
    capability: int
    bits: int
    per_row: bool
    hard: bool
    aligned: bool = True

    def __str__(self) -> str:
        return (
            f"{self.kernel} sm_{self.capability} {self.bits} bits "
            f"{'channel' if self.per_row else 'tensor'} "
            f"{'hard' if self.hard else 'soft'}"
            f"{'' if self.aligned else ' unaligned'}"
        )


def unavailable() -> Optional[str]:
    """Return why no kernel can be compiled here; None if kernels can be compiled."""
    if triton_kernel.triton is None:
        return "this PyTorch build has no Triton"
    if not hasattr(triton_kernel._forward_kernel, "cache_key"):
        return "Triton runs as an interpreter (TRITON_INTERPRET)"
    try:
        from triton import knobs
        from triton.backends.compiler import GPUTarget  # noqa: F401
    except ImportError as e:
        version = triton_kernel.triton.__version__
        return f"Triton {version} has another compiler interface: {e}"
    if not Path(knobs.nvidia.cuobjdump.path).exists():
        return "this installation of Triton has no cuobjdump"
    return None


def all_forms() -> Iterator[Form]:
    """Yield every form that a training may compile."""
    for values in itertools.product(
        *(KERNELS, CAPABILITIES, WIDTHS, (False, True), (False, True), (True, False))
    ):
        yield Form(*values)


def compile_form(form: Form) -> Dict[str, int]:
    """Compile one form of a kernel of the quantizer; see `compiled`."""
    kernel = getattr(triton_kernel, f"_{form.kernel}_kernel")
    constants = dict(
        PER_ROW=form.per_row, BITS=form.bits, HARD=form.hard, SIZE=triton_kernel.BLOCK
    )
    types, aligned = [], []
    for index, name in enumerate(kernel.arg_names[: -len(constants)]):
        pointer = name.endswith("_ptr")
        number = "fp32" if name in ("alpha", "q2") else "i32"
        types.append("*fp32" if pointer else number)
        # A codebook starts after one padding value and is not aligned.
        if (pointer or name == "cols") and name not in ("c_ptr", "dc_ptr"):
            aligned.append(index)
    return compiled(
        *(kernel, form.capability, types, constants), aligned if form.aligned else ()
    )


def compiled(
    kernel: Any,
    capability: int,
    types: Sequence[str],
    constants: Dict[str, Any],
    aligned: Sequence[int] = (),
) -> Dict[str, int]:
    """Compile a Triton kernel; return its figures for comparison with LIMITS.

    Args:
        kernel: Function decorated by `triton.jit`.
        capability: Compute capability times ten, for example 86.
        types: Types of its arguments, excluding the constants, which come last.
        constants: Values of its constant arguments.
        aligned: Indices of the arguments that are divisible by 16.
    """
    from triton import compile as triton_compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = dict(zip(kernel.arg_names, types))
    signature.update({name: "constexpr" for name in constants})
    attributes = {(index,): [["tt.divisibility", 16]] for index in aligned}
    done = triton_compile(
        ASTSource(kernel, signature, constants, attributes),
        target=GPUTarget("cuda", capability, 32),
    )
    return dict(
        **_resources(done.asm["cubin"]),
        shared=done.metadata.shared,
        float64=len(re.findall(r"^\s.*\.f64\b", done.asm["ptx"], re.MULTILINE)),
    )


def _resources(cubin: bytes) -> Dict[str, int]:
    """Return registers and bytes of stack per thread of a compiled kernel."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run(
            [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    if found is None:
        raise RuntimeError(f"cuobjdump reports no registers: {text!r}")
    return dict(registers=int(found[1]), stack=int(found[2]))


def beyond_limits(figures: Dict[str, int]) -> List[str]:
    """Describe every figure that exceeds its limit."""
    return [
        f"{name} {figures[name]} (at most {most})"
        for name, most in LIMITS.items()
        if figures[name] > most
    ]


def main(argv: Optional[List[str]] = None) -> int:
    """Compile all forms, print the maximum of each figure and write the figures."""
    parser = new_parser(__doc__)
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args(argv)
    reason = unavailable()
    if reason:
        parser.error(reason)
    rows: List[Dict[str, Any]] = []
    failures = 0
    with tempfile.TemporaryDirectory() as cache:
        from triton import knobs

        knobs.cache.dir = cache  # otherwise a cached kernel would be reported
        for form in all_forms():
            figures = compile_form(form)
            rows.append(dict(asdict(form), **figures))
            for words in beyond_limits(figures):
                failures += 1
                print(f"{form}: {words}")
    print(f"{len(rows)} forms compiled, {failures} figures exceed the limits; maxima:")
    for kernel in KERNELS:
        most: Counter[str] = Counter()
        for row in rows:
            if row["kernel"] == kernel:
                most |= Counter({name: row[name] for name in LIMITS})
        print(f"  {kernel}: " + ", ".join(f"{n} {most[n]}" for n in LIMITS))
    if args.json:
        version = triton_kernel.triton.__version__
        write_json(args.json, dict(triton=version, limits=LIMITS, forms=rows))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
