"""Model files that are damaged or made to harm are refused with a sentence."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from espnet_gq.device import EngineError, Model
from espnet_gq.device.engine import find_library

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from random_model import MELS, TOKENS, speech, transducer  # noqa: E402

pytestmark = pytest.mark.skipif(find_library() is None, reason="no device engine")


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    transducer().write(path)
    return path.read_bytes()


def refusal(data):
    """Return the sentence with which a file is refused."""
    with pytest.raises(EngineError) as error:
        Model(bytes(data))
    message = str(error.value)
    assert message and "\n" not in message
    return message


def test_other_files(tmp_path):
    assert "not a model file (GGUF)" in refusal(b"GIF89a" + bytes(100))
    (tmp_path / "empty").touch()
    with pytest.raises(EngineError, match="the file is empty"):
        Model(tmp_path / "empty")
    with pytest.raises(OSError, match="absent: No such file"):
        Model(tmp_path / "absent")
    with pytest.raises(OSError, match="not a regular file"):
        Model(tmp_path)


def test_every_shorter_file_is_refused(contents):
    header = contents.index(b"features.mel") + 4000
    lengths = [*range(1, header, 7), *range(header, len(contents) - 64, 997)]
    messages = {refusal(contents[:length]) for length in lengths}
    assert any("ends within its header" in message for message in messages)
    assert any("lies outside the model file" in message for message in messages)


def test_damage_is_found_on_request(contents):
    for at in (30, len(contents) // 2, len(contents) - 65):
        damaged = bytearray(contents)
        damaged[at] ^= 1
        try:
            model = Model(bytes(damaged))
        except EngineError:
            continue
        with pytest.raises(EngineError, match="checksum does not match"):
            model.verify()


def made(tmp_path, **settings):
    path = tmp_path / "model.gguf"
    transducer(**settings).write(path)
    return path.read_bytes()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"features__type": "mfcc"}, "features of another type; allowed: logmel"),
        ({"features__n_fft": 126}, "has not 126 float32 values features.window"),
        ({"features__n_fft": 127}, "has an odd gqasr.features.n_fft"),
        ({"features__n_fft": 2**30}, "no gqasr.features.n_fft from 2 to 8192"),
        ({"features__n_mels": MELS + 1}, "has not 715 float32 values features.mel"),
        ({"features__center": 1}, "has no flag gqasr.features.center"),
        ({"features__hop_length": 0}, "has no gqasr.features.hop_length from 1 to"),
        ({"tokens__list": TOKENS[:-1]}, "8 x 8 weights predictor.embed; its other"),
        ({"tokens__list": ["<blank>"]}, "has 1 tokens; allowed: 2 or more"),
        ({"tokens__type": "phn"}, "tokens of another type; allowed: bpe, char, word"),
        ({"encoder__type": "mamba"}, "an encoder 'mamba', which this version lacks"),
        ({"encoder__units": 9}, "weights encoder.rnn.0.forward.ih; its other parts"),
        ({"encoder__layers": 3}, "has not 3 numbers gqasr.encoder.subsample"),
        ({"encoder__subsample": [0, 1]}, "a number that is not 1 to 64"),
        ({"encoder__cell": "gru"}, "weights encoder.rnn.0.forward.ih; its other parts"),
        ({"encoder__bidirectional": True}, "has no encoder.rnn.0.backward.ih.shape"),
        ({"output": "attention"}, "the output 'attention', which this version lacks"),
        ({"predictor__type": "mega"}, "a predictor 'mega', which this version lacks"),
        ({"predictor__layers": 2}, "has no predictor.rnn.1.ih.shape"),
        ({"joint__activation": "mish"}, "unknown function gqasr.joint.activation"),
    ],
)
def test_settings_that_do_not_fit(tmp_path, settings, message):
    assert message in refusal(made(tmp_path, **settings))


def change(name, edit, tmp_path):
    file = transducer()
    file.tensors[name] = edit(file.tensors[name])
    file.write(tmp_path / "model.gguf")
    return (tmp_path / "model.gguf").read_bytes()


@pytest.mark.parametrize(
    "name, edit, message",
    [
        ("joint.output.planes", lambda a: a[:-1], "has not the 256 bytes joint.output"),
        ("joint.output.codebook", lambda a: a[:-1], "has 15 centroids joint.output"),
        ("joint.output.codebook", lambda a: a[:8], "has not the 192 bytes joint.outp"),
        ("joint.output.scale", lambda a: a[:3], "3 scales joint.output.scale, which"),
        ("joint.output.bias", lambda a: a[:3], "has not 8 float32 values joint.output"),
        (
            "joint.output.bias",
            lambda a: np.where(a > 0, np.float32("inf"), a),
            "has values joint.output.bias that are not finite",
        ),
        (
            "joint.output.scale",
            lambda a: a.view(np.int8),
            "has not -1 float32 values joint.output.scale",
        ),
    ],
)
def test_tensors_that_do_not_fit(tmp_path, name, edit, message):
    assert message in refusal(change(name, edit, tmp_path))


def test_counts_that_lie(contents):
    for at, what in ((8, "tensors"), (16, "values")):
        for count in (0, 1, 2**31, 2**63, 2**64 - 1):
            lying = bytearray(contents)
            lying[at : at + 8] = struct.pack("<Q", count)
            assert refusal(lying), what


def test_a_version_of_the_future(contents):
    at = contents.index(b"gqasr.version") + len("gqasr.version") + 4
    future = bytearray(contents)
    future[at] = 2
    assert "has version 2; this library reads version 1" in refusal(future)


RANDOM_DAMAGE = """
import sys
import numpy as np
from espnet_gq.device import EngineError, Model
from random_model import speech
contents, seed = open(sys.argv[1], "rb").read(), int(sys.argv[2])
random, read = np.random.default_rng(seed), 0
header = contents.index(b"features.mel") + 3000
samples = speech(0.3)
for _ in range(400):
    damaged = np.frombuffer(contents, np.uint8).copy()
    end = header if random.random() < 0.7 else len(contents)
    for at in random.integers(0, end, random.integers(1, 4)):
        damaged[at] = random.choice([0, 1, 127, 128, 255, random.integers(256)])
    try:
        model = Model(damaged.tobytes())
    except EngineError as error:
        assert str(error)
        continue
    read += 1
    for beam in (1, 2):
        model.transcribe(samples, beam=beam)
print(read)
"""


@pytest.mark.parametrize("seed", [1, 2])
def test_random_damage(contents, tmp_path, seed):
    (tmp_path / "model.gguf").write_bytes(contents)
    done = subprocess.run(
        [sys.executable, "-c", RANDOM_DAMAGE, tmp_path / "model.gguf", str(seed)],
        capture_output=True,
        text=True,
        cwd=HERE,
        env={**os.environ, "PYTHONPATH": f"{HERE.parents[1]}"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 20  # some damage is none that can be seen


def test_weights_too_large_for_numbers(tmp_path):
    """Results are then worthless, but every call ends."""
    for factor in (1e30, 3e38):
        file = transducer()
        for name in file.tensors:
            if name.endswith(("scale", "bias")):
                file.tensors[name] = np.full_like(file.tensors[name], factor)
        file.write(tmp_path / "model.gguf")
        model = Model(tmp_path / "model.gguf")
        for beam in (1, 3):
            assert model.transcribe(speech(), beam=beam)
