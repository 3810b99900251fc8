"""The documents: their Python runs as written, and what they name exists."""

import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

import espnet_gq.espnet  # noqa: F401
from espnet_gq import GQConfig, prepare
from espnet_gq.espnet.classes import transducer_task
from espnet_gq.espnet.classes.decoders import DECODERS
from espnet_gq.espnet.classes.encoders import ENCODERS
from espnet_gq.espnet.classes.model import MODELS
from espnet_gq.nn.prepare import harden
from espnet_gq.packing import pack, save
from espnet_gq.quantizer.methods import METHODS

ROOT = Path(__file__).resolve().parents[1]
CONFIGURATION = ROOT / "docs/configuration.md"
READMES = (
    "benchmarks/README.md",
    "benchmarks/gpu/README.md",
    "experiments/README.md",
    "tests/robustness/README.md",
)
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", *READMES)),
    *sorted((ROOT / "docs").glob("*.md")),
]


def python_of(path):
    return re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)


def run(path, **names):
    """Execute the Python of a document, block after block; returns its names."""
    blocks = python_of(path)
    assert blocks
    for block in blocks:
        exec(compile(block, str(path), "exec"), names)
    return names


def test_the_example_in_python():
    names = run(CONFIGURATION)
    assert names["packed"]["format"] == "espnet_gq.packed"
    assert type(names["float_model"][0]).__name__ == "Linear"


@pytest.mark.parametrize("method", ["gq", "lsq"])
def test_the_reader_in_the_description_of_the_format(tmp_path, method):
    read = run(ROOT / "docs/format.md")["read"]
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv1d(3, 6, 3), torch.nn.BatchNorm1d(6), torch.nn.Linear(5, 7)
    )
    model[2].bias.data = model[2].bias.data.bfloat16()
    rules = [{"pattern": "0", "bits": 3, "granularity": "channel"}]
    prepare(model, GQConfig(bits=5, rules=rules, method=method))
    save(pack(model), tmp_path / "model.pth")
    found, hard = read(tmp_path / "model.pth"), harden(model).state_dict()
    assert set(found) == set(hard)
    for name, tensor in hard.items():
        assert found[name].shape == tuple(tensor.shape)
        np.testing.assert_array_equal(found[name], tensor.float().numpy(), name)


def test_the_method_in_the_guide():
    known = dict(METHODS)
    try:
        names = run(ROOT / "docs/developing.md")
    finally:
        METHODS.clear()
        METHODS.update(known)
    model = names["model"]
    assert model.weight.grad is not None
    assert names["packed"]["version"] == 2
    hard = harden(model).weight
    exponents = (hard.abs() / hard.abs().max()).log2()
    assert torch.allclose(exponents, exponents.round(), atol=1e-5)
    assert exponents.min() < -0.5


def test_the_classes_and_keys_of_the_configuration_are_all_there_are():
    text = CONFIGURATION.read_text()
    named = set(re.findall(r"`(gq_[a-z_]+)`", text)) - {"gq_conf"}
    known = {*ENCODERS, *DECODERS, *MODELS, *transducer_task.DECODERS}
    assert named == known
    keys = re.findall(r"^\| `([a-z_]+)` \|", text, re.MULTILINE)
    assert set(keys) == {f.name for f in fields(GQConfig)}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_names_of_the_code_exist(path):
    text = path.read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in target:
            assert (path.parent / target).exists(), target
    places = [ROOT, ROOT / "espnet_gq", path.parent, ROOT / "espnet_gq/runtime"]
    for name in re.findall(r"`([\w/]+\.(?:py|yaml|md|h))(?:::\w+)?`", text):
        assert any((place / name).exists() for place in places), name
    for name, member in re.findall(r"`([\w/]+\.py)::(\w+)`", text):
        file = next(p / name for p in places if (p / name).exists())
        assert re.search(
            rf"^(def|class) {member}\b|^{member}\b", file.read_text(), re.M
        )
    rooms = "espnet_gq|benchmarks|experiments|tests"
    for module in re.findall(rf"-m ((?:{rooms})\.[\w.]+)", text):
        file = ROOT / module.replace(".", "/")
        assert file.with_suffix(".py").exists() or (file / "__main__.py").exists()
