"""Chunk by chunk: the encoder's frames and the hypotheses of the whole utterance."""

import argparse
import sys

import numpy as np
import pytest
import soundfile
import torch
import yaml
from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.asr.transducer.beam_search_transducer import BeamSearchTransducer
from espnet2.bin import asr_inference
from espnet2.bin.asr_inference import Speech2Text
from espnet2.lm.seq_rnn_lm import SequentialRNNLM
from espnet2.tasks.asr import ASRTask, encoder_choices
from espnet2.tasks.lm import LMTask
from streaming_models import (
    ATTENTION,
    BLOCK,
    BLOCKS,
    COMMON,
    FRONTEND,
    RNN,
    command,
    read,
    save,
)
from tiny_task import TOKENS, recordings, run

import espnet_gq.espnet  # noqa: F401
from espnet_gq.bin import asr_inference_streaming
from espnet_gq.espnet.inference.chunks import (
    BLOCK_ENCODERS,
    BlockStream,
    RNNStream,
    TransducerSearch,
)
from espnet_gq.espnet.inference.streaming import Speech2TextStreaming


@pytest.fixture(scope="module")
def speech():
    """Three words in a row, and their tokens."""
    items = list(recordings())
    items = items[:: len(items) // 3][:3]
    samples = [soundfile.read(path, dtype="float32")[0][:8000] for _, path, _ in items]
    return np.concatenate(samples), [TOKENS.index(word) for _, _, word in items]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Many threads slow tiny models down, on a busy machine by far."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, speech):
    """Return the files of a transducer that knows the utterance, by its encoder."""
    path = tmp_path_factory.mktemp("streaming")
    samples, labels = torch.tensor(speech[0]), torch.tensor([speech[1]])
    lengths = torch.tensor([len(samples)])
    feats = DefaultFrontend(**FRONTEND)(samples[None], lengths)[0][0]
    stats = {"count": len(feats), "sum": feats.sum(0), "sum_square": (feats**2).sum(0)}
    np.savez(path / "stats.npz", **stats)
    done = {}

    def train(name):
        if name not in done:
            done[name] = save(
                path / name,
                normalize="global_mvn",
                normalize_conf={"stats_file": str(path / "stats.npz")},
                **{"rnn": RNN, "block": BLOCK}[name],
            )
            model, _ = ASRTask.build_model_from_file(*done[name])
            model.train()
            optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
            for _ in range(120):
                loss = model(samples[None], lengths, labels, torch.tensor([3]))[0]
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            torch.save(model.state_dict(), done[name][1])
        return done[name]

    return train


def chunks(x, length):
    """Split samples; length 0 is all of them and an empty chunk after them."""
    if not length:
        return [x, x[:0]]
    return [x[i : i + length] for i in range(0, len(x), length)]


def streamed(stream, x, length):
    """Return what a stream makes of x (1, N, ...), fed `length` at a time."""
    stream.reset()
    parts = chunks(x[0], length)
    last = len(parts) - 1
    outs = [stream(part[None].clone(), i == last) for i, part in enumerate(parts)]
    return torch.cat([out for out in outs if out is not None], 1)


@torch.no_grad()
def check_encoder(name, frames, lengths, **options):
    torch.manual_seed(1)
    encoder = encoder_choices.get_class(name)(20, **options).eval()
    streams = BlockStream if isinstance(encoder, BLOCK_ENCODERS) else RNNStream
    stream = streams(encoder)
    for total in frames:
        x = torch.randn(1, total, 20)
        whole, counts, _ = encoder(x.clone(), torch.tensor([total]))
        whole = whole[:, : int(counts[0])]
        for length in lengths:
            out = streamed(stream, x, length)
            assert out.shape == whole.shape, (total, length)
            torch.testing.assert_close(out, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rnn_type", ["lstm", "gru"])
@pytest.mark.parametrize("use_projection", [True, False])
@pytest.mark.parametrize("subsample", [[2, 2], [1, 3], [3, 2, 1], None], ids=str)
def test_rnn_encoders(rnn_type, use_projection, subsample):
    options = {
        "rnn_type": rnn_type,
        "use_projection": use_projection,
        "subsample": subsample,
        "num_layers": len(subsample or [1, 1]),
    }
    conf = {**RNN["encoder_conf"], **options}
    check_encoder("rnn", (5, 6, 7, 8, 12, 13), (1, 3, 4, 13, 0), **conf)


@pytest.mark.parametrize("use_projection", [True, False])
def test_vgg_rnn_encoders(use_projection):
    options = {"num_layers": 1, "hidden_size": 8, "output_size": 6}
    options.update(bidirectional=False, use_projection=use_projection)
    check_encoder("vgg_rnn", (1, 9, 23, 32), (1, 5, 32, 0), **options)


@pytest.mark.parametrize("kind", ["conformer", "transformer"])
def test_contextual_block_encoders(kind):
    frames = (16, 31, 43, 44, 45, 46, 91)
    check_encoder(f"contextual_block_{kind}", frames, (1, 9, 20, 0), **BLOCKS)


def test_dropout_stays_out():
    conf = {**RNN["encoder_conf"], "dropout": 0.5}
    encoder = encoder_choices.get_class("rnn")(20, **conf).eval()
    x = torch.randn(1, 9, 20)
    outs = [streamed(RNNStream(encoder), x, 4) for _ in range(2)]
    assert torch.equal(*outs)


@pytest.mark.parametrize(
    "conf",
    [
        {"n_fft": 256, "hop_length": 128},
        {"n_fft": 512, "hop_length": 160, "win_length": 400},
        {"n_fft": 128, "hop_length": 100},
        {"n_fft": 256, "hop_length": 100, "center": False},
    ],
    ids=str,
)
def test_frames_of_the_frontend(tmp_path, speech, conf):
    conf = {"fs": 8000, "n_mels": 20, **conf}
    files = save(tmp_path, frontend_conf=conf, **RNN)
    stream = Speech2TextStreaming(*files, beam_size=1)
    for total in (513, 640, 700):
        x = torch.tensor(speech[0][None, 2000 : 2000 + total])
        frontend = stream.asr_model.frontend
        whole, _ = frontend(x, torch.tensor([total]))
        for length in (1, 100, 160, 300, 1000, 0):
            out = streamed(stream.features, x, length)
            assert out.shape == whole.shape
            torch.testing.assert_close(out, whole, atol=1e-5, rtol=0)
    # Less than a frame, where the whole utterance has no features.
    assert stream(x[0, :10])[0][0] is not None


def same(results, expected):
    assert len(results) == len(expected)
    for result, other in zip(results, expected):
        assert result[:3] == other[:3]
        assert float(result[3].score) == pytest.approx(float(other[3].score), abs=1e-4)


@pytest.mark.parametrize("beam_size", [1, 4])
@pytest.mark.parametrize("name", ["rnn", "block"])
def test_hypotheses(trained, speech, name, beam_size):
    files, samples = trained(name), speech[0]
    options = {"beam_size": beam_size, "nbest": 4}
    whole = Speech2Text(*files, **options, transducer_conf={"nbest": 4})
    stream = Speech2TextStreaming(*files, **options)
    for length, total in (
        (1, 1500),
        (296, None),
        (640, None),
        (640, 6400),
        (len(samples), None),
        (0, None),
    ):
        x = samples[:total]
        parts = chunks(x, length)
        for part in parts[:-1]:
            partial = stream(part, is_final=False)
        results = stream(parts[-1])
        expected = whole(x)
        same(results, expected)
        if beam_size == 1 and len(parts) > 1:
            found = partial[0][2]
            assert results[0][2][: len(found)] == found
        # Another utterance is not touched by the one before it.
        same(stream(x[100:]), whole(x[100:]))
    assert len(expected) == (1 if beam_size == 1 else 4)
    assert expected[0][2], "nothing is found: the comparison says little"
    x = torch.tensor(samples[None])
    with torch.no_grad():
        encoded, _ = whole.asr_model.encode(x, torch.tensor([len(samples)]))
    for length in (296, 640):
        stream.reset()
        parts = chunks(x[0], length)
        with torch.no_grad():
            outs = [stream.encode(p[None], p is parts[-1]) for p in parts]
        out = torch.cat([out for out in outs if out is not None], 1)
        torch.testing.assert_close(out, encoded, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"score_norm": False},
        {"score_norm_during": True},
        {"lm_weight": 0.5},
    ],
    ids=str,
)
def test_search_goes_on_where_it_stopped(trained, speech, options):
    model, _ = ASRTask.build_model_from_file(*trained("rnn"))
    model.eval()
    torch.manual_seed(0)
    if "lm_weight" in options:
        options = {**options, "lm": SequentialRNNLM(len(TOKENS), unit=8).eval()}
    search = BeamSearchTransducer(
        model.decoder, model.joint_network, beam_size=3, nbest=3, **options
    )
    x = torch.tensor(speech[0][None])
    with torch.no_grad():
        frames = model.encode(x, torch.tensor([x.size(1)]))[0][0]
        expected = search(frames)
        for cache_size in (0, 1000):
            ours = TransducerSearch(search)
            ours.cache_size = cache_size
            for part in frames.split(3):
                hyps = ours(part)
            assert [h.yseq for h in hyps] == [h.yseq for h in expected]
            scores = [float(h.score) for h in hyps]
            assert scores == pytest.approx([float(h.score) for h in expected], abs=1e-4)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"normalize": "utterance_mvn"}, "utterance_mvn, which needs the whole"),
        (
            {"encoder_conf": {**RNN["encoder_conf"], "bidirectional": True}},
            "bidirectional is true; allowed: false",
        ),
        ({"encoder": "transformer", "encoder_conf": {}}, "encoder is transformer"),
        ({**BLOCK, "encoder_conf": {**BLOCKS, "input_layer": "linear"}}, "conv2d6"),
        (
            {
                "preencoder": "linear",
                "preencoder_conf": {"input_size": 20, "output_size": 9},
            },
            "preencoder",
        ),
        ({"frontend_conf": {**FRONTEND, "frontend_conf": {"use_wpe": True}}}, "wpe"),
        ({"frontend": "sliding_window", "frontend_conf": {}}, "is sliding_window"),
        (ATTENTION, "encoder is rnn, decoder transformer; allowed: a transducer"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_needs_the_whole_utterance_is_refused(tmp_path, capsys, changes, words):
    files = save(tmp_path, **{**RNN, **changes})
    with pytest.raises(SystemExit) as e:
        asr_inference_streaming.main(command(files, tmp_path, tmp_path / "out"))
    message = str(e.value)
    assert message.startswith("espnet-gq asr-inference-streaming: error: chunk by")
    assert words in message and "; allowed: " in message


def test_searches_over_the_whole_utterance_are_refused(tmp_path):
    files = save(tmp_path, **RNN)
    for beam_size, search_type in ((4, "alsd"), (4, "tsd"), (1, "mbg")):
        with pytest.raises(ValueError, match=f"search_type is '{search_type}'"):
            conf = {"search_type": search_type}
            Speech2TextStreaming(*files, beam_size=beam_size, transducer_conf=conf)
    Speech2TextStreaming(*files, beam_size=1, transducer_conf={"search_type": "tsd"})


@pytest.fixture(scope="module")
def data(tmp_path_factory, speech):
    """Two utterances, one of them shorter than a chunk."""
    folder = tmp_path_factory.mktemp("data")
    with open(folder / "wav.scp", "w") as scp:
        for name, samples in (("a", speech[0][:1500]), ("b", speech[0])):
            soundfile.write(folder / f"{name}.wav", samples, 8000)
            scp.write(f"{name} {folder}/{name}.wav\n")
    return folder


def test_command_without_the_launcher(tmp_path, trained, data):
    files = trained("rnn")
    options = ["--beam_size", "4", "--nbest", "2"]
    module = "espnet_gq.bin.asr_inference_streaming"
    chunked = ["--sim_chunk_length", "2000"]
    arguments = command(files, data, tmp_path / "ours", *options, *chunked)
    run([sys.executable, "-m", module, *arguments])
    config = tmp_path / "decode.yaml"
    config.write_text("transducer_conf: {nbest: 2}")
    options += ["--config", str(config)]
    asr_inference.main(command(files, data, tmp_path / "whole", *options))
    for rank in (1, 2):
        ours, whole = read(tmp_path / "ours", rank), read(tmp_path / "whole", rank)
        assert ours[0] == whole[0]
        assert ours[1].expected == whole[1]
    assert len(whole[0]["text"].splitlines()) == 2


def test_what_the_command_passes_on(tmp_path, monkeypatch, trained, data):
    fed, decode = [], Speech2TextStreaming.__call__

    def recorded(self, speech, is_final):
        fed.append((len(speech), is_final))
        return decode(self, speech, is_final)

    monkeypatch.setattr(Speech2TextStreaming, "__call__", recorded)
    before = asr_inference_streaming.espnet.Speech2TextStreaming
    scores = []
    for norm in ("true", "false"):
        extra = ["--beam_size", "4", "--transducer_conf", f"score_norm={norm}"]
        extra += ["--sim_chunk_length", "700"]
        arguments = command(trained("rnn"), data, tmp_path / norm, *extra)
        asr_inference_streaming.main(arguments)
        scores.append(read(tmp_path / norm)[1])
    assert scores[0].expected != scores[1]
    assert fed[:3] == [(700, False), (700, False), (100, True)]
    assert asr_inference_streaming.espnet.Speech2TextStreaming is before


def test_a_language_model_does_not_drop_out(tmp_path, trained, speech):
    args = vars(LMTask.get_parser().parse_args([]))
    args.update(token_list=TOKENS, lm="seq_rnn")
    args["lm_conf"] = {"unit": 8, "dropout_rate": 0.5}
    (tmp_path / "lm.yaml").write_text(yaml.safe_dump(args))
    model = LMTask.build_model(argparse.Namespace(**args))
    torch.save(model.state_dict(), tmp_path / "lm.pth")
    stream = Speech2TextStreaming(
        *trained("rnn"),
        beam_size=4,
        lm_train_config=tmp_path / "lm.yaml",
        lm_file=tmp_path / "lm.pth",
    )
    same(stream(speech[0]), stream(speech[0]))


def test_quantized_transducer(tmp_path, speech):
    conf = {"gq_conf": {"bits": 5}}
    files = save(
        tmp_path,
        encoder="gq_rnn",
        encoder_conf={**RNN["encoder_conf"], **conf},
        decoder="gq_transducer",
        decoder_conf={**COMMON["decoder_conf"], **conf},
        model="gq_espnet",
        model_conf={**COMMON["model_conf"], **conf},
    )
    stream = Speech2TextStreaming(*files, beam_size=1)
    for part in chunks(speech[0], 640):
        results = stream(part, is_final=False)
    same(stream(part[:0]), Speech2Text(*files, beam_size=1)(speech[0]))
    assert results


@pytest.mark.parametrize("beam", [1, 3])
def test_float_transducer_in_int8(trained, speech, beam):
    """PyTorch's int8 Linear takes no vectors; ESPnet's own searches pass them."""
    options = dict(quantize_asr_model=True, quantize_modules=["Linear"])
    stream = Speech2TextStreaming(*trained("rnn"), beam_size=beam, **options)
    module = stream.asr_model.joint_network.lin_out
    assert isinstance(module, torch.ao.nn.quantized.dynamic.Linear)
    for part in chunks(speech[0], 640):
        stream(part, is_final=False)
    found = stream(part[:0])[0][2]
    assert found and found == speech[1][: len(found)]  # so few units: int8 costs words


def test_attention_goes_through_espnets_own(tmp_path, data):
    conf = {"gq_conf": {"bits": 5}}
    files = save(
        tmp_path / "model",
        encoder="gq_contextual_block_conformer",
        encoder_conf={**BLOCKS, **conf},
        decoder="gq_transformer",
        decoder_conf={**ATTENTION["decoder_conf"], **conf},
    )
    scp = tmp_path / "wav.scp"  # ESPnet's own loop fails at utterances below a chunk
    scp.write_text((data / "wav.scp").read_text().splitlines()[1] + "\n")
    options = ["--beam_size", "2", "--sim_chunk_length", "2000"]
    arguments = command(files, tmp_path, tmp_path / "espnet", *options)
    asr_inference_streaming.espnet.main(arguments)
    asr_inference_streaming.main(command(files, tmp_path, tmp_path / "ours", *options))
    ours, espnet = read(tmp_path / "ours"), read(tmp_path / "espnet")
    assert ours[0] == espnet[0] and ours[1].expected == espnet[1]
    # What both say is what the whole utterance gives.
    asr_inference.main(command(files, tmp_path, tmp_path / "whole", *options[:2]))
    assert ours[0] == read(tmp_path / "whole")[0]
    assert ours[0]["text"].split()[1:]
    asr_inference_streaming.main(command(files, data, tmp_path / "short", *options))
    assert len(read(tmp_path / "short")[0]["text"].splitlines()) == 2
