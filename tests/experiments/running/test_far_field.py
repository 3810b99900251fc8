"""The simulated far-field set."""

import sys

import numpy as np
import pytest

from experiments.running import far_field


def test_missing_pyroomacoustics_is_reported(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyroomacoustics", None)
    far_field.main([str(tmp_path / "clean"), str(tmp_path / "far")])
    assert "pyroomacoustics is not installed" in capsys.readouterr().out
    assert not (tmp_path / "far").exists()


def test_scenes_follow_the_options():
    for number in range(50):
        rng = np.random.default_rng(number)
        scene = far_field.draw_scene(rng, (1.5, 3.0), (0.3, 0.5))
        assert 1.5 <= scene.distance <= 3.0 and 0.3 <= scene.rt60 <= 0.5
        for point in (scene.talker, scene.microphone):
            assert all(0 < x < side for x, side in zip(point, scene.room))


def test_far_field_set(tmp_path):
    pytest.importorskip("pyroomacoustics")
    soundfile = pytest.importorskip("soundfile")
    clean = tmp_path / "clean"
    clean.mkdir()
    speech = 0.05 * np.random.default_rng(0).standard_normal(4000)
    soundfile.write(tmp_path / "a.flac", speech, 8000)
    (clean / "wav.scp").write_text(f"a {tmp_path / 'a.flac'}\n")
    (clean / "text").write_text("a one two\n")
    (clean / "utt2spk").write_text("a ann\n")
    written = []
    for name in ("far", "again"):
        far_field.main([str(clean), str(tmp_path / name), "--rt60", "0.3", "0.3"])
        wav = (tmp_path / name / "wav.scp").read_text().split()[1]
        written.append(soundfile.read(wav)[0])
    assert np.array_equal(*written) and len(written[0]) == 4000
    assert abs(np.sqrt(np.mean(written[0] ** 2)) - far_field.RMS) < 0.005
    assert "rt60=0.300s" in (tmp_path / "far/utt2room").read_text()
    assert (tmp_path / "far/text").read_text() == "a one two\n"
