"""What quantizing writes: a packed model's zip, a checkpoint to train on, a table."""

import contextlib
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import torch
import yaml

from espnet_gq.analysis.sensitivity import packed_bytes
from espnet_gq.analysis.tables import markdown
from espnet_gq.calibration.plan import Plan
from espnet_gq.espnet.quantizing.model import FloatModel, quantized_config, shared_names
from espnet_gq.espnet.sharing.model_zip import warn_left_out, zip_model
from espnet_gq.files import write_text
from espnet_gq.packing import StoredQuantizer, save
from espnet_gq.packing.checkpoint import QuantizedTensor, tensors
from espnet_gq.packing.writer import PackedWriter, dequantized

FOLDER = "exp/quantized"
CHECKPOINT = "valid.acc.ave.packed.pth"
VECTORS = "vectors and scalars (bias, normalization)"


@dataclass(frozen=True)
class Quantized:
    """A tensor's codebook, the centroid of each weight, and how far they are off."""

    stored: StoredQuantizer
    indices: torch.Tensor
    error: float
    """||w - hard|| / ||w||."""
    how: str = "nearest"
    """How the centroids were chosen."""
    output_error: Optional[float] = None
    """Error of what the layer computes on the calibration data, relative, and
    `nearest_error` that of the nearest centroids of the codebook fitted to w."""
    nearest_error: Optional[float] = None


@dataclass(frozen=True)
class Row:
    """What a tensor got."""

    name: str
    numel: int
    bits: int
    before: int
    """Bytes of the float tensor."""
    after: int
    error: float
    how: str
    output_error: Optional[float]
    nearest_error: Optional[float]


@dataclass(frozen=True)
class Result:
    """A quantized model.

    Attributes:
        packed: The packed dict.
        rows: What each quantized tensor got.
        left: (what, reason, parameters, bytes) of the rest, largest first.
    """

    packed: Dict[str, Any]
    rows: Tuple[Row, ...]
    left: Tuple[Tuple[str, str, int, int], ...]


def collect(
    found: FloatModel, plan: Plan, quantized: Iterator[Tuple[str, Quantized]]
) -> Result:
    """Pack a model whose tensors are quantized one after the other.

    Args:
        found: The float model.
        plan: What each tensor gets.
        quantized: (name, how it is quantized) in the order of the model's parameters.
    """
    writer = PackedWriter()
    again = {
        other: first
        for first, others in shared_names(found.model).items()
        for other in others
        if first in plan.options
    }
    rows: List[Row] = []
    for name, tensor in found.model.state_dict().items():
        if name in again:
            writer.add_again(name, again[name])
        elif name not in plan.options:
            writer.add(name, tensor)
        else:
            key, result = next(quantized)
            assert key == name, f"{key} instead of {name}"
            writer.add_quantized(name, tensor.shape, result.stored, result.indices)
            stored, numel = result.stored, tensor.numel()
            rows.append(
                Row(
                    name=name,
                    numel=numel,
                    bits=stored.bits,
                    before=numel * tensor.element_size(),
                    after=packed_bytes(numel, stored.bits, stored.log_scale.numel()),
                    error=result.error,
                    how=result.how,
                    output_error=result.output_error,
                    nearest_error=result.nearest_error,
                )
            )
    return Result(writer.finish(), tuple(rows), _left(found, plan))


def _left(found: FloatModel, plan: Plan) -> Tuple[Tuple[str, str, int, int], ...]:
    groups: Dict[Tuple[str, str], Tuple[int, int]] = {}
    for name, parameter in found.model.named_parameters():
        if name in plan.options:
            continue
        kind, reason = found.left.get(name, ("", plan.left.get(name, "")))
        if parameter.dim() <= 1:
            key = (VECTORS, "few, and they decide on the scale of everything else")
        else:
            key = (f"{name} ({kind})" if kind else name, reason)
        numel, size = groups.get(key, (0, 0))
        more = parameter.numel()
        groups[key] = (numel + more, size + more * parameter.element_size())
    rows = [(*key, numel, size) for key, (numel, size) in groups.items()]
    return tuple(sorted(rows, key=lambda row: -row[2]))


# ---- The table ----------------------------------------------------------------------
def table(result: Result, file_bytes: int, float_bytes: int) -> str:
    """Return what each tensor got, and what stayed float and why, as Markdown.

    Args:
        result: The quantized model.
        file_bytes: Size of the packed file.
        float_bytes: Size of the float checkpoint.
    """
    calibrated = any(row.output_error is not None for row in result.rows)
    header = ["tensor", "bits", "parameters", "bytes before", "after", "weight error"]
    header += ["output error", "nearest", "chosen by"] if calibrated else []
    rows = []
    for row in result.rows:
        cells = [row.name, str(row.bits), f"{row.numel:,}", f"{row.before:,}"]
        cells += [f"{row.after:,}", f"{row.error:.4f}"]
        if calibrated:
            errors = (row.output_error, row.nearest_error)
            cells += ["" if e is None else f"{e:.4f}" for e in errors] + [row.how]
        rows.append(cells)
    lines = [markdown(header, rows), ""]
    left = [
        [what, reason, f"{numel:,}", f"{size:,}"]
        for what, reason, numel, size in result.left
    ]
    lines += [
        markdown(["left float", "why", "parameters", "bytes"], left, left=(0, 1)),
        "",
        summary(result, file_bytes, float_bytes),
    ]
    return "\n".join(lines)


def summary(result: Result, file_bytes: int, float_bytes: int) -> str:
    """Return one sentence on the whole model."""
    numel = sum(row.numel for row in result.rows)
    total = numel + sum(row[2] for row in result.left)
    bits = sum(row.numel * row.bits for row in result.rows) / numel
    return (
        f"{100 * numel / total:.1f}% of {total:,} parameters quantized to {bits:.2f} "
        f"bits; checkpoint {float_bytes / 1e6:.3f} MB before, {file_bytes / 1e6:.3f} "
        f"MB packed: {float_bytes / file_bytes:.2f} times smaller"
    )


# ---- Files --------------------------------------------------------------------------
def write_zip(
    found: FloatModel, plan: Plan, packed: Dict[str, Any], output: Path, results: str
) -> int:
    """Write the packed model as a zip to share; return the packed file's size.

    Args:
        found: The float model; its weights may be gone.
        plan: What each tensor got.
        packed: The packed dict; empty afterwards.
        output: The zip.
        results: RESULTS.md, which becomes part of the model card.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".quantize-") as folder:
        root = Path(folder)
        config = quantized_config(found, plan)
        config = _with_files(config, found, root)
        parts = [p.relative_to(root) for p in root.rglob("*") if p.is_file()]
        warn_left_out(config, parts, found.source.roots)
        exp = root / FOLDER
        exp.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(config, sort_keys=False)
        (exp / "config.yaml").write_text(text, encoding="utf-8")
        (exp / "RESULTS.md").write_text(results, encoding="utf-8")
        save(packed, exp / CHECKPOINT)
        packed.clear()  # it is read from the file from now on
        size = (exp / CHECKPOINT).stat().st_size
        target = output.absolute()
        with contextlib.chdir(root):
            zip_model(
                f"{FOLDER}/config.yaml",
                f"{FOLDER}/{CHECKPOINT}",
                target,
                options=[f"{FOLDER}/RESULTS.md"],
                config_key=found.task.config_key,
                parts=parts,
            )
    return size


def _with_files(value: Any, found: FloatModel, root: Path) -> Any:
    """Copy the files that a configuration names to a folder; return it with new names.

    A file keeps its name where that is a relative path downwards. A checkpoint takes
    the config.yaml beside it along, without which ESPnet does not read it.
    """
    roots = found.source.roots

    def visit(part: Any, key: str = "") -> Any:
        if isinstance(part, dict):
            return {k: visit(v, str(k)) for k, v in part.items()}
        if isinstance(part, list):
            return part if key == "token_list" else [visit(v) for v in part]
        if not isinstance(part, str) or not ("/" in part or PurePosixPath(part).suffix):
            return part
        for base in roots:
            if (base / part).is_file():
                path = PurePosixPath(part)
                safe = not path.is_absolute() and ".." not in path.parts
                name = str(path) if safe else f"exp/files/{path.name}"
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(base / part, root / name)
                beside = (base / part).with_name("config.yaml")
                if path.suffix in (".pth", ".pt") and beside.is_file():
                    shutil.copyfile(beside, (root / name).with_name(beside.name))
                return name
        return part

    return visit(value)


def write_checkpoint(
    found: FloatModel, plan: Plan, packed: Mapping[str, Any], path: Path
) -> Path:
    """Write the checkpoint that a quantization-aware training can start from.

    Args:
        found: The float model.
        plan: What each tensor got.
        packed: The packed dict.
        path: The checkpoint; its configuration, for --asr_config, is written beside it.

    Returns:
        The configuration's path.
    """
    state: Dict[str, Any] = {}
    for name, value in tensors(packed):
        if isinstance(value, QuantizedTensor):
            state[name] = dequantized(value)
            state.update(value.quantizer.state(name))
        else:
            state[name] = getattr(value, "value", value)
    save(state, path)
    config = quantized_config(found, plan, original=False)
    write_text(path.with_suffix(".yaml"), yaml.safe_dump(config, sort_keys=False))
    return path.with_suffix(".yaml")


def by_parameter(found: FloatModel, names: Sequence[str]) -> List[str]:
    """Return names in the order of the model's state dict."""
    wanted = set(names)
    return [name for name in found.model.state_dict() if name in wanted]
