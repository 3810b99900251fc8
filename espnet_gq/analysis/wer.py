"""Error rates in the form of ESPnet's result tables, with confidence intervals.

Counts come from jiwer's minimum edit distance; upper and lower case count as equal,
as sclite has it by default. sclite finds the same number of errors, but where several
alignments have that number it may put another share of them down to substitutions
(it weighs 4 a substitution, 3 a deletion or an insertion).
"""

from dataclasses import dataclass
from typing import Dict, Iterator, List, Mapping, NamedTuple, Sequence, Tuple

import jiwer
import numpy as np

Tokens = Mapping[str, Sequence[str]]


class Interval(NamedTuple):
    """A figure with its bootstrap interval; all three in percent."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Counts:
    """Counts of an alignment, summed over a test set."""

    utterances: int = 0
    words: int = 0
    correct: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    wrong_utterances: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        pairs = zip(vars(self).values(), vars(other).values())
        return Counts(*(a + b for a, b in pairs))

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions."""
        return self.substitutions + self.deletions + self.insertions

    def row(self) -> Tuple[str, ...]:
        """Return Snt, Wrd, Corr, Sub, Del, Ins, Err, S.Err as the tables print them."""
        of_words = (
            self.correct,
            self.substitutions,
            self.deletions,
            self.insertions,
            self.errors,
        )
        percent = [f"{100 * n / max(1, self.words):.1f}" for n in of_words]
        sentences = f"{100 * self.wrong_utterances / max(1, self.utterances):.1f}"
        return (str(self.utterances), str(self.words), *percent, sentences)


class Edit(NamedTuple):
    """One step of an alignment; ``position`` is that of the reference token."""

    kind: str  # "equal", "substitute", "delete" or "insert"
    position: int


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> List[Edit]:
    """Align two token sequences with as few edits as possible.

    An inserted token takes the position of the reference token before it, or 0.
    """
    if not reference:
        return [Edit("insert", 0) for _ in hypothesis]
    result = jiwer.process_words(_as_text(reference), _as_text(hypothesis))
    edits: List[Edit] = []
    for chunk in result.alignments[0]:
        if chunk.type == "insert":
            position = max(0, chunk.ref_start_idx - 1)
            count = chunk.hyp_end_idx - chunk.hyp_start_idx
            edits += [Edit("insert", position)] * count
        else:
            span = range(chunk.ref_start_idx, chunk.ref_end_idx)
            edits += [Edit(chunk.type, i) for i in span]
    return edits


def count(references: Tokens, hypotheses: Tokens) -> Dict[str, Counts]:
    """Count correct and wrong tokens for every utterance.

    Args:
        references: utterance to tokens.
        hypotheses: utterance to tokens, for the same utterances.

    Raises:
        ValueError: the two do not hold the same utterances.
    """
    return {utt: _count_one(edits) for utt, edits in _aligned(references, hypotheses)}


def total(counts: Mapping[str, Counts]) -> Counts:
    """Sum the counts of many utterances."""
    return sum(counts.values(), Counts())


# (speaker, recording) -> (errors, words); the recording may be a whole utterance.
Units = Dict[Tuple[str, str], Tuple[int, int]]


def units_by_utterance(
    references: Tokens, hypotheses: Tokens, utt2spk: Mapping[str, str]
) -> Units:
    """Return errors and words of every utterance, for :func:`bootstrap`."""
    counts = count(references, hypotheses)
    return {(utt2spk[u], u): (c.errors, c.words) for u, c in counts.items()}


def units_by_recording(
    references: Tokens,
    hypotheses: Tokens,
    utt2spk: Mapping[str, str],
    utt2recordings: Tokens,
) -> Units:
    """Return errors and words of every recording, for :func:`bootstrap`.

    For utterances joined from recordings of one word each: an error counts for
    the recording of the reference word it is aligned with, an inserted word for that
    of the word before it. A recording joined into several utterances counts once,
    with the sum over them.

    Raises:
        ValueError: an utterance has not one recording per reference word.
    """
    units: Units = {}
    for utt, edits in _aligned(references, hypotheses):
        recordings = utt2recordings[utt]
        if len(recordings) != len(references[utt]):
            raise ValueError(
                f"{utt} has {len(references[utt])} words but {len(recordings)} "
                "recordings; utt2recordings must name one for each word"
            )
        for edit in edits:
            key = (utt2spk[utt], recordings[edit.position])
            errors, words = units.get(key, (0, 0))
            errors += edit.kind != "equal"
            words += edit.kind != "insert"
            units[key] = (errors, words)
    return units


def bootstrap(
    units: Units, samples: int = 2000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Return the error rate with a two-level percentile bootstrap interval.

    Draws speakers with replacement, then recordings of each drawn speaker with
    replacement [Bisani and Ney, ICASSP 2004, with speakers as an outer level]: test
    utterances that share a speaker or a recording are not independent, and an
    interval over utterances alone would be too narrow. With few speakers (below about
    ten) even this one is, if anything, too narrow.

    Args:
        units: errors and words from :func:`units_by_recording` or
            :func:`units_by_utterance`.
        samples: number of bootstrap samples.
        level: coverage, 0.95 for a 95 % interval.
        seed: the same seed draws the same speakers and recordings.
    """
    rates = resample([units], samples, seed)[0]
    errors, words = np.sum(list(units.values()), axis=0)
    return _interval(100 * errors / words, rates, level)


def paired_bootstrap(
    baseline: Units,
    system: Units,
    samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the difference in error rate, ``system`` minus ``baseline``.

    Both are resampled with the same draws, so what makes a speaker or a recording
    hard for both cancels. Positive means that ``system`` makes more errors; an
    interval that contains 0 shows no difference.

    Raises:
        ValueError: the two were not measured on the same recordings.
    """
    if set(baseline) != set(system):
        raise ValueError("a paired bootstrap needs the same test set for both systems")
    base, other = resample([baseline, system], samples, seed)
    sums = [np.sum(list(units.values()), axis=0) for units in (baseline, system)]
    value = 100 * (sums[1][0] / sums[1][1] - sums[0][0] / sums[0][1])
    return _interval(value, other - base, level)


def _as_text(tokens: Sequence[str]) -> str:
    return " ".join(tokens).lower()


def _aligned(
    references: Tokens, hypotheses: Tokens
) -> Iterator[Tuple[str, List[Edit]]]:
    unlike = sorted(set(references) ^ set(hypotheses))
    if unlike:
        side = "hypothesis" if unlike[0] in references else "reference"
        raise ValueError(f"{len(unlike)} utterances lack a {side}, first {unlike[0]}")
    for utt in sorted(references):
        yield utt, align(references[utt], hypotheses[utt])


def _count_one(edits: Sequence[Edit]) -> Counts:
    kinds = [edit.kind for edit in edits]
    correct, wrong = kinds.count("equal"), any(k != "equal" for k in kinds)
    subs, dels = kinds.count("substitute"), kinds.count("delete")
    words = correct + subs + dels
    return Counts(1, words, correct, subs, dels, kinds.count("insert"), int(wrong))


def resample(systems: Sequence[Units], samples: int, seed: int) -> np.ndarray:
    """Return error rates in percent, shape (systems, samples), of common draws."""
    keys = sorted(systems[0])
    speakers = sorted({speaker for speaker, _ in keys})
    # One array (recordings, systems, 2) per speaker.
    tables = [
        np.array([[units[k] for units in systems] for k in keys if k[0] == speaker])
        for speaker in speakers
    ]
    rng = np.random.default_rng(seed)
    sums = np.zeros((samples, len(systems), 2))
    for sample in range(samples):
        for s in rng.integers(len(tables), size=len(tables)):
            picks = rng.integers(len(tables[s]), size=len(tables[s]))
            sums[sample] += tables[s][picks].sum(axis=0)
    return (100 * sums[..., 0] / np.maximum(sums[..., 1], 1)).T


def _interval(value: float, rates: np.ndarray, level: float) -> Interval:
    tail = 50 * (1 - level)
    low, high = np.percentile(rates, [tail, 100 - tail])
    return Interval(float(value), float(low), float(high))
