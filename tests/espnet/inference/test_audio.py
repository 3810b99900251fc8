"""Audio that cannot be decoded: one sentence each, and the rest is decoded."""

import argparse
import random

import numpy as np
import pytest
import soundfile
import untrained
from espnet2.bin import asr_inference

from espnet_gq.espnet.inference.audio import AudioNeeds

RATE = 8000
RNG = np.random.default_rng(0)


def speech(seconds=0.5, rate=RATE):
    return 0.1 * RNG.standard_normal(int(seconds * rate))


def damaged_flac(path):
    soundfile.write(path, speech(2), RATE)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    path.write_bytes(content)


def truncated_flac(path):
    soundfile.write(path, speech(2), RATE)
    path.write_bytes(path.read_bytes()[:2000])


def with_nan(path):
    samples = speech()
    samples[100] = np.nan
    soundfile.write(path, samples, RATE, subtype="FLOAT")


BAD = {
    "missing.wav": (lambda path: None, "cannot be read"),
    "directory.wav": (lambda path: path.mkdir(), "cannot be read"),
    "nothing.wav": (lambda path: path.write_bytes(b""), "cannot be read"),
    "text.wav": (lambda path: path.write_text("hello\n"), "cannot be read"),
    "damaged.flac": (damaged_flac, "cannot be read"),
    "truncated.flac": (truncated_flac, "cannot be read"),
    "empty.wav": (lambda p: soundfile.write(p, speech(0), RATE), "has 0 samples"),
    "sample.wav": (lambda p: soundfile.write(p, [0.5], RATE), "has 1 samples"),
    "rate.wav": (lambda p: soundfile.write(p, speech(), 44100), "has 44100 Hz"),
    "nan.wav": (with_nan, "NaN or infinite"),
}
GOOD = {
    "plain.wav": speech(),
    "silent.wav": np.zeros(RATE),
    "loud.wav": np.ones(RATE),
    "stereo.wav": np.stack([speech(), speech()], 1),
}
NEEDS = AudioNeeds(RATE, 129)


def write_all(folder):
    """Write every file; returns {utterance: path}."""
    for name, (write, _) in BAD.items():
        write(folder / name)
    for name, samples in GOOD.items():
        soundfile.write(folder / name, samples, RATE)
    return {name.replace(".", "_"): folder / name for name in sorted({**BAD, **GOOD})}


def test_the_refusal_names_the_file_what_is_wrong_and_what_is_allowed(tmp_path):
    files = write_all(tmp_path)
    for name, (_, reason) in BAD.items():
        found = NEEDS.refusal(str(tmp_path / name))
        assert str(tmp_path / name) in found and reason in found
        assert "; allowed: " in found and "\n" not in found
    assert all(NEEDS.refusal(str(tmp_path / name)) is None for name in GOOD)
    assert len(files) == len(BAD) + len(GOOD)


def test_files_with_random_damage_never_raise(tmp_path):
    rng = random.Random(0)
    path = tmp_path / "a.flac"
    refused = 0
    for suffix in ("flac", "wav", "ogg"):
        soundfile.write(tmp_path / f"whole.{suffix}", speech(0.3), RATE)
        whole = (tmp_path / f"whole.{suffix}").read_bytes()
        for _ in range(100):
            content = bytearray(whole[: rng.randrange(len(whole) + 1)])
            for _ in range(rng.randrange(4)):
                if content:
                    content[rng.randrange(len(content))] = rng.randrange(256)
            path.write_bytes(content)
            found = NEEDS.refusal(str(path))
            assert found is None or "; allowed: " in found
            refused += found is not None
    assert refused > 50


def test_what_a_model_takes():
    conf = {"fs": "8k", "n_fft": 256}
    args = argparse.Namespace(frontend_conf=conf, input_size=None)
    assert AudioNeeds.of(args) == AudioNeeds(8000, 129)
    args = argparse.Namespace(frontend_conf=None, input_size=80)
    assert AudioNeeds.of(args) == AudioNeeds(None, 1)


@pytest.fixture(scope="module")
def model(task):
    return untrained.save(task, task.config("audio.yaml"), "audio")


def decode(model, wav_scp, output, *more):
    asr_inference.main(
        [
            *["--asr_train_config", str(model / "config.yaml")],
            *["--asr_model_file", str(model / "model.pth"), "--output_dir", output],
            *["--data_path_and_name_and_type", f"{wav_scp},speech,sound"],
            *["--beam_size", "1", "--ngpu", "0", "--maxlenratio", "-3", *more],
        ]
    )


@pytest.mark.parametrize("keys", [False, True])
def test_the_others_are_decoded_and_the_exit_status_tells(model, tmp_path, keys):
    files = write_all(tmp_path)
    scp = tmp_path / "wav.scp"
    scp.write_text("".join(f"{utt} {path}\n" for utt, path in files.items()))
    more = []
    if keys:
        (tmp_path / "keys").write_text("nan_wav\nplain_wav\n")
        more = ["--key_file", str(tmp_path / "keys")]
    with pytest.raises(SystemExit) as stopped:
        decode(model, scp, str(tmp_path / "out"), *more)
    message = str(stopped.value)
    assert "\n" not in message
    text = (tmp_path / "out/1best_recog/text").read_text().splitlines()
    decoded = {line.split()[0] for line in text}
    if keys:
        assert message.startswith("espnet_gq: error: 1 of 2 utterances were not")
        assert decoded == {"plain_wav"}
    else:
        assert f"{len(BAD)} of {len(files)} utterances were not" in message
        assert decoded == {name.replace(".", "_") for name in GOOD}


def test_nothing_is_left_to_decode(model, tmp_path):
    (tmp_path / "wav.scp").write_text("a\nb /no/such.wav\n")
    with pytest.raises(SystemExit, match="2 of 2 utterances were not decoded: a: "):
        decode(model, tmp_path / "wav.scp", str(tmp_path / "out"))


def test_decoding_without_fault_ends_as_before(model, tmp_path):
    soundfile.write(tmp_path / "a.wav", speech(), RATE)
    (tmp_path / "wav.scp").write_text(f"a {tmp_path / 'a.wav'}\n")
    decode(model, tmp_path / "wav.scp", str(tmp_path / "out"))
    assert (tmp_path / "out/1best_recog/text").read_text().startswith("a")
