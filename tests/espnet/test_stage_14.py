"""ESPnet's own stage 14 (espnet2.bin.pack) on quantized models, and what it leaves."""

import argparse
import io
import sys
import zipfile

import pytest
import torch
import yaml
from espnet2.bin import asr_inference, asr_transducer_inference
from espnet2.bin import pack as espnets_pack
from espnet2.bin.asr_inference_maskctc import Speech2Text as MaskCTC
from espnet2.tasks.asr import ASRTask
from espnet2.tasks.lm import LMTask
from tiny_task import ABSENT, RNNT, SECOND_TASK, TOKENS, run
from untrained import save

import espnet_gq
from espnet_gq.bin import asr_inference_streaming, zip_model
from espnet_gq.espnet.inference.loading import MissingFileError, check_files
from espnet_gq.packing import CheckpointError, is_packed, load_state_dict

FLOAT = {
    **{f"{part}_conf__gq_conf": ABSENT for part in ("encoder", "decoder", "model")},
    **{"encoder": "conformer", "decoder": "transformer", "model": "espnet"},
}
MODELS = {
    "conformer": ({}, "asr"),
    "rnnt": (RNNT, "asr"),
    "second": (SECOND_TASK, "asr_transducer"),
    "float": (FLOAT, "asr"),
}


@pytest.fixture
def experiment(task, tmp_path, monkeypatch):
    """Make a finished experiment in exp/asr_x of the working folder; return it."""
    monkeypatch.chdir(tmp_path)

    def make(name):
        changes, asr_task = MODELS[name]
        config = task.config(f"stage14_{name}.yaml", **changes)
        folder = save(task, config, f"stage14_{name}{tmp_path.name}", asr_task)
        exp = tmp_path / "exp" / "asr_x"
        exp.parent.mkdir()
        folder.rename(exp)
        (exp / "model.pth").rename(exp / "valid.acc.ave_1best.pth")
        (exp / "valid.acc.ave.pth").symlink_to("valid.acc.ave_1best.pth")
        (exp / "RESULTS.md").write_text("# RESULTS\n|a|b|\n")
        (exp / "images").mkdir()
        (exp / "images" / "loss.png").write_bytes(b"png")
        return exp

    return make


def arguments(*further, model="valid.acc.ave.pth", out="exp/asr_x/asr_x.zip"):
    """What asr.sh gives espnet2.bin.pack."""
    return [
        *["asr", "--asr_train_config", "exp/asr_x/config.yaml"],
        *["--asr_model_file", f"exp/asr_x/{model}", *further],
        *["--option", "exp/asr_x/RESULTS.md", "--option", "exp/asr_x/images"],
        *["--outpath", out],
    ]


def meta(archive):
    return yaml.safe_load(archive.read("meta.yaml"))


@pytest.mark.parametrize("name", ["conformer", "rnnt", "second"])
def test_a_quantized_model_is_packed(experiment, name, tmp_path):
    exp = experiment(name)
    espnets_pack.main(arguments())
    packed = exp / "valid.acc.ave.packed.pth"
    assert is_packed(load_state_dict(packed))
    archive = zipfile.ZipFile(exp / "asr_x.zip")
    files = {"asr_model_file": "exp/asr_x/valid.acc.ave.packed.pth"}
    assert meta(archive)["files"] == files
    names = set(archive.namelist())
    assert {"README.md", "float.zip", "exp/asr_x/images/loss.png"} <= names
    assert "exp/asr_x/valid.acc.ave.pth" not in names
    card = archive.read("README.md").decode()
    assert f"/{tmp_path.name} recipe" in card
    load = espnet_gq.Speech2Text.from_pretrained
    load(exp / "asr_x.zip", cachedir=tmp_path / "cache", beam_size=1)
    (tmp_path / "float.zip").write_bytes(archive.read("float.zip"))
    load(tmp_path / "float.zip", cachedir=tmp_path / "cache", beam_size=1)


def test_under_the_launcher(experiment, tmp_path):
    exp = experiment("conformer")
    launch = [sys.executable, "-m", "espnet_gq", "-m", "espnet2.bin.pack"]
    out = run([*launch, *arguments()], cwd=tmp_path).stdout
    assert "espnet_gq: wrote exp/asr_x/valid.acc.ave.packed.pth" in out
    assert (exp / "valid.acc.ave.packed.pth").exists()
    wrong = arguments(model="valid.loss.ave.pth")
    done = run([*launch, *wrong], cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1] == (
        "espnet_gq: error: exp/asr_x/valid.loss.ave.pth: no such file; allowed: "
        "valid.acc.ave.packed.pth, valid.acc.ave.pth, valid.acc.ave_1best.pth"
    )


def test_one_that_is_packed_already(experiment):
    exp = experiment("conformer")
    espnets_pack.main(arguments())
    first = (exp / "valid.acc.ave.packed.pth").stat().st_mtime_ns
    out = "exp/asr_x/again.zip"
    espnets_pack.main(arguments(model="valid.acc.ave.packed.pth", out=out))
    assert (exp / "valid.acc.ave.packed.pth").stat().st_mtime_ns == first
    assert meta(zipfile.ZipFile(exp / "again.zip")) == {
        **meta(zipfile.ZipFile(exp / "asr_x.zip")),
        "timestamp": meta(zipfile.ZipFile(exp / "again.zip"))["timestamp"],
    }


def test_a_float_model_is_espnets(experiment):
    exp = experiment("float")
    espnets_pack.main(arguments())
    names = zipfile.ZipFile(exp / "asr_x.zip").namelist()
    assert "exp/asr_x/valid.acc.ave_1best.pth" in names  # ESPnet's follows links
    assert "README.md" not in names and not list(exp.glob("*.packed.pth"))


def test_a_quantized_configuration_with_a_float_checkpoint_is_espnets(experiment):
    exp = experiment("conformer")
    state = load_state_dict(exp / "valid.acc.ave.pth")
    state = {name: v for name, v in state.items() if "_quantizer." not in name}
    torch.save(state, exp / "valid.acc.ave_1best.pth")
    espnets_pack.main(arguments())
    assert "float.zip" not in zipfile.ZipFile(exp / "asr_x.zip").namelist()


def test_other_tasks_are_espnets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("config.yaml", "model.pth"):
        (tmp_path / name).write_text("a: 1\n")
    files = ["--train_config", "config.yaml", "--model_file", "model.pth"]
    espnets_pack.main(["tts", *files, "--outpath", "a.zip"])
    assert "model.pth" in zipfile.ZipFile("a.zip").namelist()


def test_with_a_language_model(experiment, tmp_path):
    """As asr.sh --use_lm true gives it."""
    exp, lm = experiment("conformer"), tmp_path / "exp" / "lm_x"
    lm.mkdir()
    args = vars(LMTask.get_parser().parse_args([]))
    args.update(token_list=TOKENS, lm="seq_rnn", lm_conf={"unit": 8})
    (lm / "config.yaml").write_text(yaml.safe_dump(args))
    model = LMTask.build_model(argparse.Namespace(**args))
    torch.save(model.state_dict(), lm / "lm.pth")
    (lm / "ppl").write_text("9\n")
    further = ["--lm_train_config", "exp/lm_x/config.yaml"]
    further += ["--lm_file", "exp/lm_x/lm.pth", "--option", "exp/lm_x/ppl"]
    espnets_pack.main(arguments(*further))
    archive = zipfile.ZipFile(exp / "asr_x.zip")
    plain = zipfile.ZipFile(io.BytesIO(archive.read("float.zip")))
    for found in (archive, plain):
        assert meta(found)["files"]["lm_file"] == "exp/lm_x/lm.pth"
        assert meta(found)["yaml_files"]["lm_train_config"] == "exp/lm_x/config.yaml"
        assert found.read("exp/lm_x/lm.pth") == (lm / "lm.pth").read_bytes()
    assert "exp/lm_x/ppl" in archive.namelist()
    load = espnet_gq.Speech2Text.from_pretrained
    speech2text = load(exp / "asr_x.zip", cachedir=tmp_path / "cache")
    assert "lm" in speech2text.beam_search.full_scorers


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda exp: (exp / "RESULTS.md").unlink(), "RESULTS.md: no such file"),
        (lambda exp: (exp / "config.yaml").unlink(), "config.yaml: no such file; all"),
        (lambda exp: (exp / "valid.acc.ave_1best.pth").unlink(), "no other checkpoint"),
        (lambda exp: unfit(exp), "has never been quantized in training; allowed"),
        (lambda exp: (exp / "config.yaml").write_text("[a"), "is not YAML"),
    ],
)
def test_what_stage_14_cannot_pack(experiment, change, words):
    exp = experiment("conformer")
    change(exp)
    before = sorted(exp.iterdir())
    with pytest.raises((CheckpointError, ValueError)) as error:
        espnets_pack.main(arguments())
    assert words in str(error.value) and "\n" not in str(error.value)
    assert not (exp / "asr_x.zip").exists() and before == [
        path
        for path in sorted(exp.iterdir())
        if path.name != "valid.acc.ave.packed.pth"
    ]


def unfit(exp):
    state = dict(load_state_dict(exp / "valid.acc.ave.pth"))
    name = next(name for name in state if name.endswith("saved_state"))
    state[name] = state[name] * torch.tensor([1.0, 0, 1, 1])
    torch.save(state, exp / "valid.acc.ave_1best.pth")


def test_another_kind_of_archive(experiment):
    experiment("conformer")
    with pytest.raises(ValueError, match="a.tgz is not a zip; allowed"):
        espnets_pack.main(arguments(out="exp/a.tgz"))


# ---- A model that is not there ------------------------------------------------------
PROGRAMS = {
    "asr_inference": asr_inference.Speech2Text,
    "maskctc": MaskCTC,
    "transducer": asr_transducer_inference.Speech2Text,
    "build_model_from_file": ASRTask.build_model_from_file,
    "from_pretrained": espnet_gq.Speech2Text.from_pretrained,
    "streaming": espnet_gq.Speech2TextStreaming,
}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize(
    "model, words",
    [
        ("valid.acc.ave.packed.pth", "; it is made by stage 14 (--skip_packing false), "
         "or by espnet-gq pack --asr_model_file "),
        ("valid.acc.ave.float.pth", "; it is made by espnet-gq pack "
         "--format float --asr_model_file "),
        ("other.packed.pth", "; allowed: valid.acc.ave.pth"),
        ("none/valid.acc.ave.pth", ", and no such folder"),
    ],
    ids=["packed", "float", "other", "folder"],
)  # fmt: skip
def test_a_model_that_is_not_there(tmp_path, name, model, words):
    for file in ("valid.acc.ave.pth", "checkpoint.pth", "config.yaml"):
        (tmp_path / file).write_text("")
    with pytest.raises(MissingFileError) as error:
        PROGRAMS[name](str(tmp_path / "config.yaml"), str(tmp_path / model))
    message = str(error.value)
    assert message.startswith(f"{tmp_path / model}: no such file{words}")
    assert "\n" not in message and "checkpoint.pth" not in message
    assert isinstance(error.value, FileNotFoundError)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_configuration_that_is_not_there(tmp_path, name):
    (tmp_path / "valid.acc.ave.pth").write_text("")
    with pytest.raises(MissingFileError, match="none.yaml: no such file; allowed: con"):
        PROGRAMS[name](str(tmp_path / "none.yaml"), str(tmp_path / "valid.acc.ave.pth"))


def test_many_others_are_not_all_named(tmp_path):
    for number in range(12):
        (tmp_path / f"{number:02}epoch.pth").write_text("")
    with pytest.raises(MissingFileError, match="07epoch.pth and 4 more$"):
        check_files(None, tmp_path / "x.pth")


def test_the_programs_say_so_in_one_line(experiment):
    exp = experiment("conformer")
    model = ["--asr_model_file", "exp/asr_x/valid.acc.ave.packed.pth"]
    data = ["--data_path_and_name_and_type", "a,speech,sound", "--output_dir", "out"]
    config = ["--asr_train_config", "exp/asr_x/config.yaml"]
    launched = [sys.executable, "-m", "espnet_gq", "-m", "espnet2.bin.asr_inference"]
    done = run([*launched, *config, *model, *data], cwd=exp.parents[1], check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("espnet_gq: error: exp/asr_x/valid")
    for main, arguments, name in (
        (asr_inference_streaming.main, data, "asr-inference-streaming: error: "),
        (zip_model.main, ["--outpath", "a.zip"], "zip-model: "),
    ):
        with pytest.raises(SystemExit) as error:
            main([*config, *model, *arguments])
        line = str(error.value)
        assert line.startswith(f"espnet-gq {name}exp/asr_x/valid.acc.ave.packed.pth")
        assert "it is made by stage 14" in line
