"""A trained, packed model of ESPnet as one file for the device engine."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Optional, Tuple, Union

import espnet_gq.espnet  # noqa: F401 registers the quantized classes
from espnet_gq.device.writer import ModelFile
from espnet_gq.espnet.exporting.blockwise import set_chunks
from espnet_gq.espnet.exporting.encoders import add_encoder
from espnet_gq.espnet.exporting.features import add_features
from espnet_gq.espnet.exporting.outputs import add_output
from espnet_gq.espnet.exporting.refusal import CannotExport, require
from espnet_gq.espnet.exporting.tokens import add_tokens
from espnet_gq.espnet.sharing.pretrained import Source, build, find_model
from espnet_gq.native import available
from espnet_gq.packing import is_packed, load_object

TASKS = ("asr", "asr_transducer")

__all__ = ["CannotExport", "Exported", "export"]


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: The file.
        size: Its bytes.
        encoder: Type of the encoder.
        output: "transducer" or "ctc".
        notes: What a user should know of the file, a sentence each.
    """

    path: Path
    size: int
    encoder: str
    output: str
    notes: Tuple[str, ...] = ()


def export(
    source: Source,
    path: Union[str, Path],
    cachedir: Optional[str] = None,
    chunk_ms: Optional[float] = None,
    left_context: Optional[int] = None,
) -> Exported:
    """Write a packed model to a file that the device engine reads.

    Args:
        source: See `espnet_gq.espnet.sharing.pretrained.find_model`.
        path: The file to write.
        cachedir: Cache for unpacked zips and downloads, see `find_model`.
        chunk_ms: Milliseconds of a chunk; None: 640. For encoders of the second
            transducer task alone.
        left_context: Encoder frames before a chunk that it sees; None: 32.

    Raises:
        CannotExport: If the engine cannot run the model; names the part.
        OSError, ValueError: If there is no such model, or the file cannot be written.
    """
    found = find_model(source, cachedir)
    task = found.task
    require(
        task.name in TASKS,
        f"{found.config_file}: the model is of ESPnet's task {task.name}; allowed on a "
        f"device: {', '.join(TASKS)}",
    )
    require(
        is_packed(load_object(found.checkpoint, mmap=True)),
        f"{found.checkpoint} is not packed; allowed: what espnet-gq pack or espnet-gq "
        "quantize wrote",
    )
    require(available(), "the native library was not built, which export needs")

    def load(**files: str) -> Tuple[Any, Any]:
        return task.load().build_model_from_file(
            files[task.config_key], files[task.model_key], "cpu"
        )

    model, args = build(load, found, {})
    file = describe(model.eval(), args)
    if chunk_ms is not None or left_context is not None:
        set_chunks(file, chunk_ms, left_context)
    file.write(path)
    return Exported(
        Path(path),
        Path(path).stat().st_size,
        str(file.settings["encoder.type"]),
        str(file.settings["output"]),
        tuple(file.notes),
    )


def describe(model: Any, args: Any) -> ModelFile:
    """Return the contents of the file of a model.

    Args:
        model: ESPnet's model, with packed weights.
        args: Options of its training.

    Raises:
        CannotExport: If the engine cannot run it.
    """
    parts: Dict[str, str] = {"preencoder": "preencoder", "postencoder": "postencoder"}
    for name, part in parts.items():
        require(
            getattr(model, part, None) is None,
            f"there is a {name}; allowed on a device: none",
        )
    file = ModelFile()
    add_features(file, model)
    add_tokens(file, args, model.token_list)
    add_encoder(file, model.encoder)
    add_output(file, model)
    return file
