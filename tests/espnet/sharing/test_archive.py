"""Model zips as they are written, and as someone means harm with them."""

import os
import shutil
import stat
import struct
import warnings
import zipfile
import zlib

import pytest
import yaml

from espnet_gq.espnet.sharing import archive
from espnet_gq.espnet.sharing.archive import (
    ArchiveError,
    model_files,
    read_yaml,
    unpack_archive,
    write_archive,
    write_meta,
)

CONFIG, WEIGHTS = "exp/asr_x/config.yaml", "exp/asr_x/model.pth"
META = {
    "files": {"asr_model_file": WEIGHTS},
    "yaml_files": {"asr_train_config": CONFIG},
}


def model_folder(path):
    (path / "exp/asr_x").mkdir(parents=True)
    (path / CONFIG).write_text("encoder: gq_conformer\n")
    (path / WEIGHTS).write_bytes(b"weights" * 1000)
    write_meta(path, META["files"], META["yaml_files"])
    return path


def entries(meta=META):
    """The contents of a harmless zip: name or ZipInfo -> bytes."""
    text = meta if isinstance(meta, str) else yaml.safe_dump(meta)
    return {"meta.yaml": text.encode(), CONFIG: b"encoder: x\n", WEIGHTS: b"w" * 99}


def write(path, contents, compression=zipfile.ZIP_DEFLATED):
    with warnings.catch_warnings(action="ignore"):  # of duplicates
        with zipfile.ZipFile(path, "w", compression) as file:
            for name, content in contents:
                file.writestr(name, content)
    return path


def refused(path, *words):
    """Unpack; check the message, and that nothing is left of it."""
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(ArchiveError) as error:
        unpack_archive(path, path.parent / "unpacked")
    assert sorted(path.parent.rglob("*")) == before
    message = str(error.value)
    assert message.startswith(str(path)) and "\n" not in message
    for word in words:
        assert word in message
    return message


def test_there_and_back(tmp_path):
    folder = model_folder(tmp_path / "model")
    (folder / "float.zip").write_bytes(b"PK" * 500)
    write_archive(folder, tmp_path / "model.zip")
    with zipfile.ZipFile(tmp_path / "model.zip") as file:
        kinds = {info.filename: info.compress_type for info in file.infolist()}
        assert file.namelist()[0] == "meta.yaml"
    assert kinds[WEIGHTS] == zipfile.ZIP_DEFLATED
    assert kinds["float.zip"] == zipfile.ZIP_STORED
    unpack_archive(tmp_path / "model.zip", tmp_path / "deep" / "unpacked")
    unpacked = tmp_path / "deep" / "unpacked"
    for path in folder.rglob("*"):
        copy = unpacked / path.relative_to(folder)
        assert path.is_dir() or copy.read_bytes() == path.read_bytes()
    assert model_files(unpacked) == {
        "asr_train_config": unpacked / CONFIG,
        "asr_model_file": unpacked / WEIGHTS,
    }
    assert os.listdir(tmp_path / "deep") == ["unpacked"]
    with pytest.raises(FileExistsError):
        unpack_archive(tmp_path / "model.zip", unpacked)
    with pytest.raises(FileNotFoundError):
        unpack_archive(tmp_path / "none.zip", tmp_path / "other")


def test_espnet_unpacks_it_too(tmp_path):
    from espnet2.main_funcs.pack_funcs import unpack

    write_archive(model_folder(tmp_path / "model"), tmp_path / "model.zip")
    found = unpack(tmp_path / "model.zip", tmp_path / "unpacked")
    assert found["asr_model_file"] == str(tmp_path / "unpacked" / WEIGHTS)


def test_folders_in_a_zip_are_no_harm(tmp_path):
    contents = [("exp/", b""), ("exp/asr_x/", b""), *entries().items()]
    unpack_archive(write(tmp_path / "a.zip", contents), tmp_path / "unpacked")
    assert (tmp_path / "unpacked" / CONFIG).is_file()


OUTSIDE = [
    ("../evil", "has '..'"),
    ("exp/../../evil", "has '..'"),
    ("exp/..", "has '..'"),
    ("/tmp/evil", "is absolute"),
    ("//tmp/evil", "is absolute"),
    ("C:/evil", "is absolute"),
    ("C:evil", "is absolute"),
    ("exp\\..\\evil", "characters"),
    ("\\\\host\\evil", "characters"),
    ("exp/./evil", "plain form"),
    ("exp//evil", "plain form"),
    ("./evil", "plain form"),
    ("evil\n", "characters"),
    ("evil\x1b[2J", "characters"),
    ("e" * 256, "too long"),
    ("/".join(["e" * 200] * 6), "too long"),
]


@pytest.mark.parametrize("name, words", OUTSIDE, ids=range(len(OUTSIDE)))
@pytest.mark.parametrize("suffix", ["", "/"], ids=["file", "folder"])
def test_paths_that_lead_elsewhere(tmp_path, name, words, suffix):
    contents = [*entries().items(), (name + suffix, b"" if suffix else b"evil")]
    refused(write(tmp_path / "a.zip", contents), words)


def test_names_with_an_end_in_them(tmp_path):
    path = write(tmp_path / "a.zip", [*entries().items(), ("evilX.txt", b"")])
    path.write_bytes(path.read_bytes().replace(b"evilX", b"evil\0"))
    refused(path, "characters")


def special(name, mode):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


@pytest.mark.parametrize(
    "mode, kind",
    [(stat.S_IFLNK, "link"), (stat.S_IFIFO, "device"), (stat.S_IFCHR, "device")],
)
def test_links_and_devices(tmp_path, mode, kind):
    entry = special("exp/asr_x/link", mode | 0o777)
    contents = [*entries().items(), (entry, b"/etc/passwd")]
    refused(
        write(tmp_path / "a.zip", contents), f"entry 'exp/asr_x/link': it is a {kind}"
    )


@pytest.mark.parametrize(
    "first, second",
    [
        ("a.txt", "a.txt"),
        ("a.txt", "A.TXT"),
        ("caf\u00e9", "cafe\u0301"),
        ("a", "a/"),
        ("meta.yaml", "META.yaml"),
    ],
)
def test_names_that_are_there_twice(tmp_path, first, second):
    contents = {**entries(), first: entries().get(first, b"")}
    path = write(tmp_path / "a.zip", [*contents.items(), (second, b"")])
    refused(path, f"entry {second!r}: it is there twice")


def test_a_file_that_is_a_folder_too(tmp_path):
    contents = [*entries().items(), (WEIGHTS + "/evil", b"")]
    refused(write(tmp_path / "a.zip", contents), "it lies below", "which is a file")


def test_bombs(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "ALWAYS_ALLOWED", 2**16)
    contents = [*entries().items(), ("zeros", bytes(2**22))]
    path = write(tmp_path / "a.zip", contents)
    assert path.stat().st_size < 2**13
    refused(path, "entry 'zeros'", "unpacks to", "200 times its size")
    monkeypatch.setattr(archive, "ALWAYS_ALLOWED", 2**23)
    unpack_archive(path, tmp_path / "allowed" / "model")
    monkeypatch.setattr(archive, "MAX_BYTES", 2**20)
    refused(path, "unpacks to", "allowed: 1,048,576")
    monkeypatch.setattr(archive, "MAX_ENTRIES", 3)
    refused(path, "has 4 entries; allowed: 3")


def test_a_bomb_that_lies_about_its_size(tmp_path):
    content = bytes(2**20)
    path = write(tmp_path / "a.zip", [*entries().items(), ("zeros", content)])
    size, crc = struct.pack("<I", len(content)), zlib.crc32(content[:10])
    raw = path.read_bytes().replace(size, struct.pack("<I", 10))
    raw = raw.replace(struct.pack("<I", zlib.crc32(content)), struct.pack("<I", crc))
    path.write_bytes(raw)
    unpack_archive(path, tmp_path / "unpacked")  # what it says, and not a byte more
    assert (tmp_path / "unpacked" / "zeros").stat().st_size == 10


def test_an_entry_that_is_shorter_than_it_says(tmp_path):
    content = bytes(54321)
    path = write(tmp_path / "a.zip", [*entries().items(), ("zeros", content)])
    longer = struct.pack("<I", len(content) + 10)
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", len(content)), longer))
    refused(path, "entry 'zeros': it ends after 54,321 of 54,331 bytes")


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions(tmp_path, compression):
    path = write(tmp_path / "a.zip", entries().items(), compression)
    refused(path, "compression")


def test_encrypted_entries(tmp_path):
    path = write(tmp_path / "a.zip", entries().items())
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(raw)
    refused(path, "entry 'meta.yaml': it is encrypted")


def test_damage_is_named_and_leaves_nothing(tmp_path):
    write(tmp_path / "whole.zip", entries().items())
    whole = (tmp_path / "whole.zip").read_bytes()
    path = tmp_path / "a.zip"
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        refused(path, "is not a readable zip")
    path.write_text("a text, called .zip\n")
    refused(path, "is not a readable zip")


def test_every_flipped_byte_is_an_error_or_harmless(tmp_path):
    whole = write(tmp_path / "a.zip", entries().items()).read_bytes()
    path, target = tmp_path / "a.zip", tmp_path / "unpacked"
    for at in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[at] ^= 0x11
        path.write_bytes(damaged)
        try:
            unpack_archive(path, target)
        except ArchiveError as e:
            assert str(path) in str(e)
            assert sorted(tmp_path.iterdir()) == [path]
        else:
            assert len(list(target.rglob("*"))) <= 7
            shutil.rmtree(target)


def without(key, group="files"):
    return {**META, group: {k: v for k, v in META[group].items() if k != key}}


@pytest.mark.parametrize(
    "meta, words",
    [
        ("- a list", "holds no options"),
        ("a: [", "is not YAML"),
        ("!!python/object/apply:os.system ['true']", "is not YAML"),
        ("a: &a {b: 1}\nc: {<<: *a}", "merge key"),
        ("[" * 600, "is not YAML"),
        ("files: {}\nyaml_files: 7", "it has no yaml_files"),
        ({"files": META["files"]}, "it has no yaml_files"),
        ({**META, "files": [WEIGHTS]}, "it has no files"),
        (without("asr_model_file"), "names no asr_model_file"),
        (without("asr_train_config", "yaml_files"), "names no asr_train_config"),
        (
            {**META, "files": {"device": WEIGHTS}},
            "files names 'device'; allowed: lm_file, asr_",
        ),
        ({**META, "files": {"asr_model_file": "/etc/passwd"}}, "relative path"),
        ({**META, "files": {"asr_model_file": "../a.zip"}}, "relative path"),
        ({**META, "files": {"asr_model_file": "exp/none.pth"}}, "relative path"),
        ({**META, "files": {"asr_model_file": "exp"}}, "relative path"),
        ({**META, "files": {"asr_model_file": 7}}, "relative path"),
        ({**META, "files": {"asr_model_file": "a\0b"}}, "relative path"),
        ({**META, "yaml_files": {"asr_train_config": "/etc/passwd"}}, "relative path"),
    ],
)
def test_a_meta_file_that_names_something_else(tmp_path, meta, words):
    refused(write(tmp_path / "a.zip", entries(meta).items()), "meta.yaml", words)


def test_a_folder_whose_meta_file_names_its_neighbour(tmp_path):
    folder = model_folder(tmp_path / "model")
    (tmp_path / "secret.pth").write_text("")
    write_meta(folder, {"asr_model_file": "../secret.pth"}, META["yaml_files"])
    with pytest.raises(ArchiveError, match="asr_model_file is '../secret.pth'; allow"):
        model_files(folder)


def test_no_meta_file(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "_extract", None)  # refused before that
    contents = {k: v for k, v in entries().items() if k != "meta.yaml"}
    path = write(tmp_path / "a.zip", contents.items())
    refused(path, "has no meta.yaml; allowed: a model as ESPnet's stage 14 packs it")


def test_yaml_has_a_limit_too(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_YAML_BYTES", 100)
    (tmp_path / "config.yaml").write_text("a: " + "b" * 100)
    with pytest.raises(ArchiveError, match="allowed for a YAML file: 100"):
        read_yaml(tmp_path / "config.yaml")


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    path = write(tmp_path / "a.zip", entries().items())

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archive, "model_files", full)
    with pytest.raises(OSError, match="No space left"):
        unpack_archive(path, tmp_path / "unpacked")
    assert list(tmp_path.iterdir()) == [path]
