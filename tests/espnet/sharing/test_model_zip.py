"""A model's way to others: zip, hub, and back by from_pretrained, packed and plain."""

import errno
import io
import os
import pickle
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from fake_hub import fake_hub
from tiny_task import ABSENT, RNNT, SECOND_TASK, environment
from untrained import save

import espnet_gq
from espnet_gq._version import __version__
from espnet_gq.bin import pack, upload_model, zip_model
from espnet_gq.runtime import PackedWeight

DECODING = {"beam_size": 2, "maxlenratio": -4}


def read_audio(task):
    wav = (task.path / "valid/wav.scp").read_text().split()[1]
    return soundfile.read(wav, dtype="float32")[0]


def text_of(speech2text, audio):
    """The text and its score, to compare two models by."""
    text, _, _, hyp = speech2text(audio)[0]
    return text, pytest.approx(float(hyp.score), rel=1e-4, abs=2e-4)


def has_packed_weights(speech2text):
    return any(isinstance(m, PackedWeight) for m in speech2text.asr_model.modules())


@pytest.fixture(scope="module")
def recipe(task, tmp_path_factory):
    """A recipe's folder with a packed model of random weights; exp is a link."""
    folder, disk = tmp_path_factory.mktemp("asr1"), tmp_path_factory.mktemp("disk")
    (folder / "exp").symlink_to(disk)
    stats = "exp/asr_stats/train/feats_stats.npz"
    (folder / stats).parent.mkdir(parents=True)
    np.savez(folder / stats, count=9, sum=np.ones(20) * 3, sum_square=np.ones(20) * 30)
    config = task.config(
        "share.yaml",
        normalize="global_mvn",
        normalize_conf={"stats_file": str(folder / stats)},
    )
    exp = save(task, config, "share")
    text = (exp / "config.yaml").read_text().replace(f"{folder}/", "")
    model = folder / "exp/asr_share"
    exp.rename(model.resolve())
    (model / "config.yaml").write_text(text)
    (model / "model.pth").rename(model / "valid.acc.ave_2best.pth")
    (model / "valid.acc.ave.pth").symlink_to("valid.acc.ave_2best.pth")
    (model / "RESULTS.md").write_text("# RESULTS\n|a|b|\n")
    pack.main(["--asr_model_file", str(model / "valid.acc.ave.pth")])
    return folder


def options(name="valid.acc.ave.packed.pth", exp="exp/asr_share"):
    return [
        *["--asr_train_config", f"{exp}/config.yaml", "--lang", "en"],
        *["--asr_model_file", f"{exp}/{name}", "--recipe", "digits_gq/asr1"],
    ]


@pytest.fixture(scope="module")
def zipped(recipe, tmp_path_factory):
    """The model's zip, alone in a folder."""
    path = tmp_path_factory.mktemp("empty") / "model.zip"
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(recipe)
        results = ["--option", "exp/asr_share/RESULTS.md"]
        zip_model.main([*options(), "--outpath", str(path), *results])
    assert os.listdir(path.parent) == ["model.zip"]
    return path


@pytest.fixture(scope="module")
def expected(task, recipe):
    """What the trained model says, before it is packed."""
    from espnet2.bin.asr_inference import Speech2Text

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(recipe)
        exp = "exp/asr_share"
        speech2text = Speech2Text(
            f"{exp}/config.yaml", f"{exp}/valid.acc.ave.pth", **DECODING
        )
    return text_of(speech2text, read_audio(task))


def test_importing_the_package_does_not_import_espnet():
    code = (
        "import sys, espnet_gq; assert 'Speech2Text' in dir(espnet_gq)\n"
        "assert not any(m.startswith(('espnet2', 'espnet_gq.espnet')) for m in "
        "sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'Speech'"):
        espnet_gq.Speech


def test_the_zip_has_what_a_reader_needs(zipped):
    archive = zipfile.ZipFile(zipped)
    exp = "exp/asr_share"
    assert set(archive.namelist()) == {
        *("meta.yaml", "README.md", "float.zip", "exp/asr_stats/train/feats_stats.npz"),
        *(f"{exp}/config.yaml", f"{exp}/valid.acc.ave.packed.pth"),
        f"{exp}/RESULTS.md",
    }
    with zipfile.ZipFile(io.BytesIO(archive.read("float.zip"))) as plain:
        weights = torch.load(io.BytesIO(plain.read(f"{exp}/valid.acc.ave.float.pth")))
        assert not [name for name in weights if "_quantizer" in name]
        assert b"gq_" not in plain.read(f"{exp}/valid.acc.ave.float.yaml")
    card = archive.read("README.md").decode()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["language"] == "en" and front["datasets"] == ["digits"]
    assert front["pipeline_tag"] == "automatic-speech-recognition"
    packed = archive.getinfo(f"{exp}/valid.acc.ave.packed.pth").file_size
    assert f"{packed / 1e6:.3f} MB" in card
    row = re.search(r"\| packed \| ([\d.]+) \| ([\d.]+)% of", card)
    assert 4 < float(row[1]) < 8 and 50 < float(row[2]) < 100
    assert f"`espnet-gq` {__version__}" in card and "|a|b|" in card
    assert "import espnet_gq.espnet\n" in card and "gq_conf:" in card
    assert 'from_pretrained("model.zip")' in card


def test_every_way_to_load_says_the_same(task, recipe, zipped, expected, tmp_path):
    audio, cache = read_audio(task), tmp_path / "cache"
    load = espnet_gq.Speech2Text.from_pretrained
    speech2text = load(zipped, cachedir=cache, **DECODING)
    assert isinstance(speech2text, espnet_gq.Speech2Text)
    assert has_packed_weights(speech2text)
    assert text_of(speech2text, audio) == expected
    (unpacked,) = cache.iterdir()  # used again, not unpacked again
    (unpacked / "exp/asr_share/RESULTS.md").unlink()
    assert text_of(load(str(zipped), cachedir=cache, **DECODING), audio) == expected
    assert text_of(load(unpacked, **DECODING), audio) == expected
    exp = recipe / "exp/asr_share"
    speech2text = load(exp, **DECODING)  # from another folder
    assert has_packed_weights(speech2text)
    assert text_of(speech2text, audio) == expected
    pair = exp / "config.yaml", exp / "valid.acc.ave.pth"
    for speech2text in (
        load(pair, **DECODING),
        load(*pair, **DECODING),
        load(asr_train_config=pair[0], asr_model_file=pair[1], **DECODING),
    ):
        assert not has_packed_weights(speech2text)
        assert text_of(speech2text, audio) == expected
    int8 = load(zipped, cachedir=cache, quantize_asr_model=True, **DECODING)
    modes = {m.mode for m in int8.asr_model.modules() if isinstance(m, PackedWeight)}
    assert modes == {"int8"}


PLAIN = """
import sys
sys.modules["espnet_gq"] = None  # importing it fails
import soundfile
{example}
speech2text.beam_search.beam_size = 2
speech2text.maxlenratio = -4
text, _, _, hyp = speech2text(soundfile.read({wav!r}, dtype="float32")[0])[0]
print(text, float(hyp.score), sep="\\n")
"""


def test_without_the_plugin_as_the_card_says(task, zipped, expected, tmp_path):
    card = zipfile.ZipFile(zipped).read("README.md").decode()
    example = card.split("### Without the plugin")[1].split("```")[1]
    wav = (task.path / "valid/wav.scp").read_text().split()[1]
    code = PLAIN.format(example=example.removeprefix("python\n"), wav=wav)
    (tmp_path / "model.zip").symlink_to(zipped)
    offline = environment(HF_HUB_OFFLINE="1", HOME=str(tmp_path))
    cache = tmp_path / "cache"  # 202511's downloader would write to its own package
    code = code.replace(
        "import soundfile",
        "import soundfile, functools, espnet_model_zoo.downloader as zoo\n"
        f"zoo.ModelDownloader = functools.partial(zoo.ModelDownloader, {str(cache)!r})",
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=offline,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    text, score = done.stdout.splitlines()[-2:]
    assert (text, float(score)) == expected


def test_espnets_downloader_loads_it_packed(task, zipped, expected, tmp_path):
    from espnet2.bin.asr_inference import Speech2Text
    from espnet_model_zoo.downloader import ModelDownloader

    files = ModelDownloader(tmp_path / "cache").download_and_unpack(str(zipped))
    speech2text = Speech2Text(**files, **DECODING)
    assert has_packed_weights(speech2text)
    assert text_of(speech2text, read_audio(task)) == expected


def test_to_the_hub_and_back(task, zipped, expected, tmp_path, monkeypatch, capsys):
    upload = [str(zipped), "--expdir", str(tmp_path / "exp"), "--lang", "noinfo"]
    with fake_hub(monkeypatch) as hub:
        with pytest.raises(SystemExit, match="no repository me/digits .*repo create"):
            upload_model.main([*upload, "--hf_repo", "me/digits"])
        hub.repos["me/digits"] = {}
        upload_model.main([*upload, "--hf_repo", "me/digits"])
        assert f"{hub.address}/me/digits/commit/" in capsys.readouterr().out
        assert hub.messages == ["Update model"]
        kept = tmp_path / "exp/hf_me_digits"
        for path, content in hub.repos["me/digits"].items():
            assert (kept / path).read_bytes() == content
        names = set(zipfile.ZipFile(zipped).namelist())
        assert set(hub.repos["me/digits"]) == names
        card = hub.repos["me/digits"]["README.md"].decode()
        assert 'from_pretrained("me/digits")' in card and "model.zip" not in card
        assert 'hf_hub_download("me/digits", "float.zip")' in card
        assert "language" not in yaml.safe_load(card.split("---\n")[1])
        load = espnet_gq.Speech2Text.from_pretrained
        speech2text = load("me/digits", cachedir=tmp_path / "cache", **DECODING)
        assert has_packed_weights(speech2text)
        assert text_of(speech2text, read_audio(task)) == expected
        with pytest.raises(OSError, match="me/other is no file or folder here"):
            load("me/other", cachedir=tmp_path / "cache")
        # The hub's files are as hostile as a zip's.
        meta = {"files": {}, "yaml_files": {"asr_train_config": "/etc/passwd"}}
        hub.repos["me/evil"] = {"meta.yaml": yaml.safe_dump(meta).encode()}
        with pytest.raises(ValueError, match="relative path of a file in the same"):
            load("me/evil", cachedir=tmp_path / "cache")


def test_a_packed_model_without_its_float_form_is_not_uploaded(zipped, tmp_path):
    """As ESPnet's own stage 14 packs it."""
    path = tmp_path / "own.zip"
    with zipfile.ZipFile(zipped) as old, zipfile.ZipFile(path, "w") as new:
        for name in set(old.namelist()) - {"float.zip", "README.md"}:
            new.writestr(name, old.read(name))
    upload = [str(path), "--hf_repo", "me/own", "--expdir", str(tmp_path / "exp")]
    with pytest.raises(SystemExit, match="me/own has a packed model and no float.zip"):
        upload_model.main(upload)


def test_a_recipe_outside_the_working_folder(recipe, tmp_path, monkeypatch):
    """Absolute paths, which ESPnet's own pack writes zips with that nobody can read."""
    exp = tmp_path / "asr_absolute"
    exp.mkdir()
    text = (recipe / "exp/asr_share/config.yaml").read_text()
    text = text.replace("stats_file: exp", f"stats_file: {recipe}/exp")
    (exp / "config.yaml").write_text(text)
    packed = (recipe / "exp/asr_share/valid.acc.ave.packed.pth").read_bytes()
    (exp / "model.packed.pth").write_bytes(packed)
    path = tmp_path / "zip" / "model.zip"
    zip_model.main([*options("model.packed.pth", exp=str(exp)), "--outpath", str(path)])
    for name in zipfile.ZipFile(path).namelist():
        assert not name.startswith("/")
    espnet_gq.Speech2Text.from_pretrained(path, cachedir=tmp_path / "cache")
    config = zipfile.ZipFile(path).read(f"{exp.relative_to('/')}/config.yaml")
    stats = yaml.safe_load(config)["normalize_conf"]["stats_file"]
    assert stats == str((recipe / "exp/asr_stats/train/feats_stats.npz"))[1:]


def test_a_folder_that_a_configuration_names_is_reported(
    recipe, tmp_path, monkeypatch, caplog
):
    """As classes do that read a model of Hugging Face Transformers or Whisper."""
    monkeypatch.chdir(recipe)
    exp, cache = tmp_path / "asr_folder", tmp_path / "cache"
    exp.mkdir()
    cache.mkdir()
    text = (recipe / "exp/asr_share/config.yaml").read_text()
    text += f"\npreencoder_conf: {{download_dir: {cache}, other: no/such/file}}\n"
    (exp / "config.yaml").write_text(text)
    packed = (recipe / "exp/asr_share/valid.acc.ave.packed.pth").read_bytes()
    (exp / "model.packed.pth").write_bytes(packed)
    args = [*options("model.packed.pth", exp=str(exp))]
    zip_model.main([*args, "--outpath", str(tmp_path / "model.zip")])
    said = [r.getMessage() for r in caplog.records if "does not contain" in r.message]
    assert said == [
        f"the zip does not contain {cache}, which preencoder_conf.download_dir names: "
        "the model can be built only where it exists"
    ]


@pytest.mark.parametrize(
    "args, words",
    [
        (options("valid.acc.ave.pth"), "is quantized but not packed; allowed: what"),
        (options("none.pth"), "exp/asr_share/none.pth: no such file"),
        (options(exp="exp/none"), "packed.pth: no such file, and no such folder; al"),
        ([*options(), "--option", "none"], "none: no such file or folder"),
    ],
)
def test_what_is_not_zipped(recipe, tmp_path, monkeypatch, args, words):
    monkeypatch.chdir(recipe)
    with pytest.raises(SystemExit) as error:
        zip_model.main([*args, "--outpath", str(tmp_path / "out" / "a.zip")])
    assert words in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.rglob("*"))


def test_files_that_are_missing_from_the_recipe(recipe, tmp_path):
    args = options(exp=str(recipe / "exp/asr_share"))
    with pytest.raises(SystemExit, match="which the configuration names: no such file"):
        zip_model.main([*args, "--outpath", str(tmp_path / "a.zip")])
    assert not list(tmp_path.iterdir())


class Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["EVIL"],)


def test_no_code_runs_from_a_checkpoint(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("EVIL", str(tmp_path / "evil"))
    for name, write in (("zip.pth", torch.save), ("raw.pth", None)):
        path = tmp_path / name
        if write is None:
            path.write_bytes(pickle.dumps({"a": Evil()}))
        else:
            write({"a": Evil()}, path)
        config = recipe / "exp/asr_share/config.yaml"
        with pytest.raises(ValueError, match="cannot be read|can be read safely"):
            espnet_gq.Speech2Text.from_pretrained(config, path)
        assert not (tmp_path / "evil").exists()


def test_a_checkpoint_that_a_configuration_names_runs_no_code(tmp_path, monkeypatch):
    from espnet_gq.espnet.sharing.pretrained import Model, build

    monkeypatch.setenv("EVIL", str(tmp_path / "evil"))
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save(Evil(), tmp_path / "a.pth")

    def construct(**files):
        return torch.load(tmp_path / "a.pth", weights_only=False)

    with pytest.raises(pickle.UnpicklingError):
        build(construct, Model({}, ()), {})
    assert not (tmp_path / "evil").exists()
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_what_is_no_model(recipe, tmp_path):
    load = espnet_gq.Speech2Text.from_pretrained
    exp = recipe / "exp/asr_share"
    for source in (tmp_path / "none.zip", "exp/none.zip", "none", "a/b/c", "./user/x"):
        with pytest.raises(FileNotFoundError, match="no such file or folder; allowed"):
            load(source)
    with pytest.raises(FileNotFoundError, match="none.pth: no such file"):
        load(exp / "config.yaml", exp / "none.pth")
    with pytest.raises(ValueError, match="1 paths were given; allowed: the pair"):
        load([exp])
    with pytest.raises(ValueError, match="no model was given"):
        load(beam_size=1)
    with pytest.raises(ValueError, match="has no meta.yaml"):
        load(exp / "valid.acc.ave.pth")
    with pytest.raises(
        ValueError, match="neither meta.yaml nor an averaged checkpoint"
    ):
        load(tmp_path)
    for name in ("valid.loss.ave.pth", "train.acc.ave.pth"):
        (tmp_path / name).write_text("")
    with pytest.raises(ValueError, match="several models .train.acc.ave.pth, valid.l"):
        load(tmp_path)
    (tmp_path / "other.zip").write_text("a text")
    with pytest.raises(ValueError, match="other.zip is not a readable zip"):
        load(tmp_path / "other.zip", cachedir=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_words_that_are_called_as_files_are_stay_words(tmp_path):
    from espnet_gq.espnet.sharing.pretrained import located

    (tmp_path / "exp").mkdir()
    for name in ("exp/a.npz", "none", "b.model"):
        (tmp_path / name).write_text("")
    config = {
        "token_list": ["exp/a.npz", "none"],
        "bpemodel": "b.model",
        "cleaner": "none",
        "normalize_conf": {"stats_file": "exp/a.npz", "folder": "exp/"},
        "elsewhere": ["../asr1/exp/a.npz", "/etc/passwd", "exp/none.npz"],
    }
    config["again"] = config["normalize_conf"]
    config["itself"] = config
    found = located(config, [tmp_path], {})
    assert found["token_list"] == config["token_list"]
    assert found["bpemodel"] == str(tmp_path / "b.model")
    assert found["cleaner"] == "none" and found["elsewhere"] == config["elsewhere"]
    stats = {"stats_file": str(tmp_path / "exp/a.npz"), "folder": "exp/"}
    assert (
        found["normalize_conf"] == stats and found["again"] is found["normalize_conf"]
    )
    assert found["itself"] is found


def shared(task, name, tmp_path, monkeypatch, **changes):
    """Zip an untrained model of another kind; return the zip."""
    exp = save(task, task.config(f"{name}.yaml", **changes), name, **task_of(changes))
    pack.main(["--asr_model_file", str(exp / "model.pth")])
    monkeypatch.chdir(exp)
    args = ["--asr_train_config", "config.yaml", "--outpath", str(tmp_path / "a.zip")]
    zip_model.main([*args, "--asr_model_file", "model.packed.pth"])
    monkeypatch.chdir(tmp_path)
    return tmp_path / "a.zip"


def task_of(changes):
    second = changes.get("encoder") is ABSENT
    return {"asr_task": "asr_transducer"} if second else {}


def test_lstm_transducers_stream_from_a_zip(task, tmp_path, monkeypatch):
    from espnet_gq.espnet.inference.streaming import Speech2TextStreaming

    path = shared(task, "share_rnnt", tmp_path, monkeypatch, **RNNT)
    card = zipfile.ZipFile(path).read("README.md").decode()
    assert "needs `warprnnt_pytorch`" in card
    load = espnet_gq.Speech2TextStreaming.from_pretrained
    speech2text = load(path, cachedir=tmp_path / "cache", beam_size=1)
    assert isinstance(speech2text, Speech2TextStreaming)
    whole = espnet_gq.Speech2Text.from_pretrained(
        path, cachedir=tmp_path / "cache", beam_size=1
    )
    audio = read_audio(task)
    assert text_of(speech2text, audio) == text_of(whole, audio)


def test_the_second_transducer_task(task, tmp_path, monkeypatch):
    from espnet2.bin.asr_transducer_inference import Speech2Text

    path = shared(task, "share_second", tmp_path, monkeypatch, **SECOND_TASK)
    card = zipfile.ZipFile(path).read("README.md").decode()
    assert "from espnet2.bin.asr_transducer_inference import Speech2Text" in card
    load = espnet_gq.Speech2Text.from_pretrained
    speech2text = load(path, cachedir=tmp_path / "cache", beam_size=1, streaming=True)
    assert isinstance(speech2text, Speech2Text) and has_packed_weights(speech2text)
    with pytest.raises(
        ValueError, match="task asr_transducer, which .*; allowed: Speech2Text"
    ):
        espnet_gq.Speech2TextStreaming.from_pretrained(
            path, cachedir=tmp_path / "cache"
        )


def test_a_float_model_is_shared_as_espnet_does(recipe, tmp_path, monkeypatch):
    archive = zipfile.ZipFile(shared_float(recipe, tmp_path, monkeypatch))
    assert "float.zip" not in archive.namelist()
    card = archive.read("README.md").decode()
    assert "espnet_gq" not in card.split("# RESULTS")[0]
    espnet_gq.Speech2Text.from_pretrained(
        tmp_path / "float.zip", cachedir=tmp_path / "cache"
    )


def shared_float(recipe, tmp_path, monkeypatch):
    """A float model's zip: the float form of the recipe's."""
    monkeypatch.chdir(recipe)
    exp, float_exp = Path("exp/asr_share"), Path("exp/asr_float")
    float_exp.mkdir()
    command = ["--format", "float", "--asr_model_file", str(exp / "valid.acc.ave.pth")]
    pack.main([*command, "--output", str(float_exp / "valid.acc.ave.pth")])
    (float_exp / "valid.acc.ave.yaml").rename(float_exp / "config.yaml")
    args = options("valid.acc.ave.pth", exp=str(float_exp))
    zip_model.main([*args, "--outpath", str(tmp_path / "float.zip")])
    return tmp_path / "float.zip"


# ---- A cache that cannot be written -------------------------------------------------
def refuse_below(folder, number, monkeypatch):
    """Let the system refuse to make folders in a place, as a root's tests need it."""
    original = os.mkdir

    def mkdir(path, *args, **kwargs):
        if str(path).startswith(str(folder)):
            raise OSError(number, os.strerror(number), str(path))
        return original(path, *args, **kwargs)

    monkeypatch.setattr(os, "mkdir", mkdir)


CACHES = "allowed as cachedir: a folder that can be written and has room"
LOADERS = ("Speech2Text", "Speech2TextStreaming")


def unwritable(load, source, cache, named):
    with pytest.raises(OSError) as error:
        load(source, cachedir=cache)
    message = str(error.value)
    assert message.startswith(f"the cache {named} cannot be written (")
    assert message.endswith(CACHES) and "\n" not in message
    return message


@pytest.mark.parametrize("loader", LOADERS)
def test_a_cache_that_is_a_file(zipped, tmp_path, loader):
    load = getattr(espnet_gq, loader).from_pretrained
    (tmp_path / "file").write_text("")
    unwritable(load, zipped, tmp_path / "file", tmp_path / "file")
    below = str(tmp_path / "file" / "cache")
    assert "(Not a directory)" in unwritable(load, zipped, below, below)


@pytest.mark.parametrize(
    "number", [errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT]
)
def test_a_cache_that_refuses(zipped, tmp_path, monkeypatch, number):
    cache = tmp_path / "cache"
    refuse_below(cache, number, monkeypatch)
    load = espnet_gq.Speech2Text.from_pretrained
    assert os.strerror(number) in unwritable(load, zipped, cache, cache)
    # The usual one, in the home folder.
    monkeypatch.setenv("HOME", str(cache))
    unwritable(load, zipped, None, cache / ".cache" / "espnet_gq")


def test_a_home_folder_that_does_not_exist(zipped, monkeypatch):
    load = espnet_gq.Speech2Text.from_pretrained
    for source in (zipped, "me/digits"):
        with pytest.raises(OSError, match=f"no_such_user/a is in a home .*{CACHES}"):
            load(source, cachedir="~no_such_user/a")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_cache_that_refuses_a_download(zipped, tmp_path, monkeypatch, number):
    cache = tmp_path / "cache"
    load = espnet_gq.Speech2Text.from_pretrained
    with fake_hub(monkeypatch) as hub:
        hub.repos["me/digits"] = {"meta.yaml": b"a: 1"}
        refuse_below(cache, number, monkeypatch)
        assert os.strerror(number) in unwritable(load, "me/digits", cache, cache)
    (tmp_path / "file").write_text("")
    unwritable(load, "me/digits", tmp_path / "file" / "a", tmp_path / "file" / "a")


def test_a_cache_that_is_read_only_but_has_the_model(
    task, zipped, expected, tmp_path, monkeypatch
):
    cache = tmp_path / "cache"
    load = espnet_gq.Speech2Text.from_pretrained
    load(zipped, cachedir=cache, **DECODING)
    refuse_below(cache, errno.EROFS, monkeypatch)
    speech2text = load(zipped, cachedir=cache, **DECODING)
    assert text_of(speech2text, read_audio(task)) == expected
