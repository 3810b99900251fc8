"""ESPnet's --quantize_asr_model on checkpoints as trained: as on a float model."""

import pytest
import soundfile
import torch
from espnet2.bin import asr_inference, asr_transducer_inference
from tiny_task import SECOND_TASK, Task
from untrained import save, task_class

from espnet_gq import Speech2Text
from espnet_gq.bin import pack
from espnet_gq.nn.layers import QuantizedLayer
from espnet_gq.quantizer import Quantizer

MODELS = {
    "asr": ({}, asr_inference.Speech2Text, {"maxlenratio": -4}),
    "asr_transducer": (SECOND_TASK, asr_transducer_inference.Speech2Text, {}),
}
INT8 = torch.ao.nn.quantized.dynamic.Linear


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return Task(tmp_path_factory.mktemp("int8"), train=1, valid=1)


@pytest.fixture(scope="module")
def saved(task):
    """Return {form: files} of a model of one of MODELS: as trained, and float."""
    done = {}

    def files(name):
        if name not in done:
            folder = save(
                task, task.config(f"{name}.yaml", **MODELS[name][0]), name, name
            )
            trained = folder / "model.pth"
            pack.main(["--asr_model_file", str(trained), "--format", "float"])
            done[name] = {
                "trained": (folder / "config.yaml", trained),
                "float": (folder / "model.float.yaml", folder / "model.float.pth"),
            }
        return done[name]

    return files


def decode(task, speech2text):
    wav = (task.path / "valid/wav.scp").read_text().split()[1]
    results = speech2text(soundfile.read(wav, dtype="float32")[0])
    hyp = results[0][-1] if isinstance(results[0], tuple) else results[0]
    return [int(i) for i in hyp.yseq], pytest.approx(float(hyp.score), rel=1e-6)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("int8", [False, True])
def test_as_on_a_float_model(task, saved, name, int8):
    _, constructor, options = MODELS[name]
    found = {}
    for form, (config, model) in saved(name).items():
        speech2text = constructor(
            str(config), str(model), beam_size=2, quantize_asr_model=int8, **options
        )
        modules = list(speech2text.asr_model.modules())
        assert not any(isinstance(m, (Quantizer, QuantizedLayer)) for m in modules)
        assert any(isinstance(m, INT8) for m in modules) == int8
        found[form] = decode(task, speech2text)
    assert found["trained"] == found["float"]


def test_from_pretrained(task, saved):
    pair = saved("asr")["trained"]
    results = [
        decode(
            task,
            cls(*map(str, pair), beam_size=2, maxlenratio=-4, quantize_asr_model=True),
        )
        for cls in (asr_inference.Speech2Text, Speech2Text.from_pretrained)
    ]
    assert results[0] == results[1]


@pytest.mark.parametrize("name", MODELS)
def test_nothing_but_the_weights_is_new(saved, name):
    """Decoding costs what a float model's does."""
    forms = [
        task_class(name).build_model_from_file(*files)[0]
        for files in saved(name).values()
    ]
    states = [form.state_dict() for form in forms]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
