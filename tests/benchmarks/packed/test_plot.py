"""Plots of the stored figures."""

import pytest

from benchmarks.packed import plot


def test_the_svg_of_one_model_is_reproducible(tmp_path):
    pytest.importorskip("matplotlib")
    for name in ("a.svg", "b.svg"):
        plot.main(["--sizes", "rnnt100m", "--output", str(tmp_path / name)])
    content = (tmp_path / "a.svg").read_bytes()
    assert b"LSTM transducer, 99.4 M parameters" in content
    assert b"added memory, peak, MiB" in content and b"latency P90, ms" in content
    assert (tmp_path / "b.svg").read_bytes() == content


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--sizes", "rnnt1g"], "--sizes rnnt1g; allowed: rnnt, "),
        (["--figures", "missing.json"], "missing.json: no figures of packed inference"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(options, sentence, tmp_path, capsys):
    with pytest.raises(SystemExit):
        plot.main([*options, "--output", str(tmp_path / "x.svg")])
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "x.svg").exists()
