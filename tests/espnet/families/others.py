"""Tiny models of the tasks st, slu and lm."""

from typing import List

from tests.espnet.families.bases import BASES
from tests.espnet.families.family import (
    JOINT,
    PERPLEXITY,
    TRANSDUCER,
    TWO_PASS,
    WAVE,
    Family,
)

OTHERS: List[Family] = [
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
            {"model_conf": {**BASES["st"]["model_conf"], "mt_weight": 0.3}},
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
