import random

import pytest

from espnet_gq.analysis import wer


def words(text):
    return {"u": text.split()}


@pytest.mark.parametrize(
    "reference, hypothesis, expected",
    [
        ("a b c", "a b c", (3, 3, 0, 0, 0)),
        ("a b c", "a x c", (3, 2, 1, 0, 0)),
        ("a b c", "a c", (3, 2, 0, 1, 0)),
        ("a b c", "a b c d", (3, 3, 0, 0, 1)),
        ("a b c", "", (3, 0, 0, 3, 0)),
        ("", "a", (0, 0, 0, 0, 1)),
        ("A b", "a B", (2, 2, 0, 0, 0)),
    ],
)
def test_count(reference, hypothesis, expected):
    c = wer.count(words(reference), words(hypothesis))["u"]
    found = (c.words, c.correct, c.substitutions, c.deletions, c.insertions)
    assert found == expected
    assert c.wrong_utterances == int(sum(expected[2:]) > 0)


def test_row_is_that_of_the_result_tables():
    counts = wer.Counts(2, 8, 6, 1, 1, 2, 1)
    row = ("2", "8", "75.0", "12.5", "12.5", "25.0", "50.0", "50.0")
    assert counts.row() == row


def test_count_needs_the_same_utterances():
    with pytest.raises(ValueError, match="1 utterances lack a hypothesis, first u"):
        wer.count(words("a"), {})


def test_errors_are_assigned_to_recordings():
    references = {"u1": ["a", "b"], "u2": ["b", "a"]}
    hypotheses = {"u1": ["a", "x"], "u2": ["b", "a", "c"]}
    recordings = {"u1": ["ra", "rb"], "u2": ["rb", "ra"]}
    units = wer.units_by_recording(
        references, hypotheses, {"u1": "s", "u2": "s"}, recordings
    )
    # rb was wrong once in two occurrences; the inserted word comes after ra.
    assert units == {("s", "rb"): (1, 2), ("s", "ra"): (1, 2)}


def test_a_recording_for_every_word():
    with pytest.raises(ValueError, match="u has 2 words but 1 recordings"):
        wer.units_by_recording(words("a b"), words("a b"), {"u": "s"}, {"u": ["r"]})


def make_units(seed, speakers=5, recordings=40, rate=0.1):
    rng = random.Random(seed)
    return {
        (f"s{s}", f"r{s}-{r}"): (sum(rng.random() < rate for _ in range(4)), 4)
        for s in range(speakers)
        for r in range(recordings)
    }


def test_bootstrap_contains_the_value_and_is_reproducible():
    units = make_units(0)
    interval = wer.bootstrap(units, samples=500)
    errors = sum(e for e, _ in units.values())
    assert interval.value == pytest.approx(100 * errors / (200 * 4))
    assert interval.low < interval.value < interval.high
    assert interval == wer.bootstrap(units, samples=500)


def test_bootstrap_sees_that_speakers_differ():
    # The same total of errors, once evenly distributed and once all of one speaker.
    alike = {(f"s{i % 5}", f"r{i}"): (int(i < 20), 1) for i in range(100)}
    apart = {(f"s{i // 20}", f"r{i}"): (int(i < 20), 1) for i in range(100)}
    narrow, wide = wer.bootstrap(alike), wer.bootstrap(apart)
    assert narrow.value == wide.value == 20
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_paired_bootstrap():
    baseline = make_units(0)
    assert wer.paired_bootstrap(baseline, baseline) == (0, 0, 0)
    worse = {
        k: (min(n, e + (i % 4 == 0)), n)
        for i, (k, (e, n)) in enumerate(sorted(baseline.items()))
    }
    difference = wer.paired_bootstrap(baseline, worse)
    assert 0 < difference.low < difference.value < difference.high
    # Pairing removes the variation that both systems share.
    alone = wer.bootstrap(worse)
    assert difference.high - difference.low < alone.high - alone.low
    with pytest.raises(ValueError, match="same test set"):
        wer.paired_bootstrap(baseline, make_units(0, speakers=4))
