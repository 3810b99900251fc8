"""Tiny models of the tasks asr, asr_transducer, s2t and s2t_ctc."""

from typing import List

from tests.espnet.families.family import (
    CONV1D,
    JOINT,
    TRANSDUCER,
    WAVE,
    Family,
    body,
)

RECOGNISERS: List[Family] = [
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
        {"frontend": "huggingface"},
        needs=("transformers",),
        since="202611",
        rate=16000,
    ),
    Family(
        "asr",
        {"decoder": "hugging_face_transformers"},
        needs=("transformers",),
        search={
            "hugging_face_decoder": True,
            "hugging_face_decoder_conf": {"num_beams": 2, "max_new_tokens": 6},
        },
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
        since="202611",
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
    Family("s2t_ctc", {"promptencoder": "conformer"}),
    Family("s2t_ctc", {"frontend": "fused"}, since="202611"),
    Family("s2t_ctc", {"promptencoder": "branchformer"}),
    Family("s2t_ctc", {"promptencoder": "e_branchformer"}),
    *(
        Family(
            "s2t_ctc",
            {"frontend": name},
            needs=(name,),
            since="202611",
            rate=16000,
        )
        for name in ("whisper", "s3prl")
    ),
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
]
