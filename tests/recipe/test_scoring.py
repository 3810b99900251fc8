import random

import pytest

from espnet_gq.recipe.datadir import write_table
from espnet_gq.recipe.scoring import (
    find_sclite,
    load_units,
    results_markdown,
    score_set,
    sum_row,
)

needs_sclite = pytest.mark.skipif(find_sclite() is None, reason="no sclite (sctk)")


def decoded_set(path, error_rate, seed=0, vocabulary=50):
    """A test set with decoded text that has random errors."""
    rng = random.Random(seed)
    names = [f"word{i}" for i in range(vocabulary)]
    text, hyp, utt2spk = {}, {}, {}
    for i in range(200):
        utt = f"s{i % 4}-{i:03d}"
        words = [rng.choice(names) for _ in range(rng.randint(1, 12))]
        heard = []
        for word in words:
            kind = rng.random() / error_rate
            if kind < 0.5:
                heard.append(rng.choice(names))
            elif kind < 0.75:
                continue
            else:
                heard += [word, rng.choice(names)] if kind < 1 else [word]
        text[utt], hyp[utt] = " ".join(words), " ".join(heard)
        utt2spk[utt] = f"s{i % 4}"
    for name, table in (("text", text), ("utt2spk", utt2spk)):
        (path / "data").mkdir(exist_ok=True)
        write_table(path / "data" / name, table)
    (path / "exp/decode/test").mkdir(parents=True)
    write_table(path / "exp/decode/test/text", hyp)
    return path / "data", path / "exp/decode/test"


def test_results_have_espnets_format(tmp_path):
    data, decoded = decoded_set(tmp_path, 0.1)
    score_set(data, decoded)
    assert (
        (decoded / "score_wer/ref.trn")
        .read_text()
        .splitlines()[0]
        .endswith("\t(s0-s0-000)")
    )
    report = results_markdown(tmp_path / "exp")
    assert "### WER\n\n|dataset|Snt|Wrd|Corr|Sub|Del|Ins|Err|S.Err|\n" in report
    row = sum_row(decoded / "score_wer/result.txt")
    assert f"|decode/test|{'|'.join(row)}|" in report
    assert row[0] == "200"


@needs_sclite
@pytest.mark.parametrize("error_rate", [0.03, 0.3, 0.8])
@pytest.mark.parametrize("seed", [0, 1])
def test_jiwer_and_sclite_agree(tmp_path, error_rate, seed):
    data, decoded = decoded_set(tmp_path, error_rate, seed)
    rows = []
    for sclite in (None, find_sclite()):
        score_set(data, decoded, sclite=sclite)
        rows.append(sum_row(decoded / "score_wer/result.txt"))
    # Sentences, words, errors and wrong sentences. The division of errors into
    # substitutions, deletions and insertions is not unique.
    for column in (0, 1, 6, 7):
        assert rows[0][column] == rows[1][column]


def test_a_missing_utterance_is_named(tmp_path):
    data, decoded = decoded_set(tmp_path, 0.1)
    lines = (decoded / "text").read_text().splitlines()[1:]
    (decoded / "text").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match="differ in 1 utterances, first s0-000"):
        score_set(data, decoded)


def test_without_recordings_the_units_are_utterances(tmp_path):
    data, decoded = decoded_set(tmp_path, 0.1)
    assert len(load_units(data, decoded)) == 200
