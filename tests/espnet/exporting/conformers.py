"""Tiny packed Conformers of random weights: transducers, and models with CTC."""

from typing import Any, Dict

from exporting.recognizers import CHARACTERS, FRONTEND, GQ, transducer

CONFORMER: Dict[str, Any] = {
    "output_size": 24,
    "attention_heads": 3,
    "linear_units": 40,
    "num_blocks": 3,
    "cnn_module_kernel": 7,
    "macaron_style": True,
    "rel_pos_type": "latest",
    **GQ,
}
BRANCHFORMER: Dict[str, Any] = {
    "output_size": 24,
    "attention_heads": 3,
    "num_blocks": 3,
    "cgmlp_linear_units": 40,
    "cgmlp_conv_kernel": 7,
    "use_ffn": True,
    "macaron_ffn": True,
    "linear_units": 30,
    "merge_conv_kernel": 5,
    **GQ,
}
BLOCKS: Dict[str, Any] = {
    **{key: value for key, value in CONFORMER.items() if key != "rel_pos_type"},
    **{"block_size": 10, "hop_size": 4, "look_ahead": 3},
}
PLAIN = {"pos_enc_layer_type": "abs_pos", "selfattention_layer_type": "selfattn"}
SCALED = {**PLAIN, "pos_enc_layer_type": "scaled_abs_pos"}


def of(encoder: str, base: Dict[str, Any], **changes) -> Dict[str, Any]:
    """Return the options of a transducer with such an encoder."""
    options = transducer(encoder, {})
    return {**options, "encoder_conf": {**base, **changes}}


def ctc(encoder: str, base: Dict[str, Any], **changes) -> Dict[str, Any]:
    """Return the options of a model with CTC and an attention decoder."""
    return {
        "token_list": CHARACTERS,
        "token_type": "char",
        "frontend_conf": FRONTEND,
        "normalize": "global_mvn",
        "encoder": encoder,
        "encoder_conf": {**base, **changes},
        "decoder": "gq_transformer",
        "decoder_conf": {"linear_units": 20, "num_blocks": 1, **GQ},
        "model": "gq_espnet",
        "model_conf": {"ctc_weight": 0.3, "gq_conf": {"bits": 4}},
    }


def second(**changes) -> Dict[str, Any]:
    """Return the options of the second transducer task; of its encoder's blocks some
    may differ."""
    return {
        "token_list": CHARACTERS,
        "token_type": "char",
        "frontend_conf": FRONTEND,
        "normalize": "global_mvn",
        "encoder_conf": {
            "main_conf": {
                **{"pos_wise_act_type": "swish", "conv_mod_act_type": "swish"},
                **{"dynamic_chunk_training": True, "short_chunk_size": 10},
                **changes.get("main_conf", {}),
            },
            "input_conf": {
                **{"vgg_like": False, "conv_size": 24, "subsampling_factor": 4},
                **changes.get("input_conf", {}),
            },
            "body_conf": [
                {
                    **{"block_type": "conformer", "hidden_size": 24, "heads": 3},
                    **{"linear_size": 40, "conv_mod_kernel_size": 7, "num_blocks": 2},
                    **changes.get("body_conf", {}),
                }
            ],
        },
        "decoder": changes.get("decoder", "rnn"),
        "decoder_conf": {"embed_size": 24, **changes.get("decoder_conf", {})},
        "joint_network_conf": {"joint_space_size": 32},
        "model_conf": {"report_cer": False, "report_wer": False, **GQ},
    }


TRANSDUCERS = {
    "conformer": of("gq_conformer", CONFORMER),
    "conformer_legacy": of("gq_conformer", {**CONFORMER, "rel_pos_type": "legacy"}),
    "e_branchformer": of("gq_e_branchformer", BRANCHFORMER),
    "contextual_block": of("gq_contextual_block_conformer", BLOCKS),
}
"""Name -> options of a transducer's training."""

CTC = {
    "conformer": ctc("gq_conformer", CONFORMER),
    "conformer_1_bit": ctc("gq_conformer", {**CONFORMER, "gq_conf": {"bits": 1}}),
    "e_branchformer": ctc("gq_e_branchformer", BRANCHFORMER),
}
"""Name -> options of a training with CTC."""

SECOND = {
    "lstm": second(decoder_conf={"hidden_size": 24}),
    "stateless": second(decoder="stateless"),
    "subsampling_6": second(
        input_conf={"subsampling_factor": 6}, decoder_conf={"hidden_size": 24}
    ),
    "whole": second(
        main_conf={"dynamic_chunk_training": False}, decoder_conf={"hidden_size": 24}
    ),
}
"""Name -> options of a training of the second transducer task."""

FLOAT_BLOCK = {
    "gq_conf": {"bits": 3, "rules": [{"pattern": "encoders.1.*", "float": True}]}
}
ENCODERS = {
    "plain": ("gq_conformer", {**CONFORMER, **PLAIN, "macaron_style": False}),
    "scaled": ("gq_conformer", {**CONFORMER, **SCALED, "use_cnn_module": False}),
    "float_block": ("gq_conformer", {**CONFORMER, **FLOAT_BLOCK}),
    "after": (
        "gq_conformer",
        {**CONFORMER, "normalize_before": False, "concat_after": True},
    ),
    "interctc": ("gq_conformer", {**CONFORMER, "interctc_layer_idx": [1]}),
    **{
        layer: ("gq_conformer", {**CONFORMER, "input_layer": layer})
        for layer in ("conv2d1", "conv2d2", "conv2d6", "conv2d8")
    },
    **{
        kind: ("gq_conformer", {**CONFORMER, "positionwise_layer_type": kind})
        for kind in ("conv1d", "conv1d-linear")
    },
    **{
        function: ("gq_conformer", {**CONFORMER, "activation_type": function})
        for function in ("relu", "tanh", "hardtanh", "selu")
    },
    "gate": (
        "gq_e_branchformer",
        {**BRANCHFORMER, "use_linear_after_conv": True, "gate_activation": "tanh"},
    ),
    "branches_legacy": (
        "gq_e_branchformer",
        {**BRANCHFORMER, "rel_pos_type": "legacy", "macaron_ffn": False},
    ),
    "branches_alone": ("gq_e_branchformer", {**BRANCHFORMER, "use_ffn": False}),
}
"""Name -> encoder and its options: one part different from the others."""
