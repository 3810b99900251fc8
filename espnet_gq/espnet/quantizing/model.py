"""A trained float model, its weights mapped from the checkpoint, and its gq_conf."""

import argparse
import copy
import glob
import hashlib
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import torch
from torch import nn

import espnet_gq.espnet  # noqa: F401 registers the quantized classes
from espnet_gq.calibration.plan import Plan, Weight
from espnet_gq.espnet.classes.whole import KEY, masks
from espnet_gq.espnet.inference.loading import fitting, without_weights
from espnet_gq.espnet.quantizing.mapped import drop_pages
from espnet_gq.espnet.sharing.archive import read_yaml
from espnet_gq.espnet.sharing.pretrained import Model, Source, find_model, located
from espnet_gq.espnet.tasks import TASKS, Task
from espnet_gq.nn import GQConfig, prepare
from espnet_gq.nn.prepare import weights_of
from espnet_gq.nn.summary import summarize
from espnet_gq.packing import is_packed, load_state_dict, quantized_names


@dataclass(frozen=True)
class FloatModel:
    """A float model to quantize.

    Attributes:
        source: Its files.
        task: Its task.
        config: Its configuration, as written.
        located: The same, with the files that it names as absolute paths.
        model: ESPnet's model, in evaluation mode; its weights are those of the
            checkpoint, mapped into memory.
        targets: What of it can be quantized.
        left: Name -> (class of the module that holds it, reason) of all other
            parameters.
    """

    source: Model
    task: Task
    config: Dict[str, Any]
    located: Dict[str, Any]
    model: nn.Module
    targets: Tuple[Weight, ...]
    left: Dict[str, Tuple[str, str]]

    @property
    def checkpoint(self) -> Path:
        """The file of its weights."""
        return self.source.checkpoint

    def forget(self, name: str) -> None:
        """Let the system forget a weight's pages; for a weight that did not change."""
        if zipfile.is_zipfile(self.checkpoint):  # else it was not mapped
            drop_pages(self.model.get_parameter(name).detach())

    @property
    def pair(self) -> Tuple[Path, Path]:
        """Its configuration and its checkpoint."""
        return self.source.config_file, self.checkpoint


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
    checkpoint, task = found.checkpoint, found.task
    config = read_yaml(found.config_file)
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
    absolute = located(config, found.roots, {})
    model = build(task, absolute, found.config_file)
    shared = shared_names(model)
    with fitting(checkpoint):
        model.load_state_dict(state, assign=True)
    _share(model, shared)
    for module in model.modules():
        # Some of ESPnet's decoders remember the device they were built on.
        if getattr(module, "device", None) == torch.device("meta"):
            setattr(module, "device", torch.device("cpu"))
    model.requires_grad_(False).eval()
    everything = build(task, absolute, found.config_file)
    everything = prepare(everything, GQConfig(bits=8, rules=masks(everything)))
    targets = tuple(_targets(everything))
    return FloatModel(
        source=found,
        task=task,
        config=config,
        located=absolute,
        model=model,
        targets=targets,
        left={p.name: (p.kind, p.reason) for p in summarize(everything).left},
    )


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def build(task: Task, config: Mapping[str, Any], path: Path) -> nn.Module:
    """Return the model of a configuration, without memory for its weights.

    Raises:
        ValueError: If the task cannot build it.
    """
    cls = task.load()
    quiet = dict.fromkeys(task.quiet, False)

    def build_model() -> nn.Module:
        options = copy.deepcopy(dict(config))
        options["init"] = None
        options["model_conf"] = {**(options.get("model_conf") or {}), **quiet}
        return cls.build_model(argparse.Namespace(**options))

    try:
        return without_weights(build_model)
    except Exception as e:  # whatever ESPnet's constructors raise
        reason = " ".join(str(e).split()) or type(e).__name__
        raise ValueError(
            f"{path}: {task.class_name} cannot build its model ({type(e).__name__}: "
            f"{reason[:300]}); allowed: config.yaml of a training of one of the tasks "
            f"{', '.join(TASKS)}, with the files that it names"
        ) from e


# ---- Its configuration --------------------------------------------------------------
def quantized_config(
    found: FloatModel, plan: Plan, original: bool = True
) -> Dict[str, Any]:
    """Return the configuration of the quantized model: one gq_conf, in model_conf.

    Args:
        found: The float model.
        plan: What each tensor gets.
        original: Names of files as written, or absolute.
    """
    config = dict(found.config if original else found.located)
    conf = dict(config.get("model_conf") or {})
    config["model_conf"] = {**conf, KEY: gq_conf(found.targets, plan)}
    return config


def gq_conf(targets: Sequence[Weight], plan: Plan) -> Dict[str, Any]:
    """Return the gq_conf of a plan.

    What most tensors get is its default, and a rule names each of the others.
    """
    options = list(plan.options.values())
    usual = Counter((o["bits"], o["granularity"]) for o in options).most_common(1)
    bits, granularity = usual[0][0]
    conf: Dict[str, Any] = {"bits": bits, "granularity": granularity}
    if options[0]["method"] != GQConfig().method:
        conf["method"] = options[0]["method"]
    rules: List[Dict[str, Any]] = []
    for target in targets:
        rule: Dict[str, Any] = {"pattern": glob.escape(target.name)}
        found = plan.options.get(target.name)
        if found is None:
            rules.append({**rule, "float": True})
        elif (found["bits"], found["granularity"]) != (bits, granularity):
            own = {key: found[key] for key in ("bits", "granularity")}
            rules.append({**rule, **own})
    if rules:
        conf["rules"] = rules
    return conf


# ---- What of it can be quantized ----------------------------------------------------
def _targets(everything: nn.Module) -> List[Weight]:
    """Return the tensors of a model that has every part quantized, each once."""
    return [
        Weight(found.layer, found.attribute, tuple(found.parameter.shape), found.gates)
        for found in weights_of(everything)
    ]


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
