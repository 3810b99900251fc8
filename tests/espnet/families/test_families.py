"""One tiny model of each family: made smaller with and without training, and decoded.

Prints the share of the parameters that is quantized (pytest -s).
"""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import yaml

import espnet_gq.espnet  # noqa: F401 registers
from espnet_gq._compat import espnet_version
from espnet_gq.espnet.sharing.model_zip import pack_beside
from espnet_gq.espnet.sharing.pretrained import build, find_model
from espnet_gq.espnet.tasks import TASKS
from espnet_gq.nn import training
from espnet_gq.nn.prepare import quantized_weights
from espnet_gq.runtime.weight import PackedWeight
from tests.espnet.families import building, local, page
from tests.espnet.families.cannot import CANNOT
from tests.espnet.families.decoding import OPTIONS, decode, inference_class
from tests.espnet.families.registry import FAMILIES, choices
from tests.espnet.tiny_task import ROOT, environment

MOST = 1e-4
"""Largest difference of scores: packed kernels add in another order."""


@pytest.fixture(scope="module")
def assets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("families") / "assets"
    local.make(folder)
    return folder


class Plain:
    """A process that decodes with plain ESPnet; see `plain`."""

    def __init__(self, cache: Path):
        command = [sys.executable, "-W", "ignore", "-m", "tests.espnet.families.plain"]
        self.process = subprocess.Popen(
            [*command, str(cache)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env=environment(HF_HUB_OFFLINE="1"),
        )

    def decode(self, **job):
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        while not (line := self.process.stdout.readline()).startswith("{"):
            assert line, "the process has ended"  # else ESPnet prints at its import
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    server = Plain(tmp_path_factory.mktemp("plain"))
    yield server
    server.process.stdin.close()
    server.process.wait(60)


@pytest.fixture(params=FAMILIES, ids=str)
def family(request):
    for package in request.param.needs:
        if not local.has(package):
            pytest.skip(f"{package} is not installed")
    if espnet_version() < request.param.since:
        pytest.skip(f"ESPnet runs it since {request.param.since}")
    return request.param


def inference_of(family):
    return family.inference or TASKS[family.task].inference


def options_of(family):
    own = {} if family.inference else OPTIONS[family.task]
    return {**own, **family.search}


def loaded(family, source, cache):
    """Return ESPnet's inference object for a shared model or a pair of files."""
    if not family.inference:
        load = espnet_gq.Speech2Text.from_pretrained
        return load(source, cachedir=cache, **options_of(family))
    model = find_model(source, cache)
    return build(inference_class(family.inference), model, options_of(family))


def packed_weights(speech2text):
    """Return how many packed weights an inference object computes with."""
    modules = [v for v in vars(speech2text).values() if isinstance(v, torch.nn.Module)]
    found = {id(m) for v in modules for m in v.modules() if isinstance(m, PackedWeight)}
    return len(found)


def assert_same(result, expected):
    assert result["tokens"] == expected["tokens"]
    if expected["score"] is not None:
        assert abs(result["score"] - expected["score"]) < MOST * max(
            1, abs(expected["score"])
        )


def test_every_class_of_espnet_is_in_the_registry():
    """A class is covered by a family, or there is a reason why not."""
    covered = {(f.task, part, name) for f in FAMILIES for part, name in f.parts.items()}
    offered = {(t, part, name) for t, part, name in choices() if "gq_" not in name}
    missing = offered - covered - set(CANNOT)
    assert not missing, sorted(missing)
    assert not covered & set(CANNOT)


@pytest.mark.skipif(espnet_version() < "202611", reason="the page is of 202611")
def test_the_page_is_up_to_date():
    """docs/families.md is what `python -m tests.espnet.families.page` writes."""
    assert page.PAGE.read_text(encoding="utf-8") == page.page()


def test_without_training(family, tmp_path, assets, plain):
    """Quantized without data, packed, shared, decoded as plain ESPnet decodes."""
    building.save_float(family, tmp_path, assets)
    path = building.quantized(tmp_path)
    packed = loaded(family, path, tmp_path / "cache")
    with zipfile.ZipFile(path) as archive:
        archive.extract("float.zip", tmp_path)
        (name,) = (n for n in archive.namelist() if n.endswith("quantized/config.yaml"))
        conf = yaml.safe_load(archive.read(name))["model_conf"]["gq_conf"]
    assert conf["bits"] == building.BITS
    assert packed_weights(packed) > 0
    result = decode(packed, family.task, family.rate)
    expected = plain.decode(
        path=str(tmp_path / "float.zip"),
        assets=str(assets),
        inference=inference_of(family),
        task=family.task,
        rate=family.rate,
        options=options_of(family),
    )
    assert_same(result, expected)


def test_with_training(family, tmp_path, assets):
    """One gq_conf for the whole model: a step of training, packed as it is hardened."""
    args = building.arguments(family, tmp_path, assets, gq_conf=building.WHOLE)
    torch.manual_seed(0)
    model = TASKS[family.task].load().build_model(args)
    whole, matrices = building.shares(model)
    print(
        f"\n{family}: {whole:.1%} of all parameters quantized, {matrices:.1%} of ",
        end="",
    )
    print("those in matrices")
    assert matrices >= family.share, model
    if family.untrained:
        training.start(model)
    else:
        plain = building.arguments(family, tmp_path, assets)
        training_step(family, model, args, plain)

    (tmp_path / "config.yaml").write_text(yaml.safe_dump(vars(args)))
    torch.save(model.state_dict(), tmp_path / "model.pth")
    packed_file = pack_beside(tmp_path / "model.pth")
    results = []
    for checkpoint in (packed_file, tmp_path / "model.pth"):
        pair = (tmp_path / "config.yaml", checkpoint)
        speech2text = loaded(family, pair, tmp_path / "cache")
        assert bool(packed_weights(speech2text)) == (checkpoint == packed_file)
        results.append(decode(speech2text, family.task, family.rate))
    assert_same(*results)


def training_step(family, model, args, float_args):
    """One step of ESPnet's loss: quantized weights and codebooks get gradients."""
    training.start(model.train())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    batch = building.batch(family, args)
    assert torch.isfinite(backward(model, batch))
    without = set()
    for name, weight, quantizer in quantized_weights(model):
        for parameter in (weight, *quantizer.parameters()):
            if parameter.grad is None:
                without.add(name)
            else:
                assert torch.isfinite(parameter.grad).all(), name
    if without:  # as ESPnet does not train them either
        plain = TASKS[family.task].load().build_model(float_args)
        backward(plain.train(), batch)
        trained = {n for n, p in plain.named_parameters() if p.grad is not None}
        assert not without & trained
    optimizer.step()
    assert all(torch.isfinite(p).all() for p in model.parameters())


def backward(model, batch):
    """Compute ESPnet's loss and its gradients; return it."""
    output = model(**{name: value.clone() for name, value in batch.items()})
    loss = output["loss"] if isinstance(output, dict) else output[0]
    loss.backward()
    return loss.detach()
