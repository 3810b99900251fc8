"""A trained float model, its weights mapped from the checkpoint, and its gq_conf."""

import argparse
import copy
import glob
import hashlib
import importlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import torch
from torch import nn

import espnet_gq.espnet  # noqa: F401 registers the quantized classes
from espnet_gq.analysis.allocation import split_name
from espnet_gq.calibration.plan import Plan, Weight
from espnet_gq.espnet.classes.decoders import DECODERS
from espnet_gq.espnet.classes.encoders import ENCODERS
from espnet_gq.espnet.inference.loading import fitting
from espnet_gq.espnet.inference.validation import TASKS
from espnet_gq.espnet.sharing.archive import read_yaml
from espnet_gq.espnet.sharing.pretrained import Model, Source, find_model, located
from espnet_gq.nn import GQConfig
from espnet_gq.nn.prepare import quantized_layers
from espnet_gq.nn.recurrent import GATES
from espnet_gq.nn.summary import BY_CONFIGURATION, summarize
from espnet_gq.packing import is_packed, load_state_dict, quantized_names
from espnet_gq.runtime import skeleton

CLASSES = {"encoder": ENCODERS, "decoder": DECODERS}
PREFIX = "gq_"
EVERYTHING = {"gq_conf": {"bits": 8}}
NO_ERROR_RATES = {"report_cer": False, "report_wer": False}
"""Options of a model whose forward pass is not to search for a transcript."""


@dataclass(frozen=True)
class FloatModel:
    """A float model to quantize.

    Attributes:
        source: Its files.
        task: A key of TASKS.
        config: Its configuration, as written.
        located: The same, with the files that it names as absolute paths.
        model: ESPnet's model, in evaluation mode; its weights are those of the
            checkpoint, mapped into memory.
        targets: What of it can be quantized.
        left: Name -> (class of the module that holds it, reason) of all other
            parameters.
    """

    source: Model
    task: str
    config: Dict[str, Any]
    located: Dict[str, Any]
    model: nn.Module
    targets: Tuple[Weight, ...]
    left: Dict[str, Tuple[str, str]]

    @property
    def checkpoint(self) -> Path:
        """The file of its weights."""
        return self.source.files["asr_model_file"]

    @property
    def pair(self) -> Tuple[Path, Path]:
        """Its configuration and its checkpoint."""
        return self.source.files["asr_train_config"], self.checkpoint


def load_float(source: Source, cachedir: Optional[str] = None) -> FloatModel:
    """Find a float model and map its weights.

    Args:
        source: See `espnet_gq.espnet.sharing.pretrained.find_model`.
        cachedir: The same.

    Raises:
        OSError, ValueError: If there is no model, it is quantized already, or it is
            none of the tasks that the plugin knows.
    """
    found = find_model(source, cachedir)
    checkpoint = found.files["asr_model_file"]
    config = read_yaml(found.files["asr_train_config"])
    state = load_state_dict(checkpoint, mmap=True)
    if is_packed(state):
        raise ValueError(
            f"{checkpoint} is packed, so quantized already; allowed: a float model, "
            "such as the float.zip that a packed model's zip contains"
        )
    if quantized_names(state):
        raise ValueError(
            f"{checkpoint} comes from a quantization-aware training, so it has its "
            "codebooks; allowed: a float model (espnet-gq pack packs "
            "this one)"
        )
    task = "asr" if "encoder" in config else "asr_transducer"
    absolute = located(config, found.roots, {})
    model = build(task, absolute, found.files["asr_train_config"])
    shared = shared_names(model)
    with fitting(checkpoint):
        model.load_state_dict(state, assign=True)
    _share(model, shared)
    for module in model.modules():
        # Some of ESPnet's decoders remember the device they were built on.
        if getattr(module, "device", None) == torch.device("meta"):
            setattr(module, "device", torch.device("cpu"))
    model.requires_grad_(False).eval()
    everything = build(
        task, _with_everything(task, absolute), found.files["asr_train_config"]
    )
    targets = tuple(_targets(everything))
    return FloatModel(
        source=found,
        task=task,
        config=config,
        located=absolute,
        model=model,
        targets=targets,
        left=_left(everything, config),
    )


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def build(task: str, config: Mapping[str, Any], path: Path) -> nn.Module:
    """Return the model of a configuration, without memory for its weights.

    Raises:
        ValueError: If the task cannot build it.
    """
    module, name = TASKS[task]
    cls = getattr(importlib.import_module(module), name)
    options = copy.deepcopy(dict(config))
    options["init"] = None
    options["model_conf"] = {**(options.get("model_conf") or {}), **NO_ERROR_RATES}
    try:
        with skeleton():
            return cls.build_model(argparse.Namespace(**options))
    except Exception as e:  # whatever ESPnet's constructors raise
        reason = " ".join(str(e).split()) or type(e).__name__
        raise ValueError(
            f"{path}: {name} cannot build its model ({type(e).__name__}: "
            f"{reason[:300]}); allowed: config.yaml of a training of one of the tasks "
            f"{', '.join(TASKS)}, with the files that it names"
        ) from e


# ---- Its configuration --------------------------------------------------------------
def _quantized_class(task: str, part: str, config: Mapping[str, Any]) -> Optional[str]:
    """Return the quantized class of a part; "" where it takes a gq_conf as it is."""
    if part == "model":
        return f"{PREFIX}espnet" if task == "asr" else ""
    if part == "encoder" and task == "asr_transducer":
        return ""
    name = config.get(part)
    if task == "asr_transducer":
        name = name or "rnn"  # as the task has it
        return f"{PREFIX}{name}"
    known = name is not None and f"{PREFIX}{name}" in CLASSES[part]
    return f"{PREFIX}{name}" if known else None


def _with_everything(task: str, config: Mapping[str, Any]) -> Dict[str, Any]:
    confs = {f"{part}_conf": EVERYTHING for part in ("encoder", "decoder", "model")}
    return with_confs(task, config, confs)


def with_confs(
    task: str, config: Mapping[str, Any], confs: Mapping[str, Mapping[str, Any]]
) -> Dict[str, Any]:
    """Return a float configuration with quantized classes and their gq_conf.

    Args:
        task: A key of TASKS.
        config: The float configuration.
        confs: {"encoder_conf": {"gq_conf": ...}, ...}; parts without a quantized class
            are left out.
    """
    merged = dict(config)
    for conf, new in confs.items():
        part = conf.removesuffix("_conf")
        name = _quantized_class(task, part, config)
        if name is None:
            continue
        if name:
            merged[part] = name
        merged[conf] = {**(config.get(conf) or {}), **new}
    return merged


def quantized_config(
    found: FloatModel, plan: Plan, original: bool = True
) -> Dict[str, Any]:
    """Return the configuration of the quantized model.

    Args:
        found: The float model.
        plan: What each tensor gets.
        original: Names of files as written, or absolute.
    """
    config = found.config if original else found.located
    return with_confs(found.task, config, _confs(found.targets, plan))


def _confs(
    targets: Sequence[Weight], plan: Plan
) -> Dict[str, Dict[str, Dict[str, Any]]]:
    """Return {"encoder_conf": {"gq_conf": ...}, ...} of the parts that are quantized.

    What most tensors of a part get is its default, and a rule names each of the others.
    """
    parts: Dict[str, List[Tuple[str, Optional[Dict[str, Any]]]]] = {}
    for target in targets:
        conf, inside = split_name(target.name)
        parts.setdefault(conf, []).append((inside, plan.options.get(target.name)))
    confs = {}
    for conf, weights in parts.items():
        found = [options for _, options in weights if options is not None]
        if not found:
            continue
        usual = Counter((o["bits"], o["granularity"]) for o in found).most_common(1)
        bits, granularity = usual[0][0]
        gq_conf: Dict[str, Any] = {"bits": bits, "granularity": granularity}
        if found[0]["method"] != GQConfig().method:
            gq_conf["method"] = found[0]["method"]
        rules: List[Dict[str, Any]] = []
        for inside, options in weights:
            if options is None:
                rules.append({"pattern": glob.escape(inside), "float": True})
            elif (options["bits"], options["granularity"]) != (bits, granularity):
                rules.append(
                    {
                        "pattern": glob.escape(inside),
                        "bits": options["bits"],
                        "granularity": options["granularity"],
                    }
                )
        if rules:
            gq_conf["rules"] = rules
        confs[conf] = {"gq_conf": gq_conf}
    return confs


# ---- What of it can be quantized ----------------------------------------------------
def _targets(everything: nn.Module) -> List[Weight]:
    """Return the tensors of a model that has every part quantized, each once."""
    found, seen = [], set()
    for layer_name, layer in quantized_layers(everything):
        stacked = next((n for cls, n in GATES.items() if isinstance(layer, cls)), 1)
        for attribute, parameter, quantizer in layer.quantized():
            if id(quantizer) in seen:
                continue
            seen.add(id(quantizer))
            gates = 1 if attribute.startswith("weight_hr") else stacked
            found.append(Weight(layer_name, attribute, tuple(parameter.shape), gates))
    return found


def _left(
    everything: nn.Module, config: Mapping[str, Any]
) -> Dict[str, Tuple[str, str]]:
    """Return name -> (class, reason) of the parameters that stay float."""
    found = {}
    for parameter in summarize(everything).left:
        reason = parameter.reason
        part = parameter.name.partition(".")[0]
        if reason == BY_CONFIGURATION:
            name = config.get(part)
            what = f"{part}: {name}" if isinstance(name, str) else part
            reason = f"{what} has no quantized class"
        found[parameter.name] = (parameter.kind, reason)
    return found


def shared_names(model: nn.Module) -> Dict[str, List[str]]:
    """Return name -> further names of the parameters that a model has several of."""
    first: Dict[int, str] = {}
    found: Dict[str, List[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in first:
            found.setdefault(first[id(parameter)], []).append(name)
        first.setdefault(id(parameter), name)
    return found


def _share(model: nn.Module, shared: Mapping[str, Sequence[str]]) -> None:
    """Have parameters under several names be one again, which assignment undoes."""
    for first, others in shared.items():
        parameter = model.get_parameter(first)
        for name in others:
            path, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(path), attribute, parameter)
