"""Options that make a tiny model of each of ESPnet's classes."""

from typing import Any, Dict

from tests.espnet.families.bases import (
    BRANCHFORMER,
    CHUNKS,
    CONFORMER,
    E_BRANCHFORMER,
    ENCODER,
    FRONTEND,
    RNN,
    SIZE,
    WHISPER,
)

PIECES = [[SIZE, 10, 5], [SIZE, 3, 2], [SIZE, 3, 2], [SIZE, 2, 2], [SIZE, 2, 2]]
"""[channels, kernel size, stride] of convolutions on the waveform."""

ENCODERS: Dict[str, Dict[str, Any]] = {
    "conformer": CONFORMER,
    "transformer": ENCODER,
    "transformer_multispkr": {**ENCODER, "num_blocks_sd": 1, "num_inf": 2},
    "contextual_block_transformer": {**ENCODER, **CHUNKS},
    "contextual_block_conformer": {
        **{**ENCODER, **CHUNKS},
        **{"macaron_style": True, "cnn_module_kernel": 7},
    },
    "vgg_rnn": RNN,
    "rnn": {**RNN, "subsample": [2]},
    "torchaudiohubert": {
        "extractor_conv_layer_config": PIECES,
        "encoder_embed_dim": SIZE,
        "encoder_pos_conv_kernel": 8,
        "encoder_pos_conv_groups": 2,
        "encoder_num_layers": 1,
        "encoder_num_heads": 2,
        "encoder_ff_interm_features": 64,
        "encoder_layer_drop": 0.0,
        "mask_length": 2,
        "num_classes": 4,
        "final_dim": 8,
        "finetuning": True,
    },
    "branchformer": {**BRANCHFORMER, "rel_pos_type": "latest"},
    "whisper": WHISPER,
    "e_branchformer": {**E_BRANCHFORMER, "rel_pos_type": "latest"},
    "e_branchformer_ctc": {
        **E_BRANCHFORMER,
        "num_blocks": 2,
        "input_layer": "conv2d8",
        "interctc_layer_idx": [1],
        "interctc_use_conditioning": True,
    },
    "multiconv_conformer": {
        **ENCODER,
        "macaron_style": True,
        "rel_pos_type": "latest",
        "cgmlp_linear_units": 64,
        "multicgmlp_kernel_sizes": "3,5",
        "multicgmlp_merge_conv_kernel": 5,
    },
    "beats": {
        "beats_config": {
            **{"embed_dim": SIZE, "encoder_embed_dim": SIZE, "encoder_layers": 1},
            **{"encoder_ffn_embed_dim": 64, "encoder_attention_heads": 2},
            **{"conv_pos": 8, "conv_pos_groups": 2},
        }
    },
    "hugging_face_transformers": {
        "model_name_or_path": "ASSETS/bert",
        "vocab_size": 13,
    },
}
"""Of what takes speech."""

HUGGING_FACE = {"model_name_or_path": "ASSETS/bert"}
AFTER: Dict[str, Dict[str, Any]] = {
    **{
        name: {**ENCODERS[name], "input_layer": "linear"}
        for name in (
            *("conformer", "transformer", "branchformer", "e_branchformer"),
            *("contextual_block_transformer", "contextual_block_conformer"),
        )
    },
    "vgg_rnn": RNN,
    "rnn": {**RNN, "subsample": [1]},
    "hugging_face_transformers": HUGGING_FACE,
    "length_adaptor": {"length_adaptor_n_layers": 1},
}
"""Of what takes the output of another encoder."""

ATTENTION = {"attention_heads": 2, "linear_units": 64, "num_blocks": 1}
CONVOLUTION = {**ATTENTION, "conv_wshare": 2, "conv_kernel_length": 3}
DECODERS: Dict[str, Dict[str, Any]] = {
    "transformer": ATTENTION,
    "transformer_md": {**ATTENTION, "use_speech_attn": False},
    "mlm": ATTENTION,
    **{
        name: {**CONVOLUTION, "conv_kernel_length": [3]}
        for name in (
            *("lightweight_conv", "lightweight_conv2d"),
            *("dynamic_conv", "dynamic_conv2d"),
        )
    },
    "rnn": {"hidden_size": SIZE},
    "transducer": {"hidden_size": SIZE},
    "whisper": WHISPER,
    "hugging_face_transformers": {"model_name_or_path": "ASSETS/bart"},
    "s4": {
        "n_layers": 2,
        "layer": [
            {"_name_": "s4", "d_state": 8, "keops": False},
            {"_name_": "mha", "n_head": 2},
            {"_name_": "ff"},
        ],
        "residual": "R",
        "norm": "layer",
    },
    "linear_decoder": {},
}

FRONTENDS: Dict[str, Dict[str, Any]] = {
    "default": FRONTEND,
    "sliding_window": {"win_length": 400, "hop_length": 160},
    "s3prl": {
        "frontend_conf": {
            "upstream": "hf_wav2vec2_custom",
            "path_or_url": "ASSETS/wav2vec2",
        },
        "multilayer_feature": True,
    },
    "espnet_ssl": {"frontend_conf": {"path_or_url": "ASSETS/ssl/model.pth"}},
    "fused": {
        "frontends": [
            {"frontend_type": "default", **FRONTEND},
            {"frontend_type": "default", **FRONTEND, "n_mels": 16},
        ],
        "proj_dim": SIZE,
        "fs": 8000,
    },
    "whisper": WHISPER,
    "huggingface": {"model": "ASSETS/wav2vec2"},
    "wav2vec_cnn": {
        "norm_mode": "layer_norm",
        "conv_mode": "standard",
        "bias": True,
        "shapes": PIECES,
        "fs": 8000,
    },
}

CONFS: Dict[str, Dict[str, Dict[str, Any]]] = {
    "encoder": ENCODERS,
    "frontend": FRONTENDS,
    "preencoder": {
        "sinc": {"fs": 8000, "in_channels": 1, "out_channels": 128},
        "linear": {"input_size": FRONTEND["n_mels"], "output_size": SIZE},
    },
    "postencoder": AFTER,
    "deliberationencoder": AFTER,
    "hier_encoder": AFTER,
    "md_encoder": AFTER,
    "extra_mt_encoder": {
        "hugging_face_transformers": {"model_name_or_path": "ASSETS/bart"}
    },
    "promptencoder": {
        **{
            name: {**ENCODERS[name], "output_size": 16}
            for name in ("conformer", "transformer", "e_branchformer")
        },
        "branchformer": {
            **{**BRANCHFORMER, "output_size": 16, "rel_pos_type": "latest"},
            **{"attention_layer_type": "selfattn", "pos_enc_layer_type": "abs_pos"},
        },
    },
    "decoder": DECODERS,
    "extra_asr_decoder": DECODERS,
    "extra_mt_decoder": DECODERS,
    "postdecoder": {"hugging_face_transformers": {**HUGGING_FACE, "output_size": SIZE}},
    "lm": {
        "seq_rnn": {"unit": SIZE, "nlayers": 2},
        "transformer": {
            **{"att_unit": SIZE, "embed_unit": SIZE, "head": 2, "unit": 64, "layer": 1}
        },
        "transformer_opt": {"opt_name": "ASSETS/opt"},
    },
}
"""Part of a model -> name of the class -> its options."""

TRANSDUCER_DECODERS: Dict[str, Dict[str, Any]] = {
    "rnn": {"embed_size": SIZE, "hidden_size": SIZE},
    "stateless": {"embed_size": SIZE},
    "mega": {
        **{"block_size": SIZE, "linear_size": 64, "qk_size": SIZE, "v_size": SIZE},
        **{"num_heads": 2, "num_blocks": 1},
    },
    "rwkv": {"block_size": SIZE, "linear_size": 64, "attention_size": SIZE},
}
"""Of the task asr_transducer, whose decoders are others."""


def conf(task: str, part: str, name: str) -> Dict[str, Any]:
    """Return the options of a class."""
    if task == "asr_transducer" and part == "decoder":
        return TRANSDUCER_DECODERS[name]
    return CONFS[part][name]
