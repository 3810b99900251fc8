"""Memory of a process that loads a recogniser and decodes an utterance."""

import gc
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence

import numpy as np
import torch

from benchmarks.measuring import (
    MIB,
    forget_peak,
    in_new_process,
    resident,
    return_freed,
    spread,
)
from benchmarks.packed.models import (
    SAMPLE_RATE,
    SIZES,
    Files,
    describe,
    files,
    import_packages,
    streaming_decoder,
)
from benchmarks.packed.speech import Utterance, noise
from benchmarks.packed.variants import FLOAT, TORCH_INT8, Aim, Variant, variant_of
from benchmarks.report import progress, quiet, spread_cell
from espnet_gq.analysis.tables import markdown

AIM = 0.70
"""Target ratio of 5 to 8 packed bits: loaded and peak, total and added memory."""
MOST_SECONDS = 10.0
LABELS = 20
"""Number of labels that a hybrid model emits; otherwise its search might not end."""
LEAST_BYTES = MIB
"""Smaller figures are not compared: the system counts resident pages in batches."""
FIGURES = ("imports", "loaded", "loading_peak", "trimmed", "decoded", "peak")


@dataclass(frozen=True)
class Job:
    """The work of one process."""

    name: str
    variant: Variant
    files: Files
    warm_name: str
    warm_files: Files
    samples: np.ndarray
    chunk: int
    threads: int


def _speech2text(name: str, variant: Variant, made: Files) -> Any:
    if SIZES[name].streams:
        return streaming_decoder(name, variant, made)
    from espnet2.bin.asr_inference import Speech2Text

    return Speech2Text(
        made.config,
        made.model,
        beam_size=1,
        ctc_weight=0.0,
        maxlenratio=-LABELS,
        quantize_asr_model=variant == TORCH_INT8 or variant.mode == "int8",
    )


def _decode(name: str, speech2text: Callable, samples: np.ndarray, chunk: int) -> None:
    if not SIZES[name].streams:
        speech2text(samples)
        return
    for start in range(0, len(samples), chunk):
        final = start + chunk >= len(samples)
        speech2text(samples[start : start + chunk], is_final=final)


def memory_of(job: Job) -> Dict[str, Any]:
    """Return the resident bytes at each of FIGURES; to be called in a new process.

    "imports" is measured after a tiny model has decoded, when every library has loaded
    its lazy parts. "trimmed" is "loaded" after freed memory was returned to the system.
    """
    quiet()
    torch.set_num_threads(job.threads)
    import_packages()
    tiny = _speech2text(job.warm_name, job.variant, job.warm_files)
    _decode(job.warm_name, tiny, noise(1.0), job.chunk)
    del tiny
    return_freed()
    found: Dict[str, Any] = dict(imports=resident("VmRSS"), peak_reset=forget_peak())
    speech2text = _speech2text(job.name, job.variant, job.files)
    gc.collect()
    found["loaded"] = resident("VmRSS")
    found["loading_peak"] = resident("VmHWM")
    return_freed()
    found["trimmed"] = resident("VmRSS")
    _decode(job.name, speech2text, job.samples, job.chunk)
    found["decoded"] = resident("VmRSS")
    # Linux updates the peak with a delay.
    seen = (found["loaded"], found["loading_peak"], found["decoded"])
    found["peak"] = max(*seen, resident("VmHWM"))
    return found


def warm_size(name: str) -> str:
    """Return the name of the tiny model of the same kind."""
    return next(
        tiny
        for tiny, size in SIZES.items()
        if tiny.startswith("tiny") and size.kind == SIZES[name].kind
    )


def measure(
    name: str,
    compared: Sequence[Variant],
    cache: Path,
    utterance: Utterance,
    chunk_ms: int,
    threads: int,
    runs: int,
) -> Dict[str, Any]:
    """Measure a size, each figure in new processes, variants in turn."""
    found, _ = describe(name, cache)
    samples = utterance.samples[: int(MOST_SECONDS * SAMPLE_RATE)]
    found.update(
        runs=runs, utterance=utterance.name, seconds=len(samples) / SAMPLE_RATE
    )
    warm = warm_size(name)
    jobs = {
        variant: Job(
            name=name,
            variant=variant,
            files=files(name, variant, cache),
            warm_name=warm,
            warm_files=files(warm, variant, cache),
            samples=samples,
            chunk=chunk_ms * SAMPLE_RATE // 1000,
            threads=threads,
        )
        for variant in compared
    }
    measured: Dict[Variant, List[Dict[str, Any]]] = {v: [] for v in compared}
    for index in range(runs):
        for variant, job in jobs.items():
            measured[variant].append(in_new_process(memory_of, job))
            progress(f"memory: {name}: run {index + 1} of {runs}: {variant}")
    found["variants"] = [
        dict(
            asdict(variant),
            file_bytes=jobs[variant].files.bytes,
            **_figures(measured[variant]),
        )
        for variant in compared
    ]
    for row in found["variants"]:
        for key, base in (
            ("x_float32", FLOAT),
            ("x_torch_int8", TORCH_INT8),
            ("x_own_8_bits", variant_of(row).own_8_bits),
        ):
            row[key] = _quotients(row, base, found["variants"])
    return found


KEYS = ("loaded_bytes", "peak_bytes", "added_loaded_bytes", "added_peak_bytes")
"""Loaded and peak of the whole process, and both minus the memory of the imports."""


def _figures(runs: List[Dict[str, Any]]) -> Dict[str, Any]:
    figures = {f"{key}_bytes": spread([run[key] for run in runs]) for key in FIGURES}
    for key in FIGURES[1:]:
        added = [run[key] - run["imports"] for run in runs]
        figures[f"added_{key}_bytes"] = spread(added)
    return dict(figures, peak_reset=all(run["peak_reset"] for run in runs))


def _quotients(row, base: Variant, rows) -> Any:
    for other in rows:
        if variant_of(other) == base:
            return {
                key: row[key]["median"] / other[key]["median"]
                for key in KEYS
                if other[key]["median"] >= LEAST_BYTES
            }
    return None


HEADER = (
    "variant",
    "file MiB",
    "loaded MiB",
    "peak MiB",
    "x 8 bits",
    "added loaded MiB (min..max)",
    "x 8 bits",
    "trimmed MiB",
    "added peak MiB (min..max)",
    "x 8 bits",
    "x torch int8",
    "x float32",
)


def lines(found: Dict[str, Any]) -> List[str]:
    """Format the table of a size; the last three ratios are those of the added peak."""

    def ratio(row, base: str, key: str) -> str:
        found = (row[base] or {}).get(key)
        return "-" if found is None else f"{found:.3f}"

    rows = [
        [
            str(variant_of(row)),
            f"{row['file_bytes'] / MIB:,.1f}",
            f"{row['loaded_bytes']['median'] / MIB:,.0f}",
            f"{row['peak_bytes']['median'] / MIB:,.0f}",
            ratio(row, "x_own_8_bits", "peak_bytes"),
            spread_cell(row["added_loaded_bytes"], MIB, 1),
            ratio(row, "x_own_8_bits", "added_loaded_bytes"),
            f"{row['added_trimmed_bytes']['median'] / MIB:,.1f}",
            spread_cell(row["added_peak_bytes"], MIB, 1),
            ratio(row, "x_own_8_bits", "added_peak_bytes"),
            ratio(row, "x_torch_int8", "added_peak_bytes"),
            ratio(row, "x_float32", "added_peak_bytes"),
        ]
        for row in found["variants"]
    ]
    imports = [row["imports_bytes"]["median"] / MIB for row in found["variants"]]
    text = ["", f"{found['seconds']:.1f} s of speech, {found['runs']} processes each"]
    text += ["", markdown(HEADER, rows)]
    text.append(
        f"Imports hold {min(imports):.0f} to {max(imports):.0f} MiB of each process."
    )
    if not all(row["peak_reset"] for row in found["variants"]):
        text.append(
            "The system cannot reset the peak, which therefore includes the imports."
        )
    return text


def aims(name: str, found: Dict[str, Any]) -> List[Aim]:
    """Compare 5 with 8 bits; explain targets that were missed."""
    rows = {variant_of(row): row for row in found["variants"]}
    reached = []
    for variant, row in rows.items():
        if variant.bits != 5 or row["x_own_8_bits"] is None:
            continue
        eight = rows[variant.own_8_bits]
        for key, what in zip(
            KEYS,
            (
                "process after loading",
                "peak of the process",
                "added by loading",
                "added peak",
            ),
        ):
            value = row["x_own_8_bits"].get(key)
            if value is None:
                continue
            label = f"memory of {name}, {what}, 5 bits over 8 bits, {variant.mode}"
            reached.append(
                Aim(label, value, AIM, "" if value <= AIM else _why(key, eight))
            )
    return reached


def _why(key: str, eight: Dict[str, Any]) -> str:
    """Describe the part of the 8-bit figure that does not depend on the bit width."""
    whole = eight[key]["median"]
    if key.startswith("added"):
        others = whole - eight["file_bytes"]
        what = "not weights"
    else:
        others = eight["imports_bytes"]["median"]
        what = "the memory of the imports"
    return (
        f"{max(others, 0) / MIB:.0f} of the {whole / MIB:.0f} MiB with 8 bits are "
        f"{what} and independent of the bits"
    )
