"""ESPnet's families: tiny models that together contain every class it offers."""

from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Tuple

from espnet_gq.espnet.tasks import TASKS
from tests.espnet.families.bases import BASES, SIZE
from tests.espnet.families.confs import CONFS, conf
from tests.espnet.tiny_task import TOKENS

INSIDE = ("block", "joint network")
"""Parts that no option of the configuration names."""
PACKAGES = {"whisper": "openai-whisper", "s3prl": "espnet-s3prl"}
"""Module -> package of PyPI, where the names differ."""
WITHOUT_WEIGHTS = ("specaug", "normalize", "preprocessor")


@dataclass(frozen=True)
class Family:
    """A tiny model.

    Attributes:
        task: ESPnet's task, as in `espnet_gq.espnet.tasks`.
        parts: Part of the model, as in the configuration -> its class that is covered.
        options: What of the task's base configuration (`bases`) changes beside them.
        needs: Modules beside ESPnet's own that it needs.
        search: Further arguments of its inference class.
        untrained: Why ESPnet cannot train it; then it is trained for no step.
        inference: "module:class" that decodes with it, where it is not the task's.
        share: Least share of its matrix parameters that must be quantized.
        why: Why that is less than usual.
        rate: Sampling rate of its recordings in Hz.
    """

    task: str
    parts: Dict[str, str]
    options: Dict[str, Any] = field(default_factory=dict)
    needs: Tuple[str, ...] = ()
    search: Dict[str, Any] = field(default_factory=dict)
    untrained: str = ""
    inference: str = ""
    share: float = 0.95
    why: str = ""
    rate: int = 8000

    def __str__(self) -> str:
        names = self.parts.values()
        if len(self.parts) == 1:
            names = [name for pair in self.parts.items() for name in pair]
        return "-".join((self.task, *names)).replace(" ", "_")

    def config(self) -> Dict[str, Any]:
        """Return the configuration of the tiny model."""
        named = {k: v for k, v in self.parts.items() if k not in INSIDE}
        config = {**BASES[self.task], **named, **self.options}
        for part in CONFS:
            name = config.get(part)
            if name and f"{part}_conf" not in config:
                config[f"{part}_conf"] = conf(self.task, part, name)
        return config


WAVE = {"frontend": None, "input_size": 1, "normalize": None}
"""For encoders that take the waveform."""
TRANSDUCER = {"transducer_conf": {"search_type": "default"}}

JOINT = {"joint_space_size": SIZE}
PERPLEXITY = "tests.espnet.families.decoding:Perplexity"
CONV1D = {"output_size": SIZE}
TWO_PASS = {
    "postdecoder": "hugging_face_transformers",
    "transcript_token_list": TOKENS,
    "two_pass": True,
}
"""Of the task slu: decodes speech with a transcript beside it."""


def body(**options: Any) -> Dict[str, Any]:
    """Return the encoder of the task asr_transducer with a block of another kind."""
    base = BASES["asr_transducer"]["encoder_conf"]
    (block,) = base["body_conf"]
    return {**base, "body_conf": [{**block, **options}]}


FAMILIES: List[Family] = [
    # ---- asr ----
    Family(
        "asr",
        {
            "encoder": "conformer",
            "decoder": "transformer",
            "frontend": "default",
            "model": "espnet",
        },
    ),
    Family("asr", {"encoder": "transformer", "decoder": "rnn", "preencoder": "linear"}),
    Family(
        "asr",
        {"encoder": "transformer_multispkr", "model": "pit_espnet"},
        {
            "model_conf": {"ctc_weight": 0.3, "num_inf": 2, "num_ref": 2},
            "preprocessor": "multi",
            "preprocessor_conf": {"text_name": ["text", "text_spk2"]},
            "ctc_conf": {"reduce": False},
        },
        search={"multi_asr": True},
    ),
    Family(
        "asr",
        {"encoder": "contextual_block_transformer", "decoder": "lightweight_conv"},
    ),
    Family(
        "asr",
        {"encoder": "contextual_block_conformer", "decoder": "lightweight_conv2d"},
    ),
    Family("asr", {"encoder": "vgg_rnn", "decoder": "dynamic_conv"}),
    Family(
        "asr",
        {"encoder": "rnn", "decoder": "transducer", "joint network": "joint_network"},
        {"joint_net_conf": JOINT},
        search={**TRANSDUCER, "ctc_weight": 0.0},
    ),
    Family(
        "asr",
        {
            "encoder": "branchformer",
            "decoder": "dynamic_conv2d",
            "postencoder": "length_adaptor",
        },
    ),
    Family(
        "asr",
        {"encoder": "e_branchformer", "decoder": "mlm", "model": "maskctc"},
        inference="espnet2.bin.asr_inference_maskctc:Speech2Text",
    ),
    Family("asr", {"encoder": "multiconv_conformer"}),
    Family("asr", {"decoder": "s4"}, needs=("opt_einsum",)),
    Family(
        "asr",
        {"encoder": "torchaudiohubert", "decoder": "linear_decoder"},
        {**WAVE, "model_conf": {"ctc_weight": 0.0}},
        search={"ctc_weight": 0.0},
        rate=16000,
    ),
    Family("asr", {"encoder": "beats"}, {**WAVE}, rate=16000),
    Family("asr", {"frontend": "sliding_window", "preencoder": "sinc"}),
    Family("asr", {"frontend": "fused"}),
    Family("asr", {"frontend": "wav2vec_cnn"}),
    Family("asr", {"frontend": "espnet_ssl"}),
    Family("asr", {"frontend": "s3prl"}, needs=("s3prl",), rate=16000),
    Family(
        "asr",
        {"encoder": "whisper", "decoder": "whisper"},
        {**WAVE},
        needs=("whisper",),
        rate=16000,
    ),
    Family("asr", {"frontend": "whisper"}, needs=("whisper",), rate=16000),
    Family(
        "asr",
        {"frontend": "huggingface", "decoder": "hugging_face_transformers"},
        needs=("transformers",),
        search={
            "hugging_face_decoder": True,
            "hugging_face_decoder_conf": {"num_beams": 2, "max_new_tokens": 6},
        },
        rate=16000,
    ),
    Family(
        "asr",
        {"postencoder": "hugging_face_transformers"},
        needs=("transformers",),
    ),
    # ---- asr_transducer ----
    Family(
        "asr_transducer",
        {
            "block": "conformer",
            "decoder": "rnn",
            "frontend": "default",
            "joint network": "joint_network",
        },
    ),
    Family(
        "asr_transducer",
        {"block": "branchformer", "decoder": "stateless"},
        {"encoder_conf": body(block_type="branchformer")},
    ),
    Family(
        "asr_transducer",
        {"block": "ebranchformer", "decoder": "mega"},
        {"encoder_conf": body(block_type="ebranchformer")},
    ),
    Family(
        "asr_transducer",
        {"block": "conv1d"},
        {
            "encoder_conf": {
                "input_conf": {"block_type": "conv1d", "kernel_size": 3, **CONV1D},
                "body_conf": [{"block_type": "conv1d", "kernel_size": 3, **CONV1D}],
            }
        },
    ),
    # ---- s2t_ctc ----
    Family(
        "s2t_ctc",
        {
            "encoder": "e_branchformer_ctc",
            "promptencoder": "transformer",
            "frontend": "default",
            "model": "espnet_ctc",
        },
    ),
    Family("s2t_ctc", {"promptencoder": "conformer", "frontend": "fused"}),
    Family("s2t_ctc", {"promptencoder": "branchformer"}),
    Family("s2t_ctc", {"promptencoder": "e_branchformer"}),
    Family("s2t_ctc", {"frontend": "whisper"}, needs=("whisper",), rate=16000),
    Family("s2t_ctc", {"frontend": "s3prl"}, needs=("s3prl",), rate=16000),
    # ---- s2t ----
    Family(
        "s2t",
        {
            "encoder": "e_branchformer",
            "decoder": "transformer",
            "frontend": "default",
            "model": "espnet",
        },
    ),
    Family("s2t", {"encoder": "conformer", "decoder": "rnn"}),
    Family(
        "s2t",
        {
            "encoder": "transformer",
            "decoder": "lightweight_conv",
            "preencoder": "linear",
        },
    ),
    Family(
        "s2t",
        {"encoder": "contextual_block_transformer", "decoder": "lightweight_conv2d"},
    ),
    Family("s2t", {"encoder": "contextual_block_conformer", "decoder": "dynamic_conv"}),
    Family("s2t", {"encoder": "vgg_rnn", "decoder": "dynamic_conv2d"}),
    Family("s2t", {"encoder": "rnn", "frontend": "fused"}),
    Family(
        "s2t",
        {
            "encoder": "branchformer",
            "frontend": "sliding_window",
            "preencoder": "sinc",
        },
    ),
    Family("s2t", {"encoder": "torchaudiohubert"}, WAVE),
    Family("s2t", {"decoder": "s4"}, needs=("opt_einsum",)),
    Family(
        "s2t",
        {"encoder": "whisper", "decoder": "whisper"},
        WAVE,
        needs=("whisper",),
        rate=16000,
    ),
    Family("s2t", {"frontend": "whisper"}, needs=("whisper",), rate=16000),
    Family("s2t", {"frontend": "s3prl"}, needs=("s3prl",), rate=16000),
    Family(
        "s2t",
        {"postencoder": "hugging_face_transformers"},
        needs=("transformers",),
    ),
    # ---- st ----
    Family(
        "st",
        {
            "encoder": "conformer",
            "decoder": "transformer",
            "extra_asr_decoder": "transformer",
            "frontend": "default",
        },
    ),
    Family(
        "st",
        {
            "encoder": "transformer",
            "decoder": "transformer_md",
            "extra_asr_decoder": "transformer_md",
        },
    ),
    Family(
        "st",
        {
            "encoder": "contextual_block_transformer",
            "decoder": "lightweight_conv",
            "extra_asr_decoder": "lightweight_conv",
            "hier_encoder": "conformer",
            "preencoder": "linear",
        },
    ),
    Family(
        "st",
        {
            "encoder": "contextual_block_conformer",
            "decoder": "lightweight_conv2d",
            "extra_asr_decoder": "lightweight_conv2d",
            "hier_encoder": "transformer",
        },
    ),
    Family(
        "st",
        {
            "encoder": "vgg_rnn",
            "decoder": "dynamic_conv",
            "extra_asr_decoder": "dynamic_conv",
            "hier_encoder": "contextual_block_transformer",
        },
    ),
    Family(
        "st",
        {
            "encoder": "rnn",
            "decoder": "dynamic_conv2d",
            "extra_asr_decoder": "dynamic_conv2d",
            "hier_encoder": "contextual_block_conformer",
        },
    ),
    Family(
        "st",
        {
            "encoder": "branchformer",
            "decoder": "rnn",
            "extra_asr_decoder": "rnn",
            "hier_encoder": "branchformer",
        },
    ),
    Family(
        "st",
        {
            "encoder": "e_branchformer",
            "hier_encoder": "e_branchformer",
            "postencoder": "length_adaptor",
        },
    ),
    Family(
        "st",
        {
            "decoder": "transducer",
            "joint network": "st_joint_network",
            "hier_encoder": "rnn",
        },
        {"st_joint_net_conf": JOINT},
        search=TRANSDUCER,
    ),
    Family("st", {"frontend": "sliding_window", "preencoder": "sinc"}),
    *(
        Family(
            "st",
            {"md_encoder": name},
            search={"asr_beam_size": 2},
            untrained="ESPnet's model expects three results of the extra_asr_decoder "
            "that ESPnet can decode with, and it returns two",
        )
        for name in (
            *("conformer", "transformer", "vgg_rnn", "rnn"),
            *("contextual_block_transformer", "contextual_block_conformer"),
            *("branchformer", "e_branchformer"),
        )
    ),
    Family("st", {"hier_encoder": "vgg_rnn"}),
    *(
        Family(
            "st",
            {
                "extra_mt_encoder": "hugging_face_transformers",
                "extra_mt_decoder": name,
            },
            {"model_conf": {"asr_weight": 0.3, "mt_weight": 0.3, "mtlalpha": 0.3}},
            needs=("transformers",),
        )
        for name in (
            *("transformer", "lightweight_conv", "lightweight_conv2d"),
            *("dynamic_conv", "dynamic_conv2d", "rnn"),
        )
    ),
    Family(
        "st",
        {"encoder": "whisper", "decoder": "whisper"},
        WAVE,
        needs=("whisper",),
        rate=16000,
    ),
    Family(
        "st",
        {
            "frontend": "s3prl",
            "hier_encoder": "transformer",
            "postencoder": "hugging_face_transformers",
        },
        needs=("s3prl",),
        rate=16000,
    ),
    Family(
        "st",
        {"decoder": "hugging_face_transformers"},
        needs=("transformers",),
        search={"hugging_face_decoder": True, "hugging_face_decoder_max_length": 6},
    ),
    # ---- slu ----
    Family(
        "slu",
        {
            "encoder": "conformer",
            "decoder": "transformer",
            "frontend": "default",
            "model": "espnet",
        },
    ),
    Family("slu", {"encoder": "transformer", "decoder": "rnn", "preencoder": "linear"}),
    Family(
        "slu",
        {
            "encoder": "contextual_block_transformer",
            "decoder": "lightweight_conv",
            "postencoder": "conformer",
        },
    ),
    Family(
        "slu",
        {
            "encoder": "contextual_block_conformer",
            "decoder": "lightweight_conv2d",
            "postencoder": "transformer",
        },
    ),
    Family("slu", {"encoder": "vgg_rnn", "decoder": "dynamic_conv"}),
    Family("slu", {"encoder": "rnn", "decoder": "dynamic_conv2d", "frontend": "fused"}),
    Family(
        "slu",
        {
            "encoder": "branchformer",
            "decoder": "transducer",
            "joint network": "joint_network",
        },
        {"joint_net_conf": JOINT},
        search={**TRANSDUCER, "ctc_weight": 0.0},
    ),
    Family("slu", {"frontend": "sliding_window", "preencoder": "sinc"}),
    *(
        Family("slu", {"deliberationencoder": name}, TWO_PASS, needs=("transformers",))
        for name in ("conformer", "transformer")
    ),
    Family(
        "slu",
        {"frontend": "s3prl", "postencoder": "hugging_face_transformers"},
        needs=("s3prl",),
        rate=16000,
    ),
    Family(
        "slu",
        {
            "postdecoder": "hugging_face_transformers",
            "deliberationencoder": "hugging_face_transformers",
        },
        TWO_PASS,
        needs=("transformers",),
    ),
    Family("slu", {"encoder": "whisper"}, WAVE, needs=("whisper",), rate=16000),
    # ---- lm ----
    Family("lm", {"lm": "seq_rnn", "model": "lm_multitask"}),
    Family("lm", {"lm": "transformer"}),
    Family("lm", {"lm": "transformer_opt"}, needs=("transformers",)),
    Family("lm", {"model": "lm"}, inference=PERPLEXITY),
]

FAIRSEQ = (
    "needs fairseq, whose release on PyPI (0.12.2) Python 3.11 and later cannot import"
)
LONGFORMER = "needs a fork of longformer that is not on PyPI"
PREFIX = (
    "ESPnet's model of this task gives its encoder a prefix and the prompt, which only "
    "e_branchformer_ctc takes"
)
FRAMES = "the task has no preencoder, which its frames need"
SPEAKERS = "the task has no model of several speakers"
MASKS = "its model, maskctc, is one of the task asr alone"
THREE = (
    "ESPnet's model of this task expects two results of it, and it returns three: only "
    "hugging_face_transformers fits"
)
CANNOT: Dict[Tuple[str, str, str], str] = {
    **{
        (task, "encoder", name): FAIRSEQ
        for task in ("asr", "s2t", "st", "slu")
        for name in ("wav2vec2", "hubert", "hubert_pretrain")
    },
    ("asr", "encoder", "avhubert"): FAIRSEQ,
    ("s2t", "encoder", "transformer_multispkr"): SPEAKERS,
    ("s2t", "decoder", "mlm"): MASKS,
    ("s2t", "decoder", "hugging_face_transformers"): (
        "ESPnet's inference of the task has no search for it"
    ),
    ("slu", "decoder", "mlm"): MASKS,
    **{(task, "encoder", "longformer"): LONGFORMER for task in ("asr", "s2t", "slu")},
    **{
        ("s2t_ctc", "encoder", name): PREFIX
        for name in (
            *("conformer", "transformer", "transformer_multispkr", "vgg_rnn", "rnn"),
            *("contextual_block_transformer", "contextual_block_conformer"),
            *("wav2vec2", "hubert", "hubert_pretrain", "torchaudiohubert"),
            *("longformer", "branchformer", "whisper", "e_branchformer"),
        )
    },
    ("asr_transducer", "decoder", "rwkv"): (
        "needs a CUDA compiler, with which ESPnet builds its kernel"
    ),
    ("s2t_ctc", "model", "espnet"): (
        "ESPnet's task gives it a prompt encoder, which it does not take"
    ),
    ("s2t_ctc", "frontend", "sliding_window"): FRAMES,
    ("asr_transducer", "frontend", "sliding_window"): FRAMES,
    **{
        ("st", "extra_mt_encoder", name): THREE
        for name in (
            *("conformer", "transformer", "vgg_rnn", "rnn", "branchformer"),
            *("contextual_block_transformer", "contextual_block_conformer"),
            "e_branchformer",
        )
    },
}
"""(task, part, class) -> why there is no tiny model."""


def choices() -> Iterator[Tuple[str, str, str]]:
    """Yield (task, part, class) for everything that ESPnet offers as part of a model."""
    for task in TASKS.values():
        for choice in task.load().class_choices_list:
            if choice.name not in WITHOUT_WEIGHTS:
                for name in choice.classes:
                    yield task.name, choice.name, name
