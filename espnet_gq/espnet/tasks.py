"""ESPnet's tasks whose models can be quantized."""

import importlib
from dataclasses import dataclass
from typing import Any, Callable, Collection, Dict, Mapping, Optional, Tuple

from espnet_gq._compat import S2T_CTC_INFERENCE


@dataclass(frozen=True)
class Task:
    """A task of ESPnet.

    Attributes:
        name: As ESPnet's module espnet2.tasks.NAME.
        class_name: Its class there.
        title: What its models do, for a model card.
        config_key: Argument of its inference class for config.yaml of the training.
        model_key: The same for the checkpoint.
        inference: "module:class" that decodes with its models.
        is_its: Whether a configuration without meta.yaml is of this task.
        tag: Pipeline tag of its models on the hub.
        quiet: Options of its models that save a search in the forward pass.
    """

    name: str
    class_name: str
    title: str
    config_key: str
    model_key: str
    inference: str
    is_its: Callable[[Mapping[str, Any]], bool]
    tag: str = "automatic-speech-recognition"
    quiet: Tuple[str, ...] = ("report_cer", "report_wer")

    @property
    def module(self) -> str:
        """ESPnet's module of the task."""
        return f"espnet2.tasks.{self.name}"

    def load(self) -> Any:
        """Return ESPnet's class of the task."""
        return getattr(importlib.import_module(self.module), self.class_name)

    def inference_class(self) -> Any:
        """Return ESPnet's class that decodes with the task's models."""
        module, name = self.inference.split(":")
        return getattr(importlib.import_module(module), name)


def _has(*keys: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda config: all(key in config for key in keys)


TASKS: Dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "lm",
            "LMTask",
            "language",
            "lm_train_config",
            "lm_file",
            "espnet2.bin.lm_inference:GenerateText",
            _has("lm", "lm_conf"),
            tag="text-generation",
            quiet=(),
        ),
        Task(
            "asr_transducer",
            "ASRTransducerTask",
            "ASR",
            "asr_train_config",
            "asr_model_file",
            "espnet2.bin.asr_transducer_inference:Speech2Text",
            lambda config: "encoder" not in config and "encoder_conf" in config,
        ),
        Task(
            "s2t_ctc",
            "S2TTask",
            "speech-to-text",
            "s2t_train_config",
            "s2t_model_file",
            S2T_CTC_INFERENCE,
            _has("promptencoder"),
        ),
        Task(
            "s2t",
            "S2TTask",
            "speech-to-text",
            "s2t_train_config",
            "s2t_model_file",
            "espnet2.bin.s2t_inference:Speech2Text",
            lambda config: config.get("preprocessor") == "s2t",
        ),
        Task(
            "slu",
            "SLUTask",
            "spoken language understanding",
            "slu_train_config",
            "slu_model_file",
            "espnet2.bin.slu_inference:Speech2Understand",
            _has("postdecoder"),
        ),
        Task(
            "st",
            "STTask",
            "speech translation",
            "st_train_config",
            "st_model_file",
            "espnet2.bin.st_inference:Speech2Text",
            _has("extra_asr_decoder"),
            quiet=("report_cer", "report_wer", "report_bleu"),
        ),
        Task(
            "asr",
            "ASRTask",
            "ASR",
            "asr_train_config",
            "asr_model_file",
            "espnet2.bin.asr_inference:Speech2Text",
            _has("encoder"),
        ),
    )
}
"""By name. The first that a configuration fits is its task: `asr` comes last, since
other tasks have its options and more."""


def pair_of(files: Collection[str]) -> Optional[Tuple[str, str]]:
    """Return the keys of a model's configuration and checkpoint among keys of files.

    A language model beside a recogniser is not the model; None where there is none.
    """
    pairs = {(task.config_key, task.model_key): None for task in TASKS.values()}
    found = [pair for pair in pairs if set(pair) <= set(files)]
    return found[-1] if found else None  # the language model comes first


def task_of(config: Mapping[str, Any], config_key: Optional[str] = None) -> Task:
    """Return the task of a training configuration.

    Args:
        config: The configuration.
        config_key: Its key in meta.yaml, where it has one.

    Raises:
        ValueError: If it is of no task that the plugin knows.
    """
    for task in TASKS.values():
        if config_key in (None, task.config_key) and task.is_its(config):
            return task
    raise ValueError(
        "the configuration is of no task whose models can be quantized; allowed: "
        f"config.yaml of a training of {', '.join(TASKS)}"
    )
