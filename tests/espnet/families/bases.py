"""One tiny configuration per task of ESPnet, which a family changes in one part."""

from typing import Any, Dict

from tests.espnet.tiny_task import TOKENS, WORDS

SIZE = 32
"""Output size of encoders. Smaller ones have too few weights in matrices beside the
biases of their relative positions, which ESPnet keeps in parameters of its own."""
SECONDS = 2
"""Length to which the task s2t pads its input."""
SPECIAL = [
    *("<na>", "<nolang>", "<eng>", "<asr>", "<st_deu>", "<notimestamps>"),
    *(f"<{0.5 * i:.2f}>" for i in range(2 * SECONDS + 1)),
    *("<sos>", "<eos>", "<sop>"),
]
S2T_TOKENS = ["<blank>", "<unk>", *SPECIAL[:-3], "▁", *"efghinorstuvwxz", *SPECIAL[-3:]]
GERMAN = "null eins zwei drei vier fünf sechs sieben acht neun".split()
TRANSLATION = dict(zip(WORDS, GERMAN))
GERMAN_TOKENS = ["<blank>", "<unk>", *GERMAN, "<sos/eos>"]

ENCODER = {
    "output_size": SIZE,
    "attention_heads": 2,
    "linear_units": 64,
    "num_blocks": 1,
}
CONFORMER = {
    **ENCODER,
    "macaron_style": True,
    "rel_pos_type": "latest",
    "cnn_module_kernel": 7,
}
BRANCHFORMER = {
    "output_size": SIZE,
    "attention_heads": 2,
    "cgmlp_linear_units": 64,
    "cgmlp_conv_kernel": 7,
    "num_blocks": 1,
}
E_BRANCHFORMER = {
    **BRANCHFORMER,
    "use_ffn": True,
    "macaron_ffn": True,
    "linear_units": 64,
    "merge_conv_kernel": 3,
}
CHUNKS = {"block_size": 8, "hop_size": 4, "look_ahead": 4}
RNN = {"num_layers": 1, "hidden_size": SIZE, "output_size": SIZE}
WHISPER = {"whisper_model": "gq_tiny", "download_dir": "ASSETS"}
FRONTEND = {"fs": 8000, "n_fft": 256, "hop_length": 128, "n_mels": 20}
TINY = {"token_type": "word", "token_list": TOKENS}
SPEECH = {
    **TINY,
    "frontend": "default",
    "normalize": "utterance_mvn",
    "encoder": "conformer",
    "decoder": "transformer",
    "model_conf": {"ctc_weight": 0.3},
}
BPE = {"token_type": "bpe", "bpemodel": "ASSETS/bpe.model", "token_list": S2T_TOKENS}
_S2T = {"fs": 8000, "speech_length": SECONDS}

BASES: Dict[str, Dict[str, Any]] = {
    "asr": SPEECH,
    "st": {
        **SPEECH,
        "token_list": GERMAN_TOKENS,
        "src_token_type": "word",
        "src_token_list": TOKENS,
        "extra_asr_decoder": "transformer",
        "model_conf": {"asr_weight": 0.3, "mtlalpha": 0.3, "report_bleu": False},
    },
    "slu": SPEECH,
    "s2t": {
        **SPEECH,
        "encoder": "e_branchformer",
        **BPE,
        "preprocessor_conf": {
            **_S2T,
            "speech_resolution": 0.5,
            "notime_symbol": "<notimestamps>",
            "first_time_symbol": "<0.00>",
            "last_time_symbol": f"<{SECONDS:.2f}>",
        },
        "model_conf": {
            "ctc_weight": 0.3,
        },
    },
    "s2t_ctc": {
        **BPE,
        "frontend": "default",
        "normalize": "utterance_mvn",
        "encoder": "e_branchformer_ctc",
        "promptencoder": "transformer",
        "preprocessor_conf": _S2T,
        "model_conf": {"interctc_weight": 0.5, "ctc_asr_only": [False, False]},
    },
    "asr_transducer": {
        **TINY,
        "frontend": "default",
        "normalize": "utterance_mvn",
        "encoder_conf": {
            "input_conf": {
                "vgg_like": False,
                "conv_size": SIZE,
                "subsampling_factor": 4,
            },
            "body_conf": [
                {
                    "block_type": "conformer",
                    "hidden_size": SIZE,
                    "linear_size": 64,
                    "heads": 2,
                    "conv_mod_kernel_size": 7,
                }
            ],
        },
        "decoder": "rnn",
        "joint_network_conf": {"joint_space_size": SIZE},
    },
    "lm": {
        "token_type": "word",
        "token_list": [*TOKENS[:-1], "<generatetext>", "<generatespeech>", TOKENS[-1]],
        "lm": "seq_rnn",
        "model": "lm_multitask",
    },
}
