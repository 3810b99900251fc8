"""Tiny local stand-ins for the pretrained models that some ESPnet classes load.

Nothing is downloaded: each is of the real architecture, with random weights.
"""

import base64
import gzip
import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
import yaml
from espnet2.tasks.ssl import SSLTask

from tests.espnet.families.bases import S2T_TOKENS, SPECIAL
from tests.espnet.families.confs import ENCODERS, FRONTENDS
from tests.espnet.tiny_task import TOKENS, WORDS

WHISPER = "gq_tiny"
SIZE = 32
HEADS = 2


def has(package: str) -> bool:
    """Return whether a package is installed."""
    return importlib.util.find_spec(package) is not None


def make(folder: Path) -> None:
    """Write everything that the installed packages can use."""
    torch.manual_seed(1)
    folder.mkdir(parents=True)
    _bpe(folder)
    _ssl(folder / "ssl")
    if has("whisper"):
        _whisper(folder)
    if has("transformers"):
        _transformers(folder)
    register(folder)


def register(folder: Any) -> None:
    """Let the Whisper package find the tiny model under a name, as ESPnet asks for.

    It verifies the file's checksum, which it reads off the URL.
    """
    path = Path(folder) / f"{WHISPER}.pt"
    if path.exists():
        import whisper

        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        whisper._MODELS[WHISPER] = f"https://localhost/{digest}/{path.name}"
        heads = np.ones((1, HEADS), dtype=bool).tobytes()
        whisper._ALIGNMENT_HEADS[WHISPER] = base64.b85encode(gzip.compress(heads))
        # ESPnet needs this name of a release of 2023, which current ones lack.
        whisper.audio.N_MELS = 80


def _bpe(folder: Path) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(WORDS)] * 10),
        model_prefix=str(folder / "bpe"),
        model_type="char",
        vocab_size=len(S2T_TOKENS) + 1,  # <s> and </s> for <blank>
        user_defined_symbols=SPECIAL,
        minloglevel=2,
    )


def _ssl(folder: Path) -> None:
    """Write a self-supervised model of ESPnet's own."""
    folder.mkdir()
    config = {
        "frontend": "wav2vec_cnn",
        "frontend_conf": FRONTENDS["wav2vec_cnn"],
        "preencoder": None,
        "normalize": None,
        "encoder_conf": ENCODERS["transformer"] | {"input_layer": "linear"},
        "loss": [{"name": "hubert", "conf": {"num_classes": 4, "final_dim": 8}}],
        "util": [{"name": "mask", "conf": {"mask_length": 2}}],
        "num_classes": 4,
        "token_list": ["0", "1", "2", "3"],
    }
    (folder / "train.yaml").write_text(yaml.safe_dump(config))
    options = ["--config", str(folder / "train.yaml"), "--output_dir", str(folder)]
    args = SSLTask.get_parser().parse_args(options)
    model = SSLTask.build_model(args)
    (folder / "config.yaml").write_text(yaml.safe_dump(vars(args)))
    torch.save(model.state_dict(), folder / "model.pth")


def _whisper(folder: Path) -> None:
    from whisper.model import ModelDimensions, Whisper

    dims = {
        **{"n_mels": 80, "n_audio_ctx": 1500, "n_audio_state": SIZE},
        **{"n_audio_head": HEADS, "n_audio_layer": 1},
        **{"n_vocab": len(TOKENS), "n_text_ctx": 16, "n_text_state": SIZE},
        **{"n_text_head": HEADS, "n_text_layer": 1},
    }
    model = Whisper(ModelDimensions(**dims))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    saved = {"dims": dims, "model_state_dict": model.state_dict()}
    torch.save(saved, folder / f"{WHISPER}.pt")


def _transformers(folder: Path) -> None:
    import transformers

    text = {
        "vocab_size": len(TOKENS),
        "hidden_size": SIZE,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
    }
    speech = {
        "hidden_size": SIZE,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "intermediate_size": 64,
        "conv_dim": [SIZE] * 7,
        "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 2,
        "layerdrop": 0.0,
        "apply_spec_augment": False,
    }
    bart = transformers.BartConfig(
        vocab_size=len(TOKENS),
        d_model=SIZE,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=32,
    )
    opt = transformers.OPTConfig(
        vocab_size=len(TOKENS),
        hidden_size=SIZE,
        word_embed_proj_dim=SIZE,
        ffn_dim=64,
        num_hidden_layers=1,
        num_attention_heads=HEADS,
        max_position_embeddings=32,
    )
    for name, model in (
        ("bert", transformers.BertModel(transformers.BertConfig(**text))),
        ("opt", transformers.OPTModel(opt)),
        ("llama", transformers.LlamaForCausalLM(transformers.LlamaConfig(**text))),
        ("bart", transformers.BartForConditionalGeneration(bart)),
        ("wav2vec2", transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**speech))),
        ("hubert", transformers.HubertModel(transformers.HubertConfig(**speech))),
    ):
        model.save_pretrained(folder / name)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    tokenizer = transformers.BertTokenizerFast(vocab_file=str(folder / "vocab.txt"))
    for name in ("bert", "llama"):
        tokenizer.save_pretrained(folder / name)
    extractor = transformers.Wav2Vec2FeatureExtractor()
    for name in ("wav2vec2", "hubert"):
        extractor.save_pretrained(folder / name)


def placed(value: Any, folder: Path) -> Any:
    """Return options in which ASSETS is the folder of the stand-ins."""
    text = json.dumps(value).replace("ASSETS", str(folder))
    return json.loads(text)
