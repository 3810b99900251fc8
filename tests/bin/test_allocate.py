"""From measured costs to a training configuration whose model has these widths."""

import io

import pytest
import torch
import yaml
from tiny_task import RNNT, SECOND_TASK, Task
from untrained import build, data, save

from espnet_gq.analysis.sensitivity import Sensitivity
from espnet_gq.bin import _common, allocate, sensitivity
from espnet_gq.nn.prepare import quantized_weights
from espnet_gq.packing import pack

KINDS = {
    "asr": {},
    "asr_rnnt": RNNT,
    "asr_transducer": SECOND_TASK,
}


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return Task(tmp_path_factory.mktemp("allocate"), train=4)


@pytest.fixture(scope="module", params=sorted(KINDS))
def measured(request, task):
    """Return (ESPnet's task, base config, sensitivity file)."""
    name = request.param
    asr_task = "asr_transducer" if name == "asr_transducer" else "asr"
    base = task.config(f"{name}.yaml", **KINDS[name])
    folder = save(task, base, name, asr_task)
    output = folder / "sensitivity.json"
    command = ["--asr_task", asr_task, "--asr_model_file", f"{folder}/model.pth"]
    command += ["--bits", "1,3,4,8", "--num_utterances", "1", "--output", str(output)]
    for triple in data(task):
        command += ["--data_path_and_name_and_type", ",".join(triple)]
    sensitivity.main(command)
    return asr_task, base, output


def run(source, *extra):
    output = source.with_name("gq.yaml")
    allocate.main([str(source), "--output", str(output), *extra])
    return output


def test_the_model_of_the_config_has_the_widths(task, measured, capsys):
    asr_task, base, source = measured
    output = run(source, "--effective_bits", "3.6", "--base", str(base))
    model, _ = build(task, output, asr_task)
    bits, numel, size = 0, 0, 0
    tensors = {t.name: t for t in Sensitivity.read(source).tensors}
    for name, weight, quantizer in quantized_weights(model):
        tensor = tensors.pop(name)
        bits += quantizer.bits * weight.numel()
        numel += weight.numel()
        assert quantizer.log_scale.numel() == tensor.costs[quantizer.bits].scales
        size += tensor.costs[quantizer.bits].bytes
    assert not tensors
    assert 3.3 < bits / numel <= 3.6
    printed = capsys.readouterr().out
    assert f"\n{bits / numel:.3f} effective bits" in printed
    file = io.BytesIO()
    torch.save(pack(model), file)
    size += Sensitivity.read(source).unquantized["bytes"]
    assert abs(file.getbuffer().nbytes - size) < 300
    assert f"packed file {size / 1e6:.3f} MB" in printed
    before, after = (yaml.safe_load(p.read_text()) for p in (base, output))
    assert before != after
    for conf in ("encoder_conf", "decoder_conf", "model_conf"):
        for config in (before, after):
            config[conf].pop("gq_conf")
    assert before == after


def test_a_size_and_a_loss_are_kept_to(measured):
    _, _, source = measured
    record = Sensitivity.read(source)
    least = sum(min(c.bytes for c in t.costs.values()) for t in record.tensors)
    budget = record.unquantized["bytes"] + 1.5 * least
    head = run(source, "--max_size", f"{budget / 1000}kB").read_text().splitlines()[0]
    size = float(head.split("packed file ")[1].split(" MB")[0]) * 1e6
    assert 0.9 * budget < size <= budget + 500
    head = run(source, "--max_loss", "0.4").read_text().splitlines()[0]
    assert float(head.split("cost ")[1].split()[0]) <= 0.4


def test_without_a_base_only_the_gq_confs_are_written(measured):
    config = yaml.safe_load(run(measured[2], "--effective_bits", "4").read_text())
    assert set(config) == {"encoder_conf", "decoder_conf", "model_conf"}
    assert all(set(conf) == {"gq_conf"} for conf in config.values())
    output = run(measured[2], "--effective_bits", "4", "--default_bits", "5")
    config = yaml.safe_load(output.read_text())
    assert {conf["gq_conf"]["bits"] for conf in config.values()} == {5}


@pytest.fixture(scope="module")
def source(task, tmp_path_factory):
    folder = save(task, task.config("one.yaml"), "one")
    output = folder / "sensitivity.json"
    command = ["--asr_model_file", f"{folder}/model.pth", "--bits", "4"]
    command += ["--num_utterances", "1", "--output", str(output)]
    for triple in data(task):
        command += ["--data_path_and_name_and_type", ",".join(triple)]
    sensitivity.main(command)
    return output


@pytest.mark.parametrize(
    "content, sentence",
    [
        ("encoder: conformer\n", "encoder is 'conformer', which takes no gq_conf"),
        ("- a\n", "holds no options"),
        ("a: [", "is not YAML"),
        (None, "No such file"),
    ],
)
def test_a_wrong_base_gives_one_line(source, tmp_path, content, sentence):
    base = tmp_path / "base.yaml"
    if content is not None:
        base.write_text(content)
    output = tmp_path / "gq.yaml"
    with pytest.raises(SystemExit, match=sentence) as error:
        allocate.main(
            [str(source), "--effective_bits=4", f"--base={base}", f"--output={output}"]
        )
    assert str(base) in str(error.value) and "\n" not in str(error.value)
    assert not output.exists()


def test_a_budget_out_of_reach_and_a_file_of_another_kind_give_one_line(
    source, tmp_path
):
    with pytest.raises(SystemExit, match="sensitivity.json: effective_bits is 3,"):
        run(source, "--effective_bits", "3")
    (tmp_path / "s.json").write_text("{}")
    with pytest.raises(SystemExit, match="s.json holds no sensitivities"):
        run(tmp_path / "s.json", "--effective_bits", "3")
    with pytest.raises(SystemExit, match="no.json"):
        run(tmp_path / "no.json", "--effective_bits", "3")


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--max_size", "6 parsecs"], "'6 parsecs' is not a size"),
        (["--effective_bits", "-1"], "'-1' is not a number"),
        ([], "one of the arguments"),
        (["--max_loss", "1", "--effective_bits", "4"], "not allowed with"),
    ],
)
def test_a_wrong_option_says_what_is_allowed(source, capsys, options, sentence):
    with pytest.raises(SystemExit):
        run(source, *options)
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, size",
    [("6MB", 6e6), ("1.5 MiB", 1.5 * 2**20), ("700000", 7e5), ("70kb", 7e4)],
)
def test_sizes(text, size):
    assert _common.size(text) == size
