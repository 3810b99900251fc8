"""A trained float model made smaller in one command, without training."""

import copy
import os
import zipfile

import numpy as np
import pytest
import torch
import yaml
from tiny_task import ABSENT, RNNT, SECOND_TASK
from untrained import save

import espnet_gq
from espnet_gq.bin import pack, quantize
from espnet_gq.packing import load_state_dict, quantized_names
from espnet_gq.runtime import PackedWeight

FLOAT = {
    "encoder": "conformer",
    "encoder_conf__gq_conf": ABSENT,
    "decoder": "transformer",
    "decoder_conf__gq_conf": ABSENT,
    "model": "espnet",
    "model_conf__gq_conf": ABSENT,
}
DECODING = {"beam_size": 2, "maxlenratio": -4}


def without_quantization(changes, **classes):
    """Return the changes of the tiny task that make a float model."""
    found = {
        key: copy.deepcopy(value) if isinstance(value, dict) else value
        for key, value in changes.items()
    }
    for conf in ("encoder_conf", "decoder_conf", "model_conf"):
        found[conf].pop("gq_conf")
    return {**found, **classes}


KINDS = {
    "conformer": (FLOAT, "asr"),
    "rnnt": (
        without_quantization(RNNT, encoder="rnn", decoder="transducer", model="espnet"),
        "asr",
    ),
    "second": (without_quantization(SECOND_TASK, decoder="rnn"), "asr_transducer"),
}


@pytest.fixture(scope="module")
def floats(task):
    """Folders of float models of random weights, with statistics of a real folder."""
    found = {}
    for name, (changes, asr_task) in KINDS.items():
        config = task.config(f"float_{name}.yaml", **changes)
        found[name] = save(task, config, f"float_{name}", asr_task)
    return found


def pair(folder):
    return [str(folder / "config.yaml"), str(folder / "model.pth")]


def run(capsys, *arguments):
    """Run the command; returns what it printed."""
    quantize.main([str(a) for a in arguments])
    return capsys.readouterr().out


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as error:
        quantize.main([str(a) for a in arguments])
    assert error.value.code == 2 and "\n" not in str(error.value)
    capsys.readouterr()
    return str(error.value)


def packed_of(path, tmp_path):
    """Return the packed dict in a zip."""
    with zipfile.ZipFile(path) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".packed.pth")]
        return load_state_dict(archive.extract(name, tmp_path))


def weights_of(folder, tmp_path, name="o.zip"):
    """Return the weights of a zip's float form."""
    with zipfile.ZipFile(tmp_path / name) as archive:
        inner = archive.extract("float.zip", tmp_path / f"{name}.float")
    with zipfile.ZipFile(inner) as archive:
        (path,) = [n for n in archive.namelist() if n.endswith(".float.pth")]
        return load_state_dict(archive.extract(path, tmp_path / f"{name}.float"))


def transcripts(path, audio, **options):
    speech2text = espnet_gq.Speech2Text.from_pretrained(path, **options)
    with torch.no_grad():
        found = speech2text(audio)
    if hasattr(speech2text, "hypotheses_to_results"):
        found = speech2text.hypotheses_to_results(found)
    return found[0][0], speech2text.asr_model


@pytest.fixture
def audio():
    return np.random.default_rng(0).normal(0, 0.1, 6000).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_a_float_model_becomes_a_packed_one(floats, kind, tmp_path, capsys, audio):
    output = tmp_path / "o.zip"
    printed = run(capsys, *pair(floats[kind]), "--bits", "4", "-o", output)
    assert "quantized to 4.00 bits" in printed and "bias" in printed
    assert os.listdir(tmp_path) == ["o.zip"]
    options = {"beam_size": 2} if kind == "second" else DECODING
    text, model = transcripts(output, audio, cachedir=tmp_path / "c", **options)
    assert any(isinstance(m, PackedWeight) for m in model.modules())
    with zipfile.ZipFile(output) as archive:
        assert "README.md" in archive.namelist()
        inner = archive.extract("float.zip", tmp_path)
        assert "quantized to 4.00 bits" in archive.read("README.md").decode()
    plain, _ = transcripts(inner, audio, cachedir=tmp_path / "c", **options)
    assert plain == text


def test_every_weight_is_its_nearest_centroid(floats, tmp_path, capsys):
    run(capsys, *pair(floats["conformer"]), "--bits", "6", "-o", tmp_path / "o.zip")
    hard = weights_of(floats, tmp_path)
    before = load_state_dict(floats["conformer"] / "model.pth")
    assert set(hard) == set(before)
    name = "encoder.encoders.0.feed_forward.w_1.weight"
    assert len(torch.unique(hard[name][0])) <= 64
    error = (hard[name] - before[name]).norm() / before[name].norm()
    assert 0 < error < 0.03
    assert torch.equal(
        hard["encoder.after_norm.weight"], before["encoder.after_norm.weight"]
    )


def test_widths_under_a_budget(floats, tmp_path, capsys):
    folder = pair(floats["conformer"])
    printed = run(capsys, *folder, "--effective-bits", "3.5", "-o", tmp_path / "o.zip")
    assert "quantized to 3.50 bits" in printed and "weight error" in printed
    printed = run(capsys, *folder, "--size", "28kB", "-o", tmp_path / "s.zip")
    with zipfile.ZipFile(tmp_path / "s.zip") as archive:
        (info,) = [i for i in archive.infolist() if i.filename.endswith(".packed.pth")]
    assert 26_500 < info.file_size <= 28_600
    sentence = refused(capsys, *folder, "--size", "3kB", "-o", tmp_path / "t.zip")
    assert "--size" in sentence and "or more" in sentence


def test_a_gq_conf_for_the_whole_model(floats, tmp_path, capsys):
    conf = tmp_path / "gq.yaml"
    rules = [
        {"pattern": "encoder.encoders.0.*", "bits": 2},
        {"pattern": "ctc.*", "float": True},
    ]
    conf.write_text(yaml.safe_dump({"gq_conf": {"bits": 7, "rules": rules}}))
    printed = run(
        capsys, *pair(floats["conformer"]), "--gq-conf", conf, "-o", tmp_path / "o.zip"
    )
    assert "a rule leaves it float" in printed
    entries = {
        line.split("|")[1].strip(): line.split("|")[2].strip()
        for line in printed.splitlines()
        if line.startswith("| ")
    }
    assert entries["encoder.encoders.0.feed_forward.w_1.weight"] == "2"
    assert entries["encoder.encoders.1.feed_forward.w_1.weight"] == "7"
    assert entries["ctc.ctc_lo.weight"] == "a rule leaves it float"
    transcripts(tmp_path / "o.zip", np.zeros(6000, np.float32), **DECODING)


@pytest.mark.parametrize("kind, transcribed", [("conformer", False), ("rnnt", True)])
def test_calibrated(task, floats, kind, transcribed, tmp_path, capsys):
    data = task.path / "train" if transcribed else task.path / "train/wav.scp"
    printed = run(
        *(capsys, *pair(floats[kind]), "--bits", "3", "-o", tmp_path / "o.zip"),
        *("--data", data, "--num-utterances", "8"),
    )
    assert "second order" in printed
    labels = "the transcripts" if transcribed else "best CTC paths"
    assert labels in printed and ("WER" in printed) == transcribed
    assert os.listdir(tmp_path) == ["o.zip"]
    for line in printed.splitlines():
        if "second order" in line and line.startswith("|"):
            cells = [cell.strip() for cell in line.split("|")]
            assert float(cells[7]) < float(cells[8])


def test_the_checkpoint_starts_a_training(task, floats, tmp_path, capsys):
    checkpoint = tmp_path / "start.pth"
    run(
        *(capsys, *pair(floats["conformer"]), "--bits", "3"),
        *("-o", tmp_path / "o.zip", "--checkpoint", checkpoint),
    )
    state = load_state_dict(checkpoint)
    assert quantized_names(state)
    config = yaml.safe_load(checkpoint.with_suffix(".yaml").read_text())
    assert config["encoder"] == "conformer"
    assert config["model_conf"]["gq_conf"]["bits"] == 3
    done = task.train(
        task.config(
            *("qat.yaml",),
            **{**FLOAT, "model_conf__gq_conf": config["model_conf"]["gq_conf"]},
            max_epoch=1,
            optim_conf__lr=0.0,
        ),
        *("from_ptq", "--init_param", str(checkpoint)),
    )
    assert done.returncode == 0
    after = load_state_dict(task.path / "from_ptq/1epoch.pth")
    name = "encoder.encoders.0.feed_forward.w_1.weight_quantizer.log_scale"
    assert torch.equal(after[name], state[name])


def test_from_a_zip_and_a_folder(floats, tmp_path, capsys, task):
    """A float zip of ESPnet, with statistics in it."""
    from espnet_gq.bin import zip_model

    stats = tmp_path / "recipe/exp/stats/feats_stats.npz"
    stats.parent.mkdir(parents=True)
    np.savez(stats, count=9, sum=np.ones(20) * 3, sum_square=np.ones(20) * 30)
    config = task.config(
        "float_stats.yaml",
        **FLOAT,
        normalize="global_mvn",
        normalize_conf={"stats_file": str(stats)},
    )
    exp = save(task, config, "float_stats")
    text = (exp / "config.yaml").read_text()
    folder = tmp_path / "recipe/exp/asr"
    exp.rename(folder)
    (folder / "config.yaml").write_text(text.replace(f"{tmp_path}/recipe/", ""))
    (folder / "model.pth").rename(folder / "valid.acc.ave.pth")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(tmp_path / "recipe")
        zip_model.main(
            [
                *("--asr_train_config", "exp/asr/config.yaml"),
                *("--asr_model_file", "exp/asr/valid.acc.ave.pth"),
                *("--outpath", "../float.zip"),
            ]
        )
    cache = ("--cachedir", tmp_path / "cache")
    run(capsys, tmp_path / "float.zip", "-o", tmp_path / "a.zip", *cache)
    run(capsys, folder, "-o", tmp_path / "b.zip")
    names = zipfile.ZipFile(tmp_path / "a.zip").namelist()
    assert "exp/stats/feats_stats.npz" in names
    first, second = (
        packed_of(tmp_path / n, tmp_path / n[0]) for n in ("a.zip", "b.zip")
    )
    assert first["sha256"] == second["sha256"]
    sentence = refused(capsys, tmp_path / "a.zip", "-o", tmp_path / "c.zip", *cache)
    assert "quantized already" in sentence


def test_bad_input_gives_one_sentence(task, floats, tmp_path, capsys):
    good, out = pair(floats["conformer"]), ("-o", tmp_path / "o.zip")
    assert "no such file or folder" in refused(capsys, tmp_path / "none.zip", *out)
    (tmp_path / "text.zip").write_text("no zip")
    assert refused(capsys, tmp_path / "text.zip", *out)
    assert ".zip" in refused(capsys, *good, "-o", tmp_path / "o.pth")
    assert "no such file" in refused(capsys, *good, *out, "--data", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "neither wav.scp" in refused(
        capsys, *good, *out, "--data", tmp_path / "empty"
    )
    wav_scp = task.path / "train/wav.scp"
    (tmp_path / "text").write_text("other hello\n")
    sentence = refused(capsys, *good, *out, "--data", wav_scp, tmp_path / "text")
    assert "no transcript of" in sentence
    conf = tmp_path / "gq.yaml"
    conf.write_text("bits: 9")
    assert "bits is 9" in refused(capsys, *good, *out, "--gq-conf", conf)
    conf.write_text("{bits: 5, rules: [{pattern: nothing.*, bits: 2}]}")
    assert "matches no layer" in refused(capsys, *good, *out, "--gq-conf", conf)
    trained = save(task, task.config("gq.yaml"), "for_quantize")
    assert "quantization-aware" in refused(capsys, *pair(trained), *out)
    pack.main(["--asr_model_file", str(trained / "model.pth")])
    packed = [str(trained / "config.yaml"), str(trained / "model.packed.pth")]
    assert "quantized already" in refused(capsys, *packed, *out)
    mixed = [str(floats["rnnt"] / "config.yaml"), good[1]]
    assert "not a checkpoint of this configuration" in refused(capsys, *mixed, *out)
    state = load_state_dict(good[1])
    state["ctc.ctc_lo.weight"][0, 0] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    sentence = refused(capsys, good[0], tmp_path / "nan.pth", *out)
    assert "ctc.ctc_lo.weight" in sentence
    assert not (tmp_path / "o.zip").exists()


def test_pack_says_what_takes_a_float_model(floats):
    with pytest.raises(SystemExit) as error:
        pack.main(["--asr_model_file", str(floats["conformer"] / "model.pth")])
    assert "espnet-gq quantize" in str(error.value)
