from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_gq.recipe import datadir

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
FSDD = SHARED / "fsdd" / "recordings"


@pytest.fixture
def source(tmp_path):
    """A data directory of four recordings at 8 kHz."""
    if not FSDD.is_dir():
        pytest.skip(f"no recordings in {FSDD}")
    path = tmp_path / "data"
    path.mkdir()
    names = [f"{digit}_{name}_7" for name in ("george", "theo") for digit in (1, 2)]
    utts = {f"{n.split('_')[1]}-{n[0]}": n for n in names}
    datadir.write_table(
        path / "wav.scp", {u: str(FSDD / f"{n}.wav") for u, n in utts.items()}
    )
    datadir.write_table(path / "text", {u: n[0] for u, n in utts.items()})
    datadir.write_table(path / "utt2spk", {u: n.split("_")[1] for u, n in utts.items()})
    return path


def test_tables(tmp_path):
    path = tmp_path / "text"
    path.write_text("b two  words\na\nc\tone\n")
    assert datadir.read_table(path) == {"b": "two  words", "a": "", "c": "one"}
    datadir.write_table(path, {"b": "2", "a": ""})
    assert path.read_text() == "a\nb 2\n"
    path.write_text("a 1\na 2\n")
    with pytest.raises(ValueError, match="text:2: key 'a' occurs twice"):
        datadir.read_table(path)


@pytest.mark.parametrize("rate", ["16k", "16K", "16000", 16000])
def test_rates(rate):
    assert datadir.parse_rate(rate) == 16000


@pytest.mark.parametrize("rate", ["", "0", "sixteen", -1])
def test_wrong_rates(rate):
    with pytest.raises(ValueError, match="such as 8k or 16000"):
        datadir.parse_rate(rate)


def test_files_in_the_right_format_stay(source, tmp_path):
    target = tmp_path / "dump"
    assert datadir.format_wav_scp(source, target, "8k", "wav") == 4
    assert datadir.read_table(target / "wav.scp") == datadir.read_table(
        source / "wav.scp"
    )
    samples = datadir.read_table(target / "utt2num_samples")
    for utt, path in datadir.read_table(source / "wav.scp").items():
        assert int(samples[utt]) == soundfile.info(path).frames
    assert datadir.read_table(target / "spk2utt")["theo"] == "theo-1 theo-2"
    assert (target / "feats_type").read_text() == "raw\n"


def test_other_rates_and_formats_are_converted(source, tmp_path):
    target = tmp_path / "dump"
    seen = []
    datadir.format_wav_scp(
        source, target, "16k", "flac", nj=2, progress=lambda *x: seen.append(x)
    )
    assert seen[-1] == (4, 4)
    before = datadir.read_table(source / "wav.scp")
    for utt, path in datadir.read_table(target / "wav.scp").items():
        info, old = soundfile.info(path), soundfile.info(before[utt])
        assert (info.samplerate, info.format) == (16000, "FLAC")
        assert abs(info.frames - 2 * old.frames) <= 1
        # The energy is equal, as the signal has nothing above the old bandwidth.
        new_rms = np.sqrt(np.mean(soundfile.read(path)[0] ** 2))
        old_rms = np.sqrt(np.mean(soundfile.read(before[utt])[0] ** 2))
        assert new_rms == pytest.approx(old_rms, rel=0.02)


def test_segments_and_pipes(source, tmp_path):
    scp = datadir.read_table(source / "wav.scp")
    first = scp["george-1"]
    datadir.write_table(source / "wav.scp", {"rec": f"cat {first} |"})
    datadir.write_table(source / "segments", {"george-1": "rec 0.1 0.2"})
    for name in ("text", "utt2spk"):
        table = datadir.read_table(source / name)
        datadir.write_table(source / name, {"george-1": table["george-1"]})
    target = tmp_path / "dump"
    datadir.format_wav_scp(source, target, 8000, "wav")
    audio, _ = soundfile.read(
        datadir.read_table(target / "wav.scp")["george-1"], dtype="int16"
    )
    whole, _ = soundfile.read(first, dtype="int16")
    assert np.array_equal(audio, whole[800:1600])


def test_filter(source, tmp_path):
    target, final = tmp_path / "org", tmp_path / "dump"
    datadir.format_wav_scp(source, target, "8k", "wav")
    text = datadir.read_table(target / "text")
    datadir.write_table(target / "text", {**text, "george-2": ""})
    samples = {
        u: int(n) for u, n in datadir.read_table(target / "utt2num_samples").items()
    }
    longest = max(samples, key=samples.get)
    limit = samples[longest] / 8000
    kept, total = datadir.filter_data_dir(target, final, "8k", 0.0, limit)
    expected = set(samples) - {longest, "george-2"}
    assert (kept, total) == (len(expected), 4)
    for name in ("wav.scp", "text", "utt2spk", "utt2num_samples"):
        assert set(datadir.read_table(final / name)) == expected
    with pytest.raises(ValueError, match="no utterance with text lasts between"):
        datadir.filter_data_dir(target, final, "8k", 100, 200)


def test_unknown_format(source, tmp_path):
    with pytest.raises(ValueError, match="one of flac, wav, not 'mp3'"):
        datadir.format_wav_scp(source, tmp_path / "dump", "8k", "mp3")
