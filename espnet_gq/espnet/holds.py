"""Every hold on ESPnet: which name of which module is replaced, by what, and why.

`registration` applies the list when ESPnet's modules are imported. Only names in
ESPnet's own modules are replaced. Where ESPnet has to call another library differently,
the module's global for that library is replaced (`torch` by a proxy, `Path` by a
subclass); other users of the library keep the original.
"""

import enum
from dataclasses import dataclass
from typing import Iterator, Tuple

from espnet_gq.espnet.tasks import TASKS

RELEASES = ("202511", "202611")
"""Supported ESPnet releases, the oldest first."""
PYTHON_311 = RELEASES[:1]
PYTHON_312 = RELEASES[1:]


class Kind(enum.Enum):
    """How a name is extended; see `Hold.by` for what each takes."""

    REGISTERED = "registered class"
    SUBCLASS = "subclass"
    WRAPPED = "wrapped function"
    PROXIED = "proxied global"
    SCOPED = "class replaced within one command"


@dataclass(frozen=True)
class Hold:
    """One name of ESPnet that the plugin extends.

    Attributes:
        module: ESPnet's module.
        name: Name within the module, dotted for an attribute of a class.
        kind: How it is extended.
        by: What extends it, as "module:name" below `espnet_gq.espnet`. REGISTERED: a
            mapping name -> class, added to ESPnet's `ClassChoices`. SUBCLASS: a
            subclass that takes the place of ESPnet's class. WRAPPED: a function that
            takes ESPnet's function and returns its replacement. PROXIED: an object
            that forwards to the module it stands in for. SCOPED: a function that is
            called in place of the class, while `registration.replaced` is entered.
        reason: One sentence.
        releases: ESPnet releases that have the name and need the hold.
    """

    module: str
    name: str
    kind: Kind
    by: str
    reason: str
    releases: Tuple[str, ...] = RELEASES

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


def _task(module: str, task: str, releases: Tuple[str, ...]) -> Iterator[Hold]:
    """Yield the holds that all recognition tasks have in common."""
    yield Hold(
        module,
        f"{task}.trainer",
        Kind.SUBCLASS,
        "training.trainer:GQTrainer",
        "Trains with the annealing and resumes exactly after an interruption.",
        releases,
    )
    for name, by, reason in (
        (
            "get_parser",
            "training.options:get_parser",
            "The parser's error says where a misplaced gq_conf belongs.",
        ),
        (
            "check_required_command_args",
            "training.options:check_required_command_args",
            "Options that quantized layers cannot follow are refused at the start.",
        ),
        (
            "main_worker",
            "training.options:main_worker",
            "DeepSpeed, for float models, requires ESPnet's own trainer.",
        ),
        (
            "build_model",
            "classes.building:build_model",
            "Quantizes the whole model by the gq_conf of model_conf, refuses one in a "
            "wrong place, and lets gq_transducer count as a transducer.",
        ),
        (
            "build_model_from_file",
            "inference.loading:build_model_from_file",
            "Packed checkpoints load, and trained ones come back hardened.",
        ),
        (
            "build_preprocess_fn",
            "inference.audio:build_preprocess_fn",
            "Remembers which audio the model was trained on.",
        ),
        (
            "build_streaming_iterator",
            "inference.audio:build_streaming_iterator",
            "Decoding leaves out and reports audio that cannot be decoded.",
        ),
    ):
        yield Hold(module, f"{task}.{name}", Kind.WRAPPED, by, reason, releases)


def _asr(module: str, releases: Tuple[str, ...]) -> Iterator[Hold]:
    for name, by, what in (
        ("encoder_choices", "classes.encoders:ENCODERS", "encoders"),
        ("decoder_choices", "classes.decoders:DECODERS", "decoders"),
        ("model_choices", "classes.model:MODELS", "models"),
    ):
        reason = f"ESPnet's configuration can name the quantized {what}."
        yield Hold(module, name, Kind.REGISTERED, by, reason, releases)
    yield from _task(module, "ASRTask", releases)


def _asr_transducer() -> Iterator[Hold]:
    module = "espnet2.tasks.asr_transducer"
    yield Hold(
        module,
        "decoder_choices",
        Kind.REGISTERED,
        "classes.transducer_task:DECODERS",
        "ESPnet's configuration can name the quantized decoders.",
    )
    yield Hold(
        module,
        "Encoder",
        Kind.SUBCLASS,
        "classes.transducer_task:GQTransducerEncoder",
        "The task has no choice of encoders; the subclass reads gq_conf.",
    )
    yield from _task(module, "ASRTransducerTask", RELEASES)


def _other_tasks() -> Iterator[Hold]:
    for task in TASKS.values():
        if task.name not in ("asr", "asr_transducer"):
            yield from _task(task.module, task.class_name, RELEASES)


def _torch() -> Iterator[Hold]:
    """Yield ESPnet's modules that see another `torch`."""
    saves = "torch.save writes atomically"
    loads = "torch.load can be confined to tensors"
    quantizes = "torch.quantization.quantize_dynamic serves packed models in int8"
    for module, what, releases in (
        (
            "espnet2.train.trainer",
            f"{saves}, {loads}, and clip_grad_norm_ names what is not finite",
            PYTHON_311,
        ),
        (
            "espnet2.train.trainer",
            f"{saves}, and clip_grad_norm_ names what is not finite",
            PYTHON_312,
        ),
        ("espnet2.main_funcs.average_nbest_models", f"{saves}, {loads}", PYTHON_311),
        ("espnet2.main_funcs.average_nbest_models", saves, PYTHON_312),
        ("espnet2.train.lightning_callbacks", saves, RELEASES),
        ("espnet3.components.callbacks.default_callbacks", saves, PYTHON_312),
        ("espnet2.torch_utils.safe_torch_load", loads, PYTHON_312),
        ("espnet2.torch_utils.load_pretrained_model", loads, PYTHON_311),
        ("espnet2.tasks.abs_task", loads, PYTHON_311),
        ("espnet2.bin.asr_inference", quantizes, PYTHON_311),
        ("espnet2.bin.asr_transducer_inference", quantizes, PYTHON_311),
        ("espnet2.bin.s2t_inference", quantizes, PYTHON_311),
        ("espnet2.bin.s2t_inference_ctc", quantizes, PYTHON_311),
        ("espnet2.bin.s2t_inference_language", quantizes, PYTHON_311),
        ("espnet2.bin.slu_inference", quantizes, PYTHON_311),
        ("espnet2.bin.lm_inference", quantizes, PYTHON_311),
    ):
        reason = f"In this module {what}."
        yield Hold(module, "torch", Kind.PROXIED, "torch_proxy:torch", reason, releases)


def _files() -> Iterator[Hold]:
    """Yield what makes ESPnet's other files atomic."""
    for module, reason in (
        (
            "espnet2.train.trainer",
            "Links to the best and the latest model are there at every moment.",
        ),
        ("espnet2.tasks.abs_task", "config.yaml is written atomically."),
        (
            "espnet2.train.lightning_espnet_model",
            "config.yaml is written atomically.",
        ),
    ):
        by = "training.atomic_files:AtomicPath"
        yield Hold(module, "Path", Kind.SUBCLASS, by, reason)
    for module, name, reason in (
        (
            "espnet2.train.reporter",
            "Reporter.matplotlib_plot",
            "Plots of a training are written atomically.",
        ),
        (
            "espnet2.fileio.datadir_writer",
            "DatadirWriter.__setitem__",
            "Results of decoding are written atomically.",
        ),
        (
            "espnet2.fileio.datadir_writer",
            "DatadirWriter.__exit__",
            "After an error there are no results, instead of a part of them.",
        ),
    ):
        function = name.partition(".")[2].strip("_")
        by = f"training.atomic_files:{function}"
        yield Hold(module, name, Kind.WRAPPED, by, reason)


def _functions() -> Iterator[Hold]:
    """Yield other functions of ESPnet.

    A module that imports such a function by name holds it, too, in case it was imported
    before the plugin.
    """
    for module, name, by, reason, releases in (
        (
            "espnet2.train.lightning_espnet_model",
            "LitESPnetModel.configure_callbacks",
            "training.lightning:configure_callbacks",
            "Lightning trains with the annealing.",
            RELEASES,
        ),
        (
            "espnet3.components.modeling.lightning_module",
            "ESPnetLightningModule.configure_callbacks",
            "training.lightning:configure_callbacks",
            "Lightning trains with the annealing.",
            PYTHON_312,
        ),
        *(
            (
                module,
                "load_pretrained_model",
                "inference.loading:load_pretrained_model",
                "--init_param says in one sentence what is wrong with a checkpoint.",
                RELEASES,
            )
            for module in (
                "espnet2.torch_utils.load_pretrained_model",
                "espnet2.tasks.abs_task",
            )
        ),
        *(
            (
                module,
                "pack",
                "sharing.model_zip:pack",
                "Stage 14 packs a quantized model and zips it with its float form.",
                RELEASES,
            )
            for module in ("espnet2.main_funcs.pack_funcs", "espnet2.bin.pack")
        ),
        *(
            (
                module,
                "quantize_dynamic",
                "inference.int8_option:quantize_dynamic",
                "--quantize_asr_model lets a packed model compute in int8.",
                PYTHON_312,
            )
            for module in (
                "espnet2.torch_utils.quantization",
                "espnet2.bin.asr_inference",
                "espnet2.bin.asr_transducer_inference",
                "espnet2.bin.s2t_inference",
                "espnet2.bin.s2t_inference_language",
                "espnet2.bin.slu_inference",
                "espnet2.bin.lm_inference",
            )
        ),
    ):
        yield Hold(module, name, Kind.WRAPPED, by, reason, releases)


STREAMING = Hold(
    "espnet2.bin.asr_inference_streaming",
    "Speech2TextStreaming",
    Kind.SCOPED,
    "inference.streaming:build_speech2text",
    "ESPnet's loop over utterances decodes transducers, too.",
)

HOLDS: Tuple[Hold, ...] = (
    *_asr("espnet2.tasks.asr", RELEASES),
    # ESPnet3 keeps a copy of the ASR task and of its class lists.
    *_asr("espnet3.systems.esp2_asr.task", PYTHON_312),
    *_asr_transducer(),
    *_other_tasks(),
    *_torch(),
    *_files(),
    *_functions(),
    STREAMING,
)
"""All holds on ESPnet. `warprnnt_pytorch`, which is not ESPnet's, is provided where it
is missing by `training.transducer_loss`."""


def holds(release: str) -> Tuple[Hold, ...]:
    """Return the holds on an ESPnet release; one that is not listed counts as newest.

    Args:
        release: Such as "202511".
    """
    if release not in RELEASES:
        release = RELEASES[-1]
    return tuple(hold for hold in HOLDS if release in hold.releases)
