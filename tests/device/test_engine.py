"""The engine's interface through its binding, which needs NumPy alone."""

import gc
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from espnet_gq.device import EngineError, Model
from espnet_gq.device.engine import find_library

sys.path.insert(0, str(Path(__file__).parent))
from random_model import TOKENS, speech, transducer  # noqa: E402

pytestmark = pytest.mark.skipif(find_library() is None, reason="no device engine")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    transducer().write(path)
    return path


def test_importing_it_imports_neither_torch_nor_espnet(path):
    code = f"""
import sys
import numpy as np
from espnet_gq.device import Model
assert Model({str(path)!r}).transcribe(np.zeros(8000, np.float32))
print([m for m in ("torch", "espnet", "espnet2", "scipy", "gguf") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_what_a_model_says_of_itself(path):
    model = Model(path)
    assert model.sample_rate == 8000 and model.streams
    assert model.tokens == TOKENS
    assert model.text("encoder.type") == "rnn" and model.text("encoder.units") is None
    assert model.text("plugin") and model.text("absent") is None
    with pytest.raises(IndexError):
        model.token(len(TOKENS))
    model.verify()


def test_a_file_in_memory_at_any_address(path):
    contents = path.read_bytes()
    wanted = Model(path).transcribe(speech())
    assert wanted[0].tokens
    for offset in (0, 1, 7):
        moved = bytes(offset) + contents
        model = Model(moved[offset:])
        assert model.transcribe(speech()) == wanted
        model.verify()


def test_a_stream_outlives_its_model(path):
    wanted = Model(path).transcribe(speech(), beam=3, nbest=3)
    stream = Model(path).stream(beam=3, nbest=3)
    gc.collect()
    stream.feed(speech())
    stream.finish()
    assert stream.results() == wanted and len(wanted) > 1
    scores = [r.score / (1 + len(r.tokens)) for r in wanted]
    assert scores == sorted(scores, reverse=True)


def test_states_of_a_stream(path):
    with Model(path).stream() as stream:
        assert stream.results()[0].tokens == ()
        stream.finish()
        assert stream.results()[0].text == ""
        for call in (stream.finish, lambda: stream.feed(speech())):
            with pytest.raises(EngineError, match="the utterance has ended; reset"):
                call()
        stream.reset()
        stream.feed(np.zeros(0, np.float32))
        stream.feed(np.zeros(1, np.float32))  # less than a frame
        stream.finish()
    with pytest.raises(EngineError, match="the stream is closed"):
        stream.reset()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"mode": "fast"}, "mode is 'fast'; allowed: exact, int8"),
        ({"threads": 0}, "options->threads is 0; allowed: 1 to 256"),
        ({"beam": 101}, "options->beam is 101; allowed: 1 to 100"),
        ({"nbest": 0}, "options->nbest is 0; allowed: 1 to 100"),
    ],
)
def test_options_out_of_range(path, options, message):
    with pytest.raises(EngineError) as error:
        Model(path).stream(**options)
    assert str(error.value) == message


@pytest.mark.parametrize(
    "samples, message",
    [
        (np.zeros((2, 3), np.float32), r"the samples are float32 of shape \(2, 3\)"),
        (np.zeros(3), "the samples are float64"),
        (np.array([0, np.nan], np.float32), "sample 1 is not a number from -1e6"),
        (np.array([np.inf], np.float32), "sample 0 is not a number from -1e6"),
    ],
)
def test_samples_that_are_refused(path, samples, message):
    with Model(path).stream() as stream:
        with pytest.raises(EngineError, match=message):
            stream.feed(samples)
        stream.feed(speech())  # nothing was lost
        stream.finish()
        assert stream.results() == Model(path).transcribe(speech())


def test_streams_in_threads(path):
    """Eight streams of one model in four threads give the results of one."""
    model = Model(path)
    wanted = [model.transcribe(speech(seed=i), beam=2) for i in range(8)]
    found = [None] * 8

    def work(first):
        streams = [model.stream(beam=2) for _ in range(2)]
        for at in range(0, 8000, 500):
            for i, stream in enumerate(streams):
                stream.feed(speech(seed=first + i)[at : at + 500])
        for i, stream in enumerate(streams):
            stream.finish()
            found[first + i] = stream.results()

    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 2, 4, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == wanted


def resident():
    """Return the resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc")
def test_memory_does_not_grow(path):
    samples = speech(0.2)
    with Model(path).stream(beam=2, nbest=2) as stream:
        for count in (200, 1000):
            before = resident()
            for _ in range(count):
                stream.feed(samples)
                stream.finish()
                stream.results()
                stream.reset()
    assert resident() - before < 1e6
