"""The device engine gives the tokens and scores of PyTorch's packed exact mode."""

import functools

import numpy as np
import pytest
import torch
from exporting.recognizers import KINDS, make, utterances

import espnet_gq
from espnet_gq.device import Model
from espnet_gq.device.engine import find_library
from espnet_gq.espnet.exporting import export

pytestmark = pytest.mark.skipif(find_library() is None, reason="no device engine")

COUNT = 8
CLOSE = {"exact": 1e-3, "int8": 0.05}
"""Difference of a score that is allowed. With activations rounded to 8 bits, one that
lies between two steps may go to either."""


@functools.lru_cache(maxsize=None)
def speech():
    return utterances(COUNT)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a function: name of a kind -> (its files, its model on the device)."""

    @functools.lru_cache(maxsize=None)
    def build(kind):
        folder = tmp_path_factory.mktemp(kind)
        files = make(folder, KINDS[kind])
        export(files, folder / "model.gguf")
        return files, Model(folder / "model.gguf")

    return build


def chunked(model, samples, size, **options):
    """Return the results of an utterance that is fed in chunks."""
    with model.stream(mode="exact", **options) as stream:
        for i in range(0, len(samples), size):
            stream.feed(samples[i : i + size])
        stream.finish()
        return stream.results()


@torch.no_grad()
def compare(files, model, beam, nbest=1, **options):
    """Compare all utterances; return the number of tokens of the best results."""
    speech2text = espnet_gq.Speech2Text.from_pretrained(
        files, beam_size=beam, transducer_conf={"nbest": nbest}, nbest=nbest, **options
    )
    mode = "int8" if options.get("quantize_asr_model") else "exact"
    tokens = 0
    for name, samples in speech().items():
        expected = speech2text(samples)
        found = model.transcribe(samples, mode=mode, beam=beam, nbest=nbest)
        assert len(found) == len(expected)
        for result, (text, token, token_int, hyp) in zip(found, expected):
            assert result.tokens == tuple(token), name
            assert result.token_int == tuple(token_int)
            assert result.text == text
            assert abs(result.score - float(hyp.score)) < CLOSE[mode]
        tokens += len(found[0].tokens)
    return tokens


@pytest.mark.parametrize("kind", KINDS)
def test_the_greedy_search(made, kind):
    assert compare(*made(kind), beam=1) > 3 * COUNT


@pytest.mark.parametrize("kind", ["lstm", "gru_plain", "blstm"])
def test_the_beam_search_and_its_n_best(made, kind):
    assert compare(*made(kind), beam=4, nbest=3) > COUNT


@pytest.mark.parametrize("kind", ["lstm", "gru_plain", "vgg_lstm"])
def test_int8(made, kind):
    assert compare(*made(kind), beam=1, quantize_asr_model=True) > 3 * COUNT


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [77, 1280])
def test_chunks_give_the_result_of_the_whole(made, kind, size):
    _, model = made(kind)
    waits = ("blstm", "bgru_plain", "vgg_bgru_odd", "lstm_utterance_mvn")
    assert model.streams == (kind not in waits)
    for samples in list(speech().values())[:3]:
        whole = model.transcribe(samples, mode="exact")
        parts = chunked(model, samples, size)
        assert parts[0].token_int == whole[0].token_int
        assert parts[0].score == pytest.approx(whole[0].score, abs=CLOSE["exact"])
        assert parts[0].times == whole[0].times


def test_partial_results_grow_to_the_final_one(made):
    _, model = made("lstm")
    for samples in list(speech().values())[:3]:
        with model.stream(mode="exact") as stream:
            partial = []
            for i in range(0, len(samples), 800):
                stream.feed(samples[i : i + 800])
                partial.append(stream.results()[0])
            stream.finish()
            (final,) = stream.results()
        assert len({len(result.tokens) for result in partial}) > 2
        for result in partial:
            assert final.tokens[: len(result.tokens)] == result.tokens
            now = len(result.tokens)
            assert final.times[:now] == result.times
        assert list(final.times) == sorted(final.times)
        assert final.times[-1] < len(samples) / model.sample_rate


def test_one_stream_after_the_other_and_int16(made):
    _, model = made("lstm")
    with model.stream(mode="exact") as stream:
        for samples in list(speech().values())[:2]:
            whole = np.round(samples * 32768).clip(-32768, 32767).astype(np.int16)
            stream.feed(whole)
            stream.finish()
            (found,) = stream.results()
            (expected,) = model.transcribe(
                whole.astype(np.float32) / 32768, mode="exact"
            )
            assert found == expected
            stream.reset()
            assert stream.results()[0].tokens == ()
