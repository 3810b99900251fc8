"""Conformers on a device give the tokens and scores of PyTorch's packed exact mode."""

import functools

import numpy as np
import pytest
import torch
from espnet2.bin.asr_transducer_inference import Speech2Text as SecondSpeech2Text
from espnet2.tasks.asr_transducer import ASRTransducerTask
from exporting.conformers import CTC, ENCODERS, SECOND, TRANSDUCERS, ctc, of, second
from exporting.recognizers import make, utterances

import espnet_gq
from espnet_gq.device import Model
from espnet_gq.device.engine import find_library
from espnet_gq.espnet.exporting import CannotExport, export
from espnet_gq.runtime import set_mode

pytestmark = pytest.mark.skipif(find_library() is None, reason="no device engine")

COUNT = 6
CLOSE = {"exact": 1e-3, "int8": 0.1}
"""Difference of a score that is allowed. With activations rounded to 8 bits, one that
lies between two steps may go to either."""
WINDOW = 320
"""ESPnet counts chunks at 16 kHz: those of 640 ms at 8 kHz are of 320 ms there."""


@functools.lru_cache(maxsize=None)
def speech():
    return utterances(COUNT)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a function: options of a training -> (its files, its model on the device,
    the notes of its export)."""
    done = {}

    def build(options, **changes):
        key = str((options, changes))
        if key not in done:
            folder = tmp_path_factory.mktemp("conformer")
            files = make(folder, options, **changes)
            exported = export(files, folder / "model.gguf")
            done[key] = files, Model(folder / "model.gguf"), exported.notes
        return done[key]

    return build


def chunked(model, samples, size, **options):
    """Return the results of an utterance that is fed in chunks."""
    with model.stream(mode="exact", **options) as stream:
        for i in range(0, len(samples), size):
            stream.feed(samples[i : i + size])
        stream.finish()
        return stream.results()


def same(found, expected, mode="exact"):
    """Compare results with ESPnet's; return the number of tokens of the best one."""
    assert len(found) == len(expected)
    for result, (text, token, token_int, hyp) in zip(found, expected):
        assert result.token_int == tuple(token_int)
        assert result.tokens == tuple(token)
        assert result.text == text
        assert abs(result.score - float(hyp.score)) < CLOSE[mode]
    return len(found[0].tokens)


# --- transducers of the ASR task ------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("beam", [1, 4])
@pytest.mark.parametrize("kind", TRANSDUCERS)
def test_transducers(made, kind, beam):
    files, model, _ = made(TRANSDUCERS[kind], blank=2.0)
    speech2text = espnet_gq.Speech2Text.from_pretrained(
        files, beam_size=beam, transducer_conf={"nbest": beam}, nbest=beam
    )
    tokens = 0
    for samples in speech().values():
        found = model.transcribe(samples, mode="exact", beam=beam, nbest=beam)
        tokens += same(found, speech2text(samples))
    assert tokens >= COUNT


@torch.no_grad()
@pytest.mark.parametrize("kind", TRANSDUCERS)
def test_int8(made, kind):
    files, model, _ = made(TRANSDUCERS[kind], blank=2.0)
    speech2text = espnet_gq.Speech2Text.from_pretrained(
        files, beam_size=1, quantize_asr_model=True
    )
    for samples in list(speech().values())[:3]:
        same(model.transcribe(samples, mode="int8"), speech2text(samples), "int8")


@pytest.mark.parametrize("size", [77, 1280])
@pytest.mark.parametrize("kind", TRANSDUCERS)
def test_chunks_give_the_result_of_the_whole(made, kind, size):
    _, model, _ = made(TRANSDUCERS[kind], blank=2.0)
    assert model.streams == (kind == "contextual_block")
    for samples in list(speech().values())[:2]:
        whole = model.transcribe(samples, mode="exact")
        parts = chunked(model, samples, size)
        assert parts[0].token_int == whole[0].token_int
        assert parts[0].score == pytest.approx(whole[0].score, abs=CLOSE["exact"])
        assert parts[0].times == whole[0].times


@torch.no_grad()
def test_contextual_blocks_as_the_streaming_decoder(made):
    files, model, _ = made(TRANSDUCERS["contextual_block"], blank=2.0)
    speech2text = espnet_gq.Speech2TextStreaming.from_pretrained(files, beam_size=1)
    for samples in speech().values():
        with model.stream(mode="exact") as stream:
            partial = set()
            for i in range(0, len(samples), 1280):
                final = i + 1280 >= len(samples)
                expected = speech2text(samples[i : i + 1280], final)
                stream.feed(samples[i : i + 1280])
                partial.add(stream.results()[0].token_int)
            stream.finish()
            same(stream.results(), expected)
        assert len(partial) > 2


def test_an_utterance_without_a_frame(made):
    for kind in TRANSDUCERS:
        _, model, _ = made(TRANSDUCERS[kind], blank=2.0)
        for n in (0, 1, 128, 600):
            (result,) = model.transcribe(np.zeros(n, np.float32), mode="exact")
            assert result.tokens == () and result.score == 0.0


# --- CTC ------------------------------------------------------------------------------


@torch.no_grad()
def log_probabilities(speech2text, samples):
    """Return PyTorch's CTC log-probabilities (T, V) of an utterance."""
    model, lengths = speech2text.asr_model, torch.tensor([len(samples)])
    encoded, _ = model.encode(torch.tensor(samples)[None], lengths)
    encoded = encoded[0] if isinstance(encoded, tuple) else encoded
    return model.ctc.log_softmax(encoded)[0].double()


def check_greedy(files, model, mode="exact", stride=4):
    """Compare with the best label of each frame; return the number of tokens."""
    speech2text = espnet_gq.Speech2Text.from_pretrained(files)
    set_mode(speech2text.asr_model, mode)
    tokens = 0
    for samples in speech().values():
        logp = log_probabilities(speech2text, samples)[:, :-1]  # without <sos/eos>
        scores, labels = logp.max(-1)
        labels = labels.tolist()
        pairs = list(enumerate(zip(labels, [0, *labels])))
        kept = [(i, label) for i, (label, last) in pairs if label and label != last]
        (found,) = model.transcribe(samples, mode=mode)
        assert found.token_int == tuple(label for _, label in kept)
        assert abs(found.score - float(scores.sum())) < CLOSE[mode]
        times = [i * stride * 128 / 8000 for i, _ in kept]
        np.testing.assert_allclose(found.times, times, 1e-6)
        text = speech2text.tokenizer.tokens2text(list(found.tokens))
        assert found.text == text
        tokens += len(found.tokens)
    return tokens


@pytest.mark.parametrize("kind", CTC)
def test_greedy_ctc(made, kind):
    files, model, notes = made(CTC[kind], blank=0.0)
    assert check_greedy(files, model) > 2 * COUNT
    assert any("GQTransformerDecoder is left out" in note for note in notes)
    assert not model.streams


def test_greedy_ctc_in_int8(made):
    assert check_greedy(*made(CTC["conformer"], blank=0.0)[:2], "int8") > 3 * COUNT


@pytest.mark.parametrize("kind", ENCODERS)
def test_parts_of_encoders(made, kind):
    files, model, notes = made(ctc(*ENCODERS[kind]), blank=0.0)
    stride = int(kind[6:]) if kind.startswith("conv2d") else 4
    assert check_greedy(files, model, stride=stride) > COUNT
    assert (kind == "interctc") == any("interctc_layer_idx" in note for note in notes)


def prefix_beam_search(logp, beam, tried):
    """The algorithm in its textbook form, on log-probabilities (T, V) without the last
    label. Returns the prefixes, the best first."""
    never = -np.inf
    beams = {(): (0.0, never)}  # of paths that end in blank, in a label
    for frame in logp:
        best = frame[1:].argsort()[::-1][:tried] + 1
        new = {}

        def add(prefix, which, value):
            found = list(new.get(prefix, (never, never)))
            found[which] = np.logaddexp(found[which], value)
            new[prefix] = tuple(found)

        for prefix, (blank, label) in beams.items():
            add(prefix, 0, np.logaddexp(blank, label) + frame[0])
            if prefix:
                add(prefix, 1, label + frame[prefix[-1]])
            known = [p[-1] for p in beams if len(p) > len(prefix) and p[:-1] == prefix]
            for k in {*best.tolist(), *known}:
                repeated = bool(prefix) and prefix[-1] == k
                before = blank if repeated else np.logaddexp(blank, label)
                if before > never:
                    add((*prefix, k), 1, before + frame[k])
        order = sorted(new, key=lambda p: -np.logaddexp(*new[p]))
        beams = {prefix: new[prefix] for prefix in order[:beam]}
    return {prefix: np.logaddexp(*both) for prefix, both in beams.items()}


def of_all_paths(logp, labels):
    """Return the log-probability of labels, given log-probabilities (T, V)."""
    loss = torch.nn.functional.ctc_loss(
        logp[:, None],
        torch.tensor([labels]),
        torch.tensor([len(logp)]),
        torch.tensor([len(labels)]),
        reduction="none",
    )
    return -float(loss)


@pytest.mark.parametrize("kind", ["conformer", "e_branchformer"])
def test_prefix_beam_search_is_that_of_the_textbook(made, kind):
    files, model, _ = made(CTC[kind], blank=0.0)
    speech2text = espnet_gq.Speech2Text.from_pretrained(files)
    tokens = 0
    for samples in list(speech().values())[:3]:
        logp = log_probabilities(speech2text, samples)
        values = logp[:, :-1].numpy()  # without <sos/eos>
        for beam in (2, 15):
            expected = prefix_beam_search(values, beam, max(2 * beam, 16))
            found = model.transcribe(samples, mode="exact", beam=beam, nbest=beam)
            assert {r.token_int for r in found} == {*expected}
            scores = [r.score for r in found]
            assert scores == sorted(scores, reverse=True)
            for result in found:
                assert list(result.times) == sorted(result.times)
                assert len(result.times) == len(result.tokens)
                # All labels are tried with the wider beam: no path is left out.
                true = of_all_paths(logp, result.token_int)
                assert result.score < true + CLOSE["exact"]
                assert result.score > expected[result.token_int] - CLOSE["exact"]
                assert beam == 2 or result.score > true - CLOSE["exact"]
            tokens += len(found[0].tokens)
    assert tokens > COUNT


@torch.no_grad()
def test_a_sharp_model_as_espnet_with_ctc_weight_1(made):
    """Where the posteriors are sharp as those of a trained model, ESPnet's own search
    finds the same, and the score is that of all paths of the labels."""
    files, model, _ = made(CTC["e_branchformer"], blank=0.0, sharpness=8.0)
    speech2text = espnet_gq.Speech2Text.from_pretrained(
        files, beam_size=10, ctc_weight=1.0
    )
    for samples in speech().values():
        (expected,) = speech2text(samples)
        (found,) = model.transcribe(samples, mode="exact", beam=10)
        assert found.token_int == tuple(expected[2])
        assert abs(found.score - float(expected[3].score)) < CLOSE["exact"]
        logp = log_probabilities(speech2text, samples)
        assert abs(found.score - of_all_paths(logp, found.token_int)) < CLOSE["exact"]


# --- the second transducer task -------------------------------------------------------


def second_speech2text(files, beam, streams):
    return SecondSpeech2Text(
        *map(str, files),
        **dict(beam_size=beam, nbest=beam, streaming=streams, decoding_window=WINDOW),
    )


def streamed(speech2text, samples):
    """Return what ESPnet's program makes of an utterance, chunk by chunk."""
    size = speech2text.audio_processor.decoding_samples
    steps = len(samples) // size
    for i in range(steps):
        speech2text.streaming_decode(samples[i * size : (i + 1) * size])
    return speech2text.streaming_decode(samples[steps * size :], is_final=True)


@torch.no_grad()
@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("kind", SECOND)
def test_the_second_task(made, kind, beam):
    files, model, _ = made(SECOND[kind], blank=-1.0, task=ASRTransducerTask)
    assert model.streams == (kind != "whole")
    for number, samples in enumerate(speech().values()):
        # Lengths on both sides of the ends of chunks and frames.
        n = [3000, len(samples) // 5120 * 5120, len(samples), 10239][number % 4]
        samples = samples[:n]
        speech2text = second_speech2text(files, beam, model.streams)
        hyps = (streamed if model.streams else type(speech2text).__call__)(
            speech2text, samples
        )
        expected = speech2text.hypotheses_to_results(hyps)
        # Few tokens come out; the scores depend on all frames.
        same(chunked(model, samples, 1000, beam=beam, nbest=beam), expected)
        whole = model.transcribe(samples, mode="exact", beam=beam, nbest=beam)
        assert same(whole, expected) == len(expected[0][2])


# --- refusals -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"input_layer": "linear"},
            "input_layer is Sequential; allowed on a device: conv",
        ),
        ({"zero_triu": True}, "zero_triu is true; allowed on a device: false"),
        ({"ctc_trim": True}, "ctc_trim is true; allowed on a device: false"),
        (
            {
                **{"pos_enc_layer_type": "conv", "output_size": 32},
                **{"attention_heads": 4, "selfattention_layer_type": "selfattn"},
            },
            "pos_enc_layer_type is ConvolutionalPositionalEmbedding; allowed",
        ),
        (
            {
                **{"pos_enc_layer_type": "abs_pos", "qk_norm": True},
                "selfattention_layer_type": "selfattn",
            },
            "qk_norm is true; allowed on a device: false",
        ),
    ],
)
def test_refused_conformers(tmp_path, options, message):
    base = TRANSDUCERS["conformer"]["encoder_conf"]
    files = make(tmp_path, of("gq_conformer", base, **options))
    with pytest.raises(CannotExport, match=message):
        export(files, tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"input_conf": {"vgg_like": True}},
            "vgg_like: true; allowed on a device: fal",
        ),
        ({"main_conf": {"simplified_att_score": True}}, "simplified_att_score: true"),
        (
            {"main_conf": {"norm_type": "rms_norm"}},
            "RMSNorm; allowed on a device: layer",
        ),
        ({"body_conf": {"block_type": "branchformer"}}, "has a block Branchformer"),
    ],
)
def test_refused_encoders_of_the_second_task(tmp_path, changes, message):
    options = second(decoder_conf={"hidden_size": 24}, **changes)
    files = make(tmp_path, options, task=ASRTransducerTask)
    with pytest.raises(CannotExport, match=message):
        export(files, tmp_path / "model.gguf")


def test_a_model_without_ctc_and_transducer_is_refused(tmp_path):
    options = CTC["conformer"]
    options = {**options, "model": "espnet", "model_conf": {"ctc_weight": 0.0}}
    files = make(tmp_path, options)
    with pytest.raises(CannotExport, match="neither a transducer nor CTC"):
        export(files, tmp_path / "model.gguf")
