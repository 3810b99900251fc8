"""The recipes, run on a handful of utterances as a user would run them."""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import yaml

import espnet_gq.espnet  # noqa: F401
from espnet_gq.nn.prepare import quantizable, quantized_weights
from espnet_gq.recipe.datadir import read_table

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
SYNTHETIC = ROOT / "egs2/fsdd_gq/asr1/synthetic"
RECIPES = ("fsdd_gq", "librispeech_gq")


def work_folder(recipe, target):
    """Make a folder with the recipe's files and its own data and exp."""
    source = ROOT / "egs2" / recipe / "asr1"
    target.mkdir(parents=True)
    for name in ("asr.sh", "path.sh", "cmd.sh", "run.sh", "conf", "local"):
        (target / name).symlink_to(source / name)
    return target


def bash(folder, command, **env):
    """Run a bash command and return (exit status, output)."""
    environment = {k: v for k, v in os.environ.items() if k not in ("DATA", "FSDD")}
    environment.pop("ESPNET_ROOT", None)
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={**environment, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


def run(folder, *args, **env):
    """Run ./run.sh and return (exit status, output)."""
    return bash(folder, shlex.join(["bash", "./run.sh", *args]), **env)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A corpus of two speakers with few recordings, real ones if available."""
    corpus = tmp_path_factory.mktemp("corpus")
    recordings = SHARED / "fsdd" / "recordings"
    if recordings.is_dir():
        (corpus / "recordings").mkdir()
        for name in ("george", "theo"):
            for index in (0, 7, 8, 45):
                for digit in range(10):
                    file = f"{digit}_{name}_{index}.wav"
                    (corpus / "recordings" / file).symlink_to(recordings / file)
    else:
        for split in ("train", "dev", "test"):
            for speaker in ("1", "2"):
                shutil.copytree(SYNTHETIC / split / speaker, corpus / split / speaker)
    return corpus


@pytest.fixture(scope="module")
def fsdd(tmp_path_factory, digits):
    """The fsdd recipe after its data preparation."""
    folder = work_folder("fsdd_gq", tmp_path_factory.mktemp("fsdd") / "asr1")
    options = "--digits 100 20 20"
    status, out = run(
        folder, "--stop_stage", "5", "--local_data_opts", options, FSDD=str(digits)
    )
    assert status == 0, out
    return folder


@pytest.mark.parametrize(
    "args, message",
    [
        (["--no_such_option", "1"], "unknown option --no_such_option"),
        (["--skip_train", "maybe"], "--skip_train is true or false, not 'maybe'"),
        (["--nj"], "option --nj lacks a value"),
        (["train"], "'train' is not an option"),
        (["--use_lm", "true"], "a language model (stages 6-8, --use_lm true) needs"),
        (["--speed_perturb_factors", "0.9 1.0"], "speed perturbation (stage 2) needs"),
        (["--stage", "7", "--stop_stage", "8"], "stage 7 needs"),
        (["--skip_upload_hf", "false"], "--hf_repo is ''; stage 15 needs user/model"),
        (["--token_type", "phn"], "--token_type phn needs"),
        (["--valid_set", "train"], "--train_set and --valid_set must differ"),
    ],
)
def test_the_driver_refuses_bad_options(args, message):
    status, out = run(ROOT / "egs2/fsdd_gq/asr1", *args)
    assert status == 2
    assert message in out
    assert len(out.strip().splitlines()) == 1


def test_help_names_every_option():
    status, out = run(ROOT / "egs2/fsdd_gq/asr1", "--help")
    assert status == 0
    assert "--pretrained_model=  # checkpoint to start from" in out


def test_espnet_root_must_be_an_espnet_tree(tmp_path):
    folder = ROOT / "egs2/fsdd_gq/asr1"
    status, out = run(folder, ESPNET_ROOT=str(tmp_path))
    assert status == 2
    assert "is not an ESPnet checkout" in out


def test_no_recordings(tmp_path):
    folder = work_folder("fsdd_gq", tmp_path / "asr1")
    status, out = run(folder, "--stop_stage", "1", FSDD=str(tmp_path))
    assert status == 1
    assert f"no spoken digits found in {tmp_path}" in out
    folder = work_folder("librispeech_gq", tmp_path / "libri")
    status, out = run(folder, "--stop_stage", "1", LIBRISPEECH=str(tmp_path))
    assert status == 1
    assert f"LIBRISPEECH={tmp_path} holds no train-* split" in out


TRAIN_CONFIGS = sorted((ROOT / "conf").rglob("train_*.yaml"))


@pytest.mark.parametrize("path", TRAIN_CONFIGS, ids=lambda p: p.stem)
def test_every_training_config_builds_what_its_name_says(path):
    config = yaml.safe_load(path.read_text())
    if "encoder" in config:
        from espnet2.tasks.asr import ASRTask as task
    else:
        from espnet2.tasks.asr_transducer import ASRTransducerTask as task
    parser = task.get_parser()
    known = {action.dest for action in parser._actions}
    assert set(config) <= known
    args = {**vars(parser.parse_args([])), **config, "init": None}
    args["token_list"] = ["<blank>", "<unk>", "a", "<sos/eos>"]
    model = task.build_model(argparse.Namespace(**args))
    bits = {q.bits for _, _, q in quantized_weights(model)}
    one_bit = "mixed" in path.stem or path.stem == "train_asr_rnnt_gq_subset"
    assert bits == ({5} if "_gq" in path.stem else set()) | ({1} if one_bit else set())
    if bits:
        # All supported layers are quantized, and the float model's checkpoint loads.
        assert not quantizable(model)
        names = {n for n in model.state_dict() if "_quantizer." not in n}
        float_path = re.sub("_gq(_mixed)?", "", str(path))
        plain = yaml.safe_load(Path(float_path).read_text())
        plain = {**vars(parser.parse_args([])), **plain, "init": None}
        plain["token_list"] = args["token_list"]
        plain = task.build_model(argparse.Namespace(**plain))
        assert {n: v.shape for n, v in plain.state_dict().items()} == {
            n: model.state_dict()[n].shape for n in names
        }


@pytest.mark.parametrize("path", TRAIN_CONFIGS, ids=lambda p: p.stem)
def test_every_initialization_exists_in_this_espnet(path):
    from espnet2.torch_utils.initialize import initialize

    init = yaml.safe_load(path.read_text())["init"]
    if init != "none":
        initialize(torch.nn.Linear(3, 2), init)


def test_configs_are_written_once():
    for recipe in RECIPES:
        for path in (ROOT / "egs2" / recipe / "asr1/conf").rglob("*.yaml"):
            assert path.is_symlink()
            assert path.resolve().is_relative_to(ROOT / "conf"), path
            assert path.exists(), path


def test_splits_are_kept_apart(fsdd):
    used = {}
    for dset in ("train", "dev", "test_clean", "test_noisy"):
        table = read_table(fsdd / "data" / dset / "utt2recordings")
        used[dset] = {name for names in table.values() for name in names.split()}
        text = read_table(fsdd / "data" / dset / "text")
        for utt, names in table.items():
            assert len(names.split()) == len(text[utt].split())
    assert used["test_clean"] == used["test_noisy"]
    assert not used["train"] & (used["dev"] | used["test_clean"])
    assert not used["dev"] & used["test_clean"]
    if (SHARED / "fsdd").is_dir():
        indices = {name.rsplit("_", 1)[1] for name in used["test_clean"]}
        assert indices == {"0"}


def test_data_are_the_same_for_the_same_seed(fsdd, digits, tmp_path):
    script = ROOT / "egs2/fsdd_gq/asr1/local/join_digits.py"
    for name, seed in (("a", "0"), ("b", "1")):
        subprocess.run(
            [sys.executable, str(script), str(digits), str(tmp_path / name)]
            + ["--seed", seed, "--digits", "100", "20", "20"],
            check=True,
        )
    audio = "local/audio/test_noisy"
    for path in sorted((fsdd / "data" / audio).iterdir()):
        assert path.read_bytes() == (tmp_path / "a" / audio / path.name).read_bytes()
    text = (fsdd / "data/test_noisy/text").read_text()
    assert text != (tmp_path / "b" / "test_noisy/text").read_text()


def test_the_shipped_sample_makes_all_sets(tmp_path):
    script = ROOT / "egs2/fsdd_gq/asr1/local/join_digits.py"
    command = [sys.executable, str(script), str(SYNTHETIC), str(tmp_path)]
    subprocess.run([*command, "--digits", "240", "80", "80"], check=True)
    for dset in ("train", "dev", "test_clean", "test_noisy"):
        speakers = set(read_table(tmp_path / dset / "utt2spk").values())
        assert speakers == set("12345678")


# Lets the trainings in the README's commands end in seconds, with commands unchanged.
SMALL = {
    "encoder_conf": {"output_size": 16, "linear_units": 16, "num_blocks": 1},
    "decoder_conf": {"linear_units": 16},
    "max_epoch": 1,
    "num_workers": 0,
    "keep_nbest_models": 1,
    "num_att_plot": 0,
}


SMALL_TRANSDUCER = {"max_epoch": 1, "num_workers": 0, "keep_nbest_models": 1}


def small_configs(folder):
    """Replace the links in conf/ by copies with small settings for training."""
    source = (folder / "conf").resolve()
    (folder / "conf").unlink()
    (folder / "conf").mkdir()
    for path in source.iterdir():
        config = yaml.safe_load(path.read_text())
        if path.stem in ("train_asr_conformer_fsdd", "train_asr_conformer_gq_fsdd"):
            for key, value in SMALL.items():
                config[key] = (
                    {**config[key], **value} if isinstance(value, dict) else value
                )
        if path.stem in ("train_asr_rnnt_fsdd", "train_asr_rnnt_gq_fsdd"):
            config.update(SMALL_TRANSDUCER)
        if path.stem.startswith("decode"):
            config.update(beam_size=1, maxlenratio=-5)
        (folder / "conf" / path.name).write_text(yaml.safe_dump(config))


def bash_blocks(*documents):
    """Return the commands of documents, one string per code block."""
    text = "".join(path.read_text() for path in documents)
    return re.findall(r"^ *```bash\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)


def small_recipe(folder):
    """Make a folder in which the documents' commands finish in seconds; return it."""
    work_folder("fsdd_gq", folder)
    small_configs(folder)
    (folder / "local").unlink()
    shutil.copytree(ROOT / "egs2/fsdd_gq/asr1/local", folder / "local")
    script = folder / "local/data.sh"  # as few utterances as possible
    script.write_text(
        script.read_text().replace(
            '"${corpus}" data', '"${corpus}" data --digits 60 9 9'
        )
    )
    return folder


@pytest.fixture(scope="module")
def readme(tmp_path_factory, digits):
    """Run the README's bash blocks; return their folder and the output of each."""
    folder = small_recipe(tmp_path_factory.mktemp("readme") / "asr1")
    printed = {}
    for block in bash_blocks(ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        command = re.sub(r"\s+#.*", "", block).strip()
        status, out = bash(folder, command, FSDD=str(digits))
        assert status == 0, f"{command}\n{out}"
        printed[command] = out
    return folder, printed


@pytest.mark.timeout(900)
def test_the_commands_of_the_readme(readme):
    folder, printed = readme
    assert len(printed) >= 8
    float_exp = folder / "exp/asr_train_asr_conformer_fsdd_raw_en_word"
    gq_exp = folder / "exp/asr_train_asr_conformer_gq_fsdd_raw_en_word"
    assert "epoch 1: train loss=" in next(iter(printed.values()))
    for exp in (float_exp, gq_exp):
        assert (exp / "run.sh").exists()
        assert "### WER" in (exp / "RESULTS.md").read_text()
    # The packed model gives the transcripts of the trained one.
    trained, packed = (
        gq_exp / f"decode_asr_fsdd_asr_model_valid.acc.ave{form}/test_clean/text"
        for form in ("", ".packed")
    )
    assert trained.read_text() == packed.read_text()
    archive = gq_exp / f"{gq_exp.name}_valid.acc.ave.packed.zip"
    names = zipfile.ZipFile(archive).namelist()
    assert f"exp/{gq_exp.name}/valid.acc.ave.packed.pth" in names
    assert list((folder / "plots").iterdir())
    chosen = yaml.safe_load((folder / "train_gq_mixed.yaml").read_text())
    assert chosen["encoder_conf"]["gq_conf"]["rules"]


TREE = os.environ.get("ESPNET_ROOT", "")


@pytest.mark.skipif(
    not TREE, reason="ESPNET_ROOT names no ESPnet checkout (docs/recipes.md)"
)
@pytest.mark.timeout(7200)
def test_the_commands_under_espnets_own_asr_sh(tmp_path, digits):
    """Stages 1 to 14 and streaming, with the commands of the README and the recipe."""
    folder = small_recipe(tmp_path / "asr1")
    blocks = [b for b in bash_blocks(ROOT / "README.md") if "./run.sh" in b]
    recipe = (ROOT / "egs2/fsdd_gq/asr1/README.md").read_text()
    blocks += re.findall(r"^```\n(.*?)^```", recipe, re.DOTALL | re.MULTILINE)[1:]
    assert len(blocks) == 5 and "--use_streaming true" in blocks[-1]
    tree = {"ESPNET_ROOT": TREE, "FSDD": str(digits)}
    for block in blocks:
        command = re.sub(r"\s+#.*", "", block).strip()
        status, out = bash(folder, f"set -e\n{command}", **tree)
        assert status == 0, f"{command}\n{out[-5000:]}"
        assert "asr_pip.sh" not in out
    for name, best in (("asr_conformer", "acc"), ("asr_rnnt", "loss")):
        exp = folder / f"exp/asr_train_{name}_gq_fsdd_raw_en_word"
        archive = zipfile.ZipFile(exp / f"{exp.name}_valid.{best}.ave.zip")
        packed = f"exp/{exp.name}/valid.{best}.ave.packed.pth"
        assert {packed, "float.zip", "README.md"} <= set(archive.namelist())
        texts = [
            path.read_text() for path in sorted(exp.glob("decode_*/test_clean/text"))
        ]
        assert len(texts) == (2 if best == "acc" else 3)
        # trained model, packed model, packed model chunk by chunk
        assert len(set(texts)) == 1
    command = "./run.sh --stage 12 --stop_stage 12 --inference_asr_model no.packed.pth"
    status, out = bash(folder, f"{command} < /dev/null", **tree)
    assert status == 1
    assert "espnet_gq: error: " in out and "no.packed.pth: no such file; allowed" in out


def test_a_failing_job_shows_its_log(fsdd):
    args = ["--stage", "10", "--stop_stage", "10", "--nj", "1"]
    args += ["--asr_stats_dir", "exp/stats_of_a_failure"]
    status, out = run(fsdd, *args, "--asr_args", "--encoder no_such_encoder")
    assert status == 1
    assert "job 1 failed; the end of exp/stats_of_a_failure/logdir/stats.1.log" in out
    assert "no_such_encoder" in out


def test_librispeech_data_and_bpe(tmp_path):
    corpus = SHARED / "LibriSpeech"
    if not corpus.is_dir():
        pytest.skip(f"no LibriSpeech in {corpus}")
    folder = work_folder("librispeech_gq", tmp_path / "asr1")
    status, out = run(
        folder, "--stop_stage", "5", "--nbpe", "60", LIBRISPEECH=str(corpus)
    )
    assert status == 0, out
    assert "held out for dev" in out
    tokens = folder / "data/en_token_list/bpe_unigram60/tokens.txt"
    lines = tokens.read_text(encoding="utf-8").split()
    assert len(lines) == 60
    assert (lines[0], lines[1], lines[-1]) == ("<blank>", "<unk>", "<sos/eos>")
    train = set(read_table(folder / "dump/raw/train/text"))
    assert not train & set(read_table(folder / "dump/raw/dev/text"))
