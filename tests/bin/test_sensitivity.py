"""The command on a real checkpoint: its file, going on after a break, bad input."""

import json
from dataclasses import replace

import pytest
from tiny_task import Task
from untrained import data, save

from espnet_gq.analysis.sensitivity import Sensitivity
from espnet_gq.bin import sensitivity
from espnet_gq.espnet.inference.validation import Validation


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return Task(tmp_path_factory.mktemp("sensitivity"), train=4)


@pytest.fixture(scope="module")
def folder(task):
    return save(task, task.config(), "model")


def options(task, folder, output, **changes):
    given = {
        "asr_model_file": folder / "model.pth",
        "bits": "2,8",
        "num_utterances": 2,
        "batch_size": 2,
        "output": output,
        **changes,
    }
    command = [f"--{key}={value}" for key, value in given.items() if value is not None]
    for triple in data(task):
        command += ["--data_path_and_name_and_type", ",".join(triple)]
    return command


@pytest.fixture(scope="module")
def finished(task, folder):
    output = task.path / "finished.json"
    sensitivity.main(options(task, folder, output))
    return Sensitivity.read(output)


def test_every_tensor_is_in_the_file(finished):
    assert finished.unmeasured == 0 and finished.utterances == 2
    names = [t.name for t in finished.tensors]
    assert len(names) == len(set(names)) > 30
    assert "encoder.encoders.0.feed_forward.w_1.weight" in names
    assert "ctc.ctc_lo.weight" in names
    assert all(set(t.costs) == {2, 8} for t in finished.tensors)
    two, eight = (sum(abs(t.costs[b].loss) for t in finished.tensors) for b in (2, 8))
    assert two > 5 * eight


def test_an_interrupted_run_goes_on_where_it_was(
    task, folder, finished, tmp_path, monkeypatch, capsys
):
    output, calls, original = tmp_path / "s.json", [], Validation.loss

    def loss(self, batch):
        calls.append(1)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return original(self, batch)

    monkeypatch.setattr(Validation, "loss", loss)
    with pytest.raises(SystemExit, match="the same command continues"):
        sensitivity.main(options(task, folder, output))
    begun = Sensitivity.read(output)
    done = len(begun.tensors)
    assert 0 < done == len(finished.tensors) - begun.unmeasured < 5
    assert begun.tensors == finished.tensors[:done]
    sensitivity.main(options(task, folder, output))
    assert Sensitivity.read(output) == finished
    # Two passes for every tensor that was missing, and the Fisher information again.
    assert len(calls) == 10 + 2 * begun.unmeasured + 2
    printed = capsys.readouterr()
    total = len(finished.tensors)
    assert f"{done} done before" in printed.out
    assert f"[{total}/{total}, 0:00 min left]" in printed.err
    sensitivity.main(options(task, folder, output))
    assert len(calls) == 10 + 2 * begun.unmeasured + 2


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"num_utterances": 3}, "another set of utterances"),
        ({"batch_size": 1}, "another set of utterances or batch size"),
        ({"bits": "2,4"}, "another list of bit widths"),
    ],
)
def test_a_file_of_other_options_is_refused(
    task, folder, finished, tmp_path, changes, sentence
):
    output = tmp_path / "s.json"
    finished.write(output)
    before = output.read_bytes()
    with pytest.raises(SystemExit, match=sentence) as error:
        sensitivity.main(options(task, folder, output, **changes))
    assert "\n" not in str(error.value) and str(output) in str(error.value)
    assert output.read_bytes() == before


def test_a_file_of_another_model_is_refused(task, folder, finished, tmp_path):
    output = tmp_path / "s.json"
    replace(finished, model="0" * 64).write(output)
    with pytest.raises(SystemExit, match="another model; allowed: another --output"):
        sensitivity.main(options(task, folder, output))


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"asr_model_file": "no.pth"}, "config.yaml: No such file"),
        ({"asr_train_config": "no.yaml"}, "no.yaml"),
        ({"shape_file": "no.shape"}, "no.shape"),
    ],
)
def test_a_missing_input_gives_one_line(task, folder, tmp_path, changes, sentence):
    with pytest.raises(SystemExit, match=sentence) as error:
        sensitivity.main(options(task, folder, tmp_path / "s.json", **changes))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "s.json").exists()


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"bits": "2,9"}, "'2,9' are not bit widths"),
        ({"bits": "two"}, "'two' are not bit widths"),
        ({"num_utterances": 0}, "'0' is not a number of utterances"),
        ({"data_path_and_name_and_type": "wav.scp"}, "is not PATH,NAME,TYPE"),
    ],
)
def test_a_wrong_option_says_what_is_allowed(
    task, folder, tmp_path, capsys, changes, sentence
):
    with pytest.raises(SystemExit):
        sensitivity.main(options(task, folder, tmp_path / "s.json", **changes))
    assert sentence in capsys.readouterr().err


def test_the_file_is_as_documented(task, finished):
    content = json.loads((task.path / "finished.json").read_text())
    assert {"format", "version", "model", "data", "base_loss"} < set(content)
    assert set(content["unquantized"]) == {"numel", "bytes"}
