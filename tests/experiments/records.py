"""Result files in the format of the grid, with invented errors."""

import random

import pytest

from experiments.cells import Grid
from experiments.running.cell import write_result

SETS = ("test_clean", "test_noisy", "test_far")
SPEAKERS = ("ann", "bob", "cid", "dee")
RATES = {"uniform": 0.3, "lsq": 0.1, "gq_ptq": 0.35}


@pytest.fixture(scope="module")
def declared():
    return Grid()


def record_of(cell, errors=0.1, seed=0):
    """Return a result with approximately this error rate; recordings differ."""
    rng = random.Random(f"{cell.name}{seed}")
    hardness = random.Random(7)
    sets = {}
    for number, name in enumerate(SETS):
        rows, total, words = {}, 0, 0
        for speaker in SPEAKERS:
            share = [errors * (1 + number) * hardness.uniform(0, 2) for _ in range(20)]
            wrong = [sum(rng.random() < s for _ in range(4)) for s in share]
            rows[speaker] = {"errors": " ".join(map(str, wrong)), "words": "4"}
            total, words = total + sum(wrong), words + 80
        sets[name] = dict(errors=total, words=words, units=rows)
        sets[name].update(utterances=16, digest=name)
    trained = cell.seed is not None
    quantized = cell.bits is not None
    versions = {"espnet": "202611", "torch": "2.11.0", "brevitas": None}
    return dict(
        benchmark="grid",
        format=1,
        cell=cell.name,
        **vars(cell),
        config=dict(
            data={"recipe": "--seed 0"},
            changes={"decoder": None, "encoder_conf": {"output_size": 48}},
            base="train.yaml",
            decoding="ctc",
            start_epochs=30,
        ),
        commands=["./run.sh --stage 11", "python benchmarks/evaluate.py"],
        start_figures=dict(kurtosis_before=3.1, kurtosis=9.5, largest_difference=0.0),
        training=dict(steps=632, seconds_a_step=0.2) if trained else None,
        gap=(
            dict(loss_hard=1.01, loss_trained=1.0, weights=0.02) if quantized else None
        ),
        size=dict(
            parameters=260_000,
            quantized_share=0.97 if quantized else 0.0,
            bits=cell.bits or 32.0,
            expected_bytes=260_000 * (cell.bits or 32) / 8,
            packed_bytes=30_000 * cell.bits if quantized else None,
        ),
        sets=sets,
        machine=dict(cpu="a processor", threads=1, python="3.12.1", versions=versions),
        jobs=1,
        commit="0123456789ab",
        date="2026-01-02",
        seconds=120.0,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory, declared):
    """Fill a folder with results in which GQ beats uniform and ties with LSQ."""
    path = tmp_path_factory.mktemp("results")
    patterns = ["conformer-trained-float*", "conformer-trained-gq-[52]b-s?"]
    patterns += ["conformer-trained-uniform-2b-s?", "conformer-trained-lsq-2b-s?"]
    patterns += ["conformer-trained-gq_ptq-2b", "*-tensor_scale-*"]
    for cell in declared.matching(patterns):
        record = record_of(cell, RATES.get(cell.method, 0.1))
        write_result(path / f"{cell.name}.json", record)
    return path
