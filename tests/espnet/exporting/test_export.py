"""What is exported, what is refused, and what the file says."""

import argparse
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from espnet2.text.build_tokenizer import build_tokenizer
from exporting.recognizers import CHARACTERS, FRONTEND, KINDS, make, transducer
from sentencepiece import SentencePieceTrainer

from espnet_gq.bin.export import main
from espnet_gq.device import Model
from espnet_gq.device.engine import find_library
from espnet_gq.espnet.exporting import CannotExport, export
from espnet_gq.espnet.exporting.tokens import add_tokens
from espnet_gq.packing import load_state_dict, unpack_state_dict
from espnet_gq.runtime.layout import from_planes

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "device"))
from random_model import HOP, speaker  # noqa: E402
from random_model import transducer as random_transducer  # noqa: E402

needs_engine = pytest.mark.skipif(find_library() is None, reason="no device engine")


def refusal(folder, options, **change):
    with pytest.raises(CannotExport) as error:
        export(make(folder, {**options, **change}), folder / "model.gguf")
    assert not (folder / "model.gguf").exists()
    return str(error.value)


WPE = {**FRONTEND, "frontend_conf": {"use_wpe": True}}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"encoder": "gq_transformer"}, "the encoder is GQTransformerEncoder; allowed"),
        ({"preencoder": "linear"}, "there is a preencoder; allowed on a device: none"),
        ({"frontend_conf": WPE}, "frontend_conf has use_wpe or use_beamformer"),
        (
            {"joint_net_conf": {"joint_activation_type": "selu"}},
            "joint_net_conf: the activation is SELU; allowed on a device: identity",
        ),
        ({"frontend_conf": {"n_fft": 255}}, "frontend_conf: n_fft is 255; allowed on"),
    ],
)
def test_parts_that_the_engine_lacks_are_named(tmp_path, change, message):
    change = dict(change)
    if change.get("encoder") == "gq_transformer":
        conf = {"output_size": 8, "attention_heads": 2, "linear_units": 8}
        change["encoder_conf"] = {**conf, "num_blocks": 1, "gq_conf": {"bits": 4}}
    if "preencoder" in change:
        change["preencoder_conf"] = {"input_size": 20, "output_size": 12}
    assert message in refusal(tmp_path, transducer("gq_rnn", {}), **change)


def test_the_command(tmp_path, capsys):
    files = make(tmp_path, KINDS["lstm"])
    output = tmp_path / "new" / "model.gguf"
    main([*map(str, files), "-o", str(output)])
    size = output.stat().st_size / 1e6
    assert capsys.readouterr().out == (
        f"{output}: rnn encoder, transducer, {size:.2f} MB\n"
    )
    with pytest.raises(SystemExit):
        main([str(tmp_path / "absent.zip"), "-o", str(output)])
    assert "absent.zip: no such file or folder" in capsys.readouterr().err


def test_a_float_checkpoint_is_refused(tmp_path):
    config, packed = make(tmp_path, KINDS["lstm"])
    state = unpack_state_dict(load_state_dict(packed))
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(CannotExport, match="model.pth is not packed; allowed: what"):
        export((config, tmp_path / "model.pth"), tmp_path / "model.gguf")


@needs_engine
def test_two_exports_are_one_file_and_its_checksum_fits(tmp_path):
    files = make(tmp_path, KINDS["lstm"])
    for name in ("a", "b"):
        export(files, tmp_path / name)
        Model(tmp_path / name).verify()
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_another_reader_finds_the_packed_weights(tmp_path):
    """The gguf package reads the file: its indices give the checkpoint's weights."""
    files = make(tmp_path, KINDS["lstm"])
    export(files, tmp_path / "model.gguf")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    state = unpack_state_dict(load_state_dict(files[1]))
    for name, key in (
        ("joint.output", "joint_network.lin_out.weight"),
        ("encoder.rnn.1.forward.hh", "encoder.enc.0.rnn1.weight_hh_l0"),
        ("predictor.embed", "decoder.embed.weight"),
    ):
        rows, cols = reader.fields[f"{name}.shape"].contents()
        codebook, scale = (
            np.array(tensors[f"{name}.{part}"].data) for part in ("codebook", "scale")
        )
        planes = np.array(tensors[f"{name}.planes"].data).view(np.uint8)
        bits = len(codebook).bit_length() - 1
        index = from_planes(torch.from_numpy(planes), rows, cols, bits).numpy()
        weight = np.repeat(scale, rows // len(scale))[:, None] * codebook[index]
        np.testing.assert_array_equal(weight, state[key].numpy())
        assert tensors[f"{name}.planes"].data_offset % 64 == 0


# ---- Tokens to text -----------------------------------------------------------------
WORDS = "the cat sat on a mat with other cats and hats that were flat".split()


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """Return the path of a sentencepiece model, and ESPnet's tokens for it."""
    folder = tmp_path_factory.mktemp("bpe")
    text = [" ".join(WORDS[i:] + WORDS[:i]) for i in range(len(WORDS))]
    (folder / "text").write_text("\n".join(text * 3) + "\n")
    SentencePieceTrainer.train(
        input=str(folder / "text"),
        model_prefix=str(folder / "bpe"),
        vocab_size=40,
        model_type="bpe",
        minloglevel=2,
    )
    vocabulary = (folder / "bpe.vocab").read_text().splitlines()
    listed = [line.split("\t")[0] for line in vocabulary]
    listed = [piece for piece in listed if piece not in ("<unk>", "<s>", "</s>")]
    return folder / "bpe.model", ["<blank>", "<unk>", *listed, "<sos/eos>"]


@needs_engine
@pytest.mark.parametrize("kind", ["bpe", "char", "phn", "word"])
def test_text_of_tokens(tmp_path, pieces, kind):
    """The engine's text of many sequences of tokens is that of ESPnet's tokenizer."""
    bpemodel, listed = pieces
    every = {"bpe": listed, "char": CHARACTERS, "phn": CHARACTERS, "word": WORDS}[kind]
    tokenizer = build_tokenizer(kind, bpemodel=str(bpemodel), g2p_type=None)
    args = argparse.Namespace(token_type=kind, bpemodel=bpemodel)
    tokens = every if every[0] == "<blank>" else ["<blank>", *every]
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(tokens) - 1) + 1
        file = speaker(order, len(tokens))
        add_tokens(file, args, tokens)
        file.write(tmp_path / "model.gguf")
        said = []
        with Model(tmp_path / "model.gguf").stream() as stream:
            for _ in order:  # a token each, after the first ones
                stream.feed(np.zeros(2 * HOP, np.float32))
                (found,) = stream.results()
                assert found.text == tokenizer.tokens2text(found.tokens)
                said = found.token_int
        assert len(said) > len(order) - 3 and said == tuple(order)[: len(said)]


def test_pieces_that_are_no_text_are_refused(pieces):
    bpemodel, listed = pieces
    args = argparse.Namespace(token_type="bpe", bpemodel=bpemodel)
    with pytest.raises(CannotExport, match="token '</s>' is a control symbol"):
        add_tokens(random_transducer(), args, [*listed, "</s>"])
