"""The float form of a trained model, and its loss on a validation set."""

import argparse
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
import yaml
from espnet2.train.dataset import ESPnetDataset
from torch import nn

from espnet_gq.espnet.sharing.plain_config import plain_config
from espnet_gq.espnet.tasks import TASKS
from espnet_gq.nn.prepare import quantizable
from espnet_gq.packing import is_packed, load_state_dict, quantized_names
from espnet_gq.packing.stored import is_quantizer_key

PathLike = Union[str, Path]
Batch = Dict[str, torch.Tensor]
Triple = Tuple[str, str, str]
Utterance = Tuple[str, Dict[str, np.ndarray]]

PARTS = {
    "asr": ("encoder", "decoder", "ctc", "joint_network"),
    "asr_transducer": (
        *("encoder", "decoder", "joint_network"),
        *("ctc_lin", "lm_lin", "am_proj", "lm_proj"),
    ),
}
"""Parts of each task's model that a `gq_conf` can quantize."""


@dataclass(frozen=True)
class Validation:
    """A float model in evaluation mode and a validation set, in memory.

    Attributes:
        model: ESPnet's model, float layers.
        names: Its parameters that a `gq_conf` can quantize.
        batches: The utterances, longest first.
        utterances: The same in batches of one.
        checksum: SHA-256 of the model's input: names, audio and tokens.
    """

    model: nn.Module
    names: List[str]
    batches: List[Batch]
    utterances: List[Batch]
    checksum: str

    def loss(self, batch: Batch) -> Tuple[torch.Tensor, int]:
        """Return the mean loss of a batch's utterances, and their number.

        Raises:
            ValueError: If ESPnet cannot compute it, as for an utterance too short.
        """
        # ESPnet's models modify the batch in place.
        batch = {name: value.clone() for name, value in batch.items()}
        try:
            value, _, weight = self.model(**batch)
        except Exception as e:
            frames = batch["speech"].shape[1]
            raise ValueError(
                f"ESPnet cannot compute the loss of an utterance of {frames} samples "
                f"({_reason(e)})"
            ) from e
        return value.sum(), int(weight)


def load_validation(
    asr_task: str,
    config_file: PathLike,
    model_file: PathLike,
    data: Sequence[Triple],
    shape_file: Optional[PathLike] = None,
    num_utterances: Optional[int] = None,
    batch_size: int = 1,
) -> Validation:
    """Build a model from its files, and read a validation set.

    Args:
        asr_task: A key of PARTS.
        config_file: config.yaml of the training.
        model_file: Float checkpoint, or that of a GQ training, whose weights are taken
            before quantization.
        data: (path, name, type) as ESPnet's --valid_data_path_and_name_and_type.
        shape_file: Lists the utterances to use; None: all.
        num_utterances: Use only this many, evenly spaced; None: all.
        batch_size: Utterances per batch.

    Raises:
        OSError: If a file is missing.
        ValueError: If the contents of a file are invalid.
    """
    task = TASKS[asr_task].load()
    model, args = _float_model(task, config_file, model_file)
    utterances = _utterances(task, args, data, shape_file, num_utterances)
    collate = task.build_collate_fn(args, False)
    starts = range(0, len(utterances), batch_size)
    return Validation(
        model=model,
        names=quantizable_names(model, asr_task),
        batches=[collate(utterances[i : i + batch_size])[1] for i in starts],
        utterances=[collate([utterance])[1] for utterance in utterances],
        checksum=_checksum(utterances),
    )


def quantizable_names(model: nn.Module, asr_task: str) -> List[str]:
    """Return the parameters of a float model that a `gq_conf` can quantize."""
    return [
        ".".join(filter(None, (part, layer, weight)))
        for part in PARTS[asr_task]
        if isinstance(getattr(model, part, None), nn.Module)
        for layer, weights in quantizable(getattr(model, part)).items()
        for weight in weights
    ]


def _float_model(task, config_file: PathLike, model_file: PathLike):
    """Return the float form of a trained model, and its configuration."""
    try:
        config = yaml.safe_load(Path(config_file).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ValueError(f"{config_file} is not YAML ({_reason(e)})") from None
    if not isinstance(config, dict):
        raise ValueError(
            f"{config_file} holds no options; allowed: config.yaml of a training"
        )
    state = load_state_dict(model_file)
    if is_packed(state):
        raise ValueError(
            f"{model_file} is packed, its weights are on centroids already; allowed: "
            "a float checkpoint, or one of a GQ training"
        )
    quantized = set(quantized_names(state))
    state = {
        key: value
        for key, value in state.items()
        if not is_quantizer_key(key, quantized)
    }
    args = argparse.Namespace(**plain_config(config))
    args.init = None
    try:
        # Error rates would need a search.
        scores = {"report_cer": False, "report_wer": False}
        args.model_conf = {**args.model_conf, **scores}
        model = task.build_model(args)
    except Exception as e:
        raise ValueError(
            f"{config_file}: {task.__name__} cannot build its model ({_reason(e)}); "
            "allowed: config.yaml of a training, and the folder it was run in"
        ) from e
    try:
        model.load_state_dict(state)
    except RuntimeError as e:
        raise ValueError(
            f"{model_file} is not a checkpoint of {config_file} ({_reason(e)})"
        ) from None
    return model.eval(), args


def _utterances(
    task,
    args: argparse.Namespace,
    data: Sequence[Triple],
    shape_file: Optional[PathLike],
    number: Optional[int],
) -> List[Utterance]:
    """Return the preprocessed utterances, longest first as RNN encoders require."""
    for path, _, _ in data:
        if not Path(path).exists():
            raise FileNotFoundError(f"{path}: no such file")
    try:
        preprocess = task.build_preprocess_fn(args, False)
        dataset = ESPnetDataset(list(data), preprocess=preprocess)
        task.check_task_requirements(
            dataset, allow_variable_data_keys=False, train=False
        )
    except Exception as e:
        files = " ".join(",".join(triple) for triple in data)
        raise ValueError(f"{files} cannot be used ({_reason(e)})") from e
    keys = list(dataset)
    if shape_file is not None:
        lines = Path(shape_file).read_text(encoding="utf-8").splitlines()
        keys = [line.split(maxsplit=1)[0] for line in lines if line.strip()]
        if not keys:
            raise ValueError(f"{shape_file} is empty")
    if number is not None and number < len(keys):
        keys = [keys[i * len(keys) // number] for i in range(number)]
    utterances = []
    for key in keys:
        try:
            utterances.append(dataset[key])
        except Exception as e:
            raise ValueError(f"utterance {key} cannot be read ({_reason(e)})") from e
    return sorted(utterances, key=lambda utterance: -len(utterance[1]["speech"]))


def _checksum(utterances: Sequence[Utterance]) -> str:
    digest = hashlib.sha256()
    for key, data in utterances:
        digest.update(key.encode())
        for name, value in sorted(data.items()):
            digest.update(f" {name} {value.dtype} {value.shape} ".encode())
            digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def _reason(error: Any) -> str:
    """Return an exception as one short line."""
    text = " ".join(str(error).split())
    text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
