"""Classes of ESPnet of which there is no tiny model."""

from typing import Dict, Tuple

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
