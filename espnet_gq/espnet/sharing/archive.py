"""ESPnet's model zips: writing them, and unpacking them as untrusted input.

A model folder has a meta.yaml, which maps arguments of ESPnet's inference class, such
as Speech2Text, to files, and these files at the paths that the training configuration
has for them, relative to the folder:

    files: {asr_model_file: exp/asr_x/valid.acc.ave.packed.pth}
    yaml_files: {asr_train_config: exp/asr_x/config.yaml}

ESPnet's own reader (`espnet2.main_funcs.pack_funcs.unpack`) has no size limit and
accepts any file that meta.yaml names; that of 202511 also creates folders and writes
configurations outside the target folder if names in the zip say so. The reader here
never leaves the folder.
"""

import contextlib
import stat
import sys
import unicodedata
import zipfile
from datetime import datetime
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Dict, Iterator, Mapping, Union

import torch
import yaml

from espnet_gq._compat import espnet_version
from espnet_gq.espnet.tasks import TASKS, pair_of
from espnet_gq.files import atomic_folder, atomic_write

PathLike = Union[str, Path]

META = "meta.yaml"
WHAT_STAGE_14_PACKS = "a model as ESPnet's stage 14 packs it"
FILES = (
    *dict.fromkeys(task.model_key for task in TASKS.values()),
    *("ngram_file", "src_lm_file", "src_ngram_file"),
)
YAML_FILES = (
    *dict.fromkeys(task.config_key for task in TASKS.values()),
    "src_lm_train_config",
)
"""Keys allowed in meta.yaml: file arguments of ESPnet's inference classes."""

MAX_ENTRIES = 10_000
MAX_BYTES = 32 * 2**30
"""Largest unpacked size of a zip."""
MAX_RATIO = 200
"""Largest ratio of unpacked to packed size; float weights that are almost all zero
reach 130."""
ALWAYS_ALLOWED = 16 * 2**20
"""Unpacked size that is allowed at any ratio."""
MAX_YAML_BYTES = 4 * 2**20
CHUNK = 2**20


class ArchiveError(ValueError):
    """A model zip or folder cannot be used; the message names entry and reason."""


# ---- Writing ------------------------------------------------------------------------
def write_meta(
    folder: Path, files: Mapping[str, str], yaml_files: Mapping[str, str]
) -> None:
    """Write a model folder's meta.yaml.

    Args:
        folder: The model folder.
        files: Argument of Speech2Text -> path relative to the folder.
        yaml_files: The same for configurations.
    """
    meta = {
        "files": dict(files),
        "yaml_files": dict(yaml_files),
        "timestamp": datetime.now().timestamp(),
        "python": sys.version,
        "torch": str(torch.__version__),
        "espnet": espnet_version(),
    }
    (folder / META).write_text(yaml.safe_dump(meta), encoding="utf-8")


def write_archive(folder: Path, path: PathLike) -> None:
    """Write all files of a folder to a zip, atomically.

    Files are deflated, which takes float weights on 2^b centroids to about b + 2 bits
    each; zips and images are stored.
    """
    names = sorted(p for p in folder.rglob("*") if p.is_file())
    names.sort(key=lambda p: p != folder / META)  # ESPnet looks for it
    with atomic_write(path) as temporary:
        with zipfile.ZipFile(temporary, "w", strict_timestamps=False) as archive:
            for file in names:
                dense = file.suffix in (".zip", ".png")
                archive.write(
                    file,
                    file.relative_to(folder).as_posix(),
                    zipfile.ZIP_STORED if dense else zipfile.ZIP_DEFLATED,
                )


# ---- Unpacking ----------------------------------------------------------------------
@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn errors of zipfile, which can be of any class, into ArchiveError."""
    try:
        yield
    except (ArchiveError, MemoryError):
        raise
    except Exception as e:
        reason = " ".join(str(e).split()) or type(e).__name__
        raise ArchiveError(f"{path} is not a readable zip ({reason})") from None


def _refusal(info: zipfile.ZipInfo) -> str:
    """Return why an entry is refused, "" if it is not."""
    name = info.orig_filename
    parts = PurePosixPath(name).parts
    kind = stat.S_IFMT(info.external_attr >> 16)
    if not name.isprintable() or "\\" in name:
        return "its name has characters that no model's file has"
    if name.startswith("/") or PureWindowsPath(name).drive:
        return "its path is absolute; allowed: paths below the zip's own folder"
    if ".." in parts:
        return "its path has '..'; allowed: paths below the zip's own folder"
    if not parts or "/".join(parts) != name.removesuffix("/"):
        return "its path is not in its plain form"
    if len(name.encode()) > 1000 or max(len(p.encode()) for p in parts) > 255:
        return "its name is too long; allowed: 255 bytes a folder or file"
    if kind == stat.S_IFLNK:
        return "it is a link; allowed: files and folders"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "it is a device or a pipe; allowed: files and folders"
    if info.flag_bits & 0x1:
        return "it is encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "its compression is not one of those allowed: stored, deflated"
    return ""


def _same_place(name: str) -> str:
    """Return a key that is equal for names that a file system may not distinguish."""
    return unicodedata.normalize("NFC", name.removesuffix("/")).casefold()


def _check(path: Path, archive: zipfile.ZipFile) -> None:
    """Check an archive before anything is extracted."""
    infos = archive.infolist()
    if META not in archive.namelist():
        raise ArchiveError(f"{path} has no {META}; allowed: {WHAT_STAGE_14_PACKS}")
    if len(infos) > MAX_ENTRIES:
        raise ArchiveError(
            f"{path} has {len(infos):,} entries; allowed: {MAX_ENTRIES:,}"
        )
    seen: Dict[str, str] = {}
    for info in infos:
        reason = _refusal(info)
        place = _same_place(info.filename)
        if not reason and place in seen:
            reason = f"it is there twice, also as {seen[place]!r}"
        if reason:
            raise ArchiveError(f"{path}: entry {info.orig_filename!r}: {reason}")
        seen[place] = info.filename
    files = {_same_place(i.filename): i.filename for i in infos if not i.is_dir()}
    for place, name in seen.items():
        parents = map(str, PurePosixPath(place).parents)
        clash = next((files[p] for p in parents if p in files), None)
        if clash is not None:
            raise ArchiveError(
                f"{path}: entry {name!r}: it lies below {clash!r}, which is a file"
            )
    allowed = min(MAX_BYTES, max(ALWAYS_ALLOWED, MAX_RATIO * path.stat().st_size))
    total = sum(info.file_size for info in infos)
    if total > allowed:
        largest = max(infos, key=lambda info: info.file_size)
        raise ArchiveError(
            f"{path}: entry {largest.filename!r}: with it the zip unpacks to "
            f"{total:,} bytes; allowed: {allowed:,} ({MAX_RATIO} times its size)"
        )


def _extract(path: Path, archive: zipfile.ZipFile, folder: Path) -> None:
    for info in archive.infolist():
        target = folder.joinpath(*PurePosixPath(info.filename).parts)
        if info.is_dir():
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            with reading(path):
                source = stack.enter_context(archive.open(info))
            out = stack.enter_context(open(target, "xb"))
            while True:
                with reading(path):  # stops at the size that was checked
                    chunk = source.read(CHUNK)
                if not chunk:
                    break
                out.write(chunk)
        if target.stat().st_size != info.file_size:
            raise ArchiveError(
                f"{path}: entry {info.filename!r}: it ends after "
                f"{target.stat().st_size:,} of {info.file_size:,} bytes"
            )


def unpack_archive(path: PathLike, folder: PathLike) -> None:
    """Unpack a model zip to a new folder, atomically.

    Args:
        path: The zip.
        folder: Target; must not exist. Its parent is created.

    Raises:
        FileNotFoundError: If there is no such zip.
        FileExistsError: If the folder exists.
        ArchiveError: If it is not a zip, if an entry has an absolute path or '..', is a
            link, is there twice or is encrypted, if it unpacks to more than MAX_BYTES
            or more than MAX_RATIO times its size, or if meta.yaml is missing, malformed
            or names a file that is not there.
        OSError: If the files cannot be written.
    """
    path, folder = Path(path), Path(folder)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if folder.exists():
        raise FileExistsError(f"{folder} exists; allowed: a new folder")
    with atomic_folder(folder) as temporary:
        with contextlib.ExitStack() as stack:
            with reading(path):
                archive = stack.enter_context(zipfile.ZipFile(path))
                _check(path, archive)
            _extract(path, archive, temporary)
        try:
            model_files(temporary)
        except ArchiveError as e:
            raise ArchiveError(str(e).replace(str(temporary), str(path))) from None


# ---- Reading a model folder ---------------------------------------------------------
class _Loader(yaml.SafeLoader):
    """Refuses merge keys, with which a short text can grow without limit."""

    def flatten_mapping(self, node):
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, "it has a merge key"
                )
        super().flatten_mapping(node)


def read_yaml(path: PathLike) -> Dict[str, Any]:
    """Read a YAML file that holds options.

    Raises:
        FileNotFoundError: If there is no such file.
        ArchiveError: If it is not YAML, too long, or holds something else.
    """
    path = Path(path)
    if path.stat().st_size > MAX_YAML_BYTES:
        raise ArchiveError(
            f"{path} has {path.stat().st_size:,} bytes; allowed for a YAML file: "
            f"{MAX_YAML_BYTES:,}"
        )
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, ValueError, RecursionError, AttributeError) as e:
        reason = " ".join(str(e).split())
        raise ArchiveError(f"{path} is not YAML ({reason})") from None
    if not isinstance(value, dict):
        raise ArchiveError(f"{path} holds no options; allowed: a YAML mapping")
    return value


def inside(folder: Path, name: Any) -> bool:
    """Return whether a name is that of a file and, as written, below a folder."""
    if not isinstance(name, str) or not name or "\0" in name or len(name) > 1000:
        return False
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        return False
    try:
        return (folder / path).is_file()
    except OSError:
        return False


def model_files(folder: PathLike) -> Dict[str, Path]:
    """Return argument of ESPnet's Speech2Text -> file, from meta.yaml of a folder.

    Raises:
        ArchiveError: If meta.yaml is missing or malformed, or names an unknown argument
            or a file that is not in the folder.
    """
    folder = Path(folder)
    if not (folder / META).is_file():
        raise ArchiveError(f"{folder} has no {META}; allowed: {WHAT_STAGE_14_PACKS}")
    meta = read_yaml(folder / META)
    found: Dict[str, Path] = {}
    for group, allowed in (("yaml_files", YAML_FILES), ("files", FILES)):
        names = meta.get(group)
        if not isinstance(names, dict):
            raise ArchiveError(f"{folder / META}: it has no {group}")
        for key, name in names.items():
            if key not in allowed:
                raise ArchiveError(
                    f"{folder / META}: {group} names {key!r}; allowed: "
                    f"{', '.join(allowed)}"
                )
            if not inside(folder, name):
                raise ArchiveError(
                    f"{folder / META}: {key} is {name!r}; allowed: the relative path "
                    "of a file in the same folder"
                )
            found[key] = folder / name
    if pair_of(found) is None:
        pairs = dict.fromkeys((t.config_key, t.model_key) for t in TASKS.values())
        missing = [
            key
            for pair in pairs
            if set(pair) & set(found)
            for key in pair
            if key not in found
        ]
        allowed_pairs = " or ".join(" and ".join(pair) for pair in pairs)
        raise ArchiveError(
            f"{folder / META}: it names no {' or '.join(missing) or 'model'}; allowed: "
            f"{allowed_pairs}"
        )
    return found
