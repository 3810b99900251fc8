"""`from_pretrained`: a model from a zip, a folder, the hub or a pair of files.

ESPnet's own accepts zips and names on the hub, follows paths out of the model's folder,
and in 202511 loads pickles. Here a shared model can only use files in its own folder,
and only tensors are read from checkpoints.
"""

import errno
import hashlib
import os
import re
import tempfile
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import yaml
from espnet2.bin.asr_inference import Speech2Text as ESPnetSpeech2Text

from espnet_gq._compat import tensors_only
from espnet_gq.espnet.inference.loading import check_files
from espnet_gq.espnet.inference.streaming import build_speech2text
from espnet_gq.espnet.sharing.archive import (
    CHUNK,
    META,
    YAML_FILES,
    inside,
    model_files,
    read_yaml,
    unpack_archive,
)
from espnet_gq.espnet.tasks import Task, pair_of, task_of
from espnet_gq.packing import load_object

PathLike = Union[str, Path]
Source = Union[PathLike, Sequence[PathLike]]

HUB = "https://huggingface.co/"
TAG = re.compile(r"[^./~][^/]*/[^/]+(?<!\.zip)(?<!\.pth)(?<!\.yaml)")
"""user/model, or user/model@revision."""
CACHES = "allowed as cachedir: a folder that can be written and has room"
NOT_WRITTEN = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST),
    *(errno.ENOSPC, errno.EDQUOT),
}
"""Errors of a folder that cannot be written, as opposed to those of a network."""
DEFAULT_MODEL = "valid.acc.ave"
"""The averaged checkpoint that ESPnet's recipes decode by default."""


@dataclass(frozen=True)
class Model:
    """A model's files.

    Attributes:
        files: Argument of ESPnet's inference class -> file.
        roots: Folders that relative paths in its configurations can refer to.
    """

    files: Dict[str, Path]
    roots: Tuple[Path, ...]

    @property
    def config_file(self) -> Path:
        """Configuration of the training."""
        return self.files[self._pair[0]]

    @property
    def checkpoint(self) -> Path:
        """The model's weights."""
        return self.files[self._pair[1]]

    @property
    def _pair(self) -> Tuple[str, str]:
        pair = pair_of(self.files)
        assert pair is not None, self.files
        return pair

    @property
    def task(self) -> Task:
        """ESPnet's task of the model.

        Raises:
            ValueError: If it is none whose models can be quantized.
        """
        try:
            return task_of(read_yaml(self.config_file), self._pair[0])
        except ValueError as e:
            raise ValueError(f"{self.config_file}: {e}") from None


# ---- Finding a model ----------------------------------------------------------------
def find_model(source: Source, cachedir: Optional[PathLike] = None) -> Model:
    """Find a model's files, unpacking or downloading them as needed.

    Args:
        source: A model zip; a folder (an unpacked zip, or a training's output); a pair
            (config.yaml, checkpoint); or a name on the hub, user/model.
        cachedir: Cache for unpacked zips and downloads; None: ~/.cache/espnet_gq and
            the cache of ESPnet's ModelDownloader.

    Raises:
        FileNotFoundError: If a path does not exist.
        ArchiveError: If a zip or a model folder is malformed or hostile.
        ValueError: If it is none of these, or a folder has no model or several.
        OSError: If the hub does not deliver the model, or the cache is not writable.
    """
    if not isinstance(source, (str, Path)):
        if len(source) != 2:
            raise ValueError(
                f"{len(source)} paths were given; allowed: the pair (config.yaml, "
                "checkpoint)"
            )
        return _pair(*map(Path, source))
    path = Path(source).expanduser()
    if path.is_dir():
        if (path / META).exists():
            return _shared(path)
        return _pair(path / "config.yaml", _checkpoint(path))
    if path.exists():
        return _shared(_unpacked(path, cachedir))
    if "://" in str(source) or TAG.fullmatch(str(source)):
        return _shared(_downloaded(str(source).removeprefix(HUB), cachedir))
    raise FileNotFoundError(
        f"{source}: no such file or folder; allowed: a model zip, a folder, a pair "
        "(config.yaml, checkpoint), or user/model of the hub"
    )


def _shared(folder: Path) -> Model:
    return Model(model_files(folder), (folder.absolute(),))


def _pair(config: Path, checkpoint: Path) -> Model:
    check_files(config, checkpoint)
    # A recipe's paths are relative to its folder, which contains the experiment.
    roots = (Path.cwd(), *config.absolute().parents)
    task = task_of(read_yaml(config))
    return Model({task.config_key: config, task.model_key: checkpoint}, roots)


def _checkpoint(folder: Path) -> Path:
    """Return the checkpoint to load from a training's folder."""
    for suffix in (".packed.pth", ".pth"):
        found = sorted(folder.glob(f"*.ave{suffix}"))
        usual = folder / f"{DEFAULT_MODEL}{suffix}"
        if usual in found:
            return usual
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(
                f"{folder} has several models ({', '.join(p.name for p in found)}); "
                "allowed: one, or the pair (config.yaml, checkpoint)"
            )
    raise ValueError(
        f"{folder} has neither {META} nor an averaged checkpoint such as "
        f"{DEFAULT_MODEL}.pth; allowed: an unpacked model zip, or the folder of a "
        "finished training"
    )


def _unpacked(path: Path, cachedir: Optional[PathLike]) -> Path:
    """Unpack a zip to a folder named by its checksum, unless it is there; return it."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while chunk := f.read(CHUNK):
            digest.update(chunk)
    folder = _cache(cachedir) / digest.hexdigest()[:32]
    try:
        unpack_archive(path, folder)
    except OSError as e:
        if not os.path.isdir(folder):  # else it was unpacked before
            raise _unwritable(folder.parent, e) from e
    return folder


def _cache(cachedir: Optional[PathLike]) -> Path:
    """Return the folder in which zips are unpacked.

    Raises:
        OSError: If there is no home folder for it.
    """
    try:
        return Path(cachedir or "~/.cache/espnet_gq").expanduser()
    except RuntimeError:
        raise OSError(
            f"the cache {cachedir or '~/.cache/espnet_gq'} is in a home folder that "
            f"does not exist; {CACHES}"
        ) from None


def _unwritable(folder: Any, error: OSError) -> OSError:
    """Return the error to raise if a cache cannot be written."""
    reason = error.strerror or " ".join(str(error).split())
    return OSError(f"the cache {folder} cannot be written ({reason}); {CACHES}")


def _not_written(error: Optional[BaseException]) -> Optional[OSError]:
    """Return the error in a chain that kept a downloader from writing, if any."""
    seen = []
    while error is not None and error not in seen:
        if isinstance(error, OSError) and error.errno in NOT_WRITTEN:
            return error
        seen.append(error)
        error = error.__cause__ or error.__context__
    return None


def _downloaded(name: str, cachedir: Optional[PathLike]) -> Path:
    """Download a model of ESPnet's model zoo or the hub; return its folder."""
    from espnet_model_zoo.downloader import ModelDownloader

    if cachedir:
        cachedir = _cache(cachedir)
    try:
        downloader = ModelDownloader(cachedir)
        url = downloader.get_url(name=name)
        if url.removeprefix("https://").startswith("huggingface.co"):
            return Path(downloader.huggingface_download(name=name))
        path = Path(downloader.download(url))
    except Exception as e:  # of the hub, of its HTTP library, of the system
        unwritten = _not_written(e)
        if unwritten is not None:
            place = cachedir or unwritten.filename or "of ESPnet's ModelDownloader"
            raise _unwritable(place, unwritten) from e
        reason = next(filter(None, map(str.strip, str(e).splitlines())), repr(e))
        raise OSError(
            f"{name} is no file or folder here, and was not fetched from the hub "
            f"({reason})"
        ) from e
    return _unpacked(path, cachedir)


# ---- Building it --------------------------------------------------------------------
def located(value: Any, roots: Sequence[Path], done: Dict[int, Any]) -> Any:
    """Return a configuration in which names of files in the roots are absolute.

    Args:
        value: The configuration or a part of it; YAML aliases share parts.
        roots: Folders; the first that has the file is used.
        done: id -> result for the lists and mappings converted so far.
    """
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, dict):
        done[id(value)] = found = {}
        for key, item in value.items():
            # Tokens may look like file names.
            words = key == "token_list" and isinstance(item, list)
            found[key] = item if words else located(item, roots, done)
        return found
    if isinstance(value, list):
        items: List[Any] = []
        done[id(value)] = items
        items.extend(located(item, roots, done) for item in value)
        return items
    if isinstance(value, str) and ("/" in value or Path(value).suffix):
        for root in roots:
            if inside(root, value):
                return str(root / value)
    return value


def build(constructor, model: Model, options: Dict[str, Any]):
    """Call ESPnet's Speech2Text, or a class with the same arguments, on a model.

    Raises:
        ValueError: If a file is not a checkpoint, or would run code.
    """
    for key in ("lm_file", "src_lm_file"):  # the model's own file is always checked
        if key in model.files and model.files[key] != model.checkpoint:
            load_object(model.files[key], mmap=True)
    with tempfile.TemporaryDirectory() as temporary:
        files = {key: str(path) for key, path in model.files.items()}
        for key in set(files) & set(YAML_FILES):
            config = located(read_yaml(files[key]), model.roots, {})
            files[key] = f"{temporary}/{key}.yaml"
            Path(files[key]).write_text(yaml.safe_dump(config), encoding="utf-8")
        with tensors_only(), _force_weights_only():
            return constructor(**{**files, **options})


_SWITCHES = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
_lock = threading.Lock()
_before: List[Dict[str, str]] = []
"""The switches as each open block of `_force_weights_only` found them."""


@contextmanager
def _force_weights_only() -> Iterator[None]:
    """Within the block, `torch.load` reads only tensors in the whole process.

    A shared configuration may select a frontend of another library, such as s3prl,
    which loads files itself. Only PyTorch's environment variable covers it.
    """
    with _lock:
        found = {name: os.environ.pop(name, None) for name in _SWITCHES}
        _before.append({k: v for k, v in found.items() if v is not None})
        os.environ[_SWITCHES[0]] = "1"
    try:
        yield
    finally:
        with _lock:
            # Blocks of several threads may overlap: the last one restores the first's.
            restored = _before[0]
            _before.pop()
            if not _before:
                del os.environ[_SWITCHES[0]]
                os.environ.update(restored)


class Speech2Text(ESPnetSpeech2Text):
    """ESPnet's Speech2Text with the quantized classes registered.

    Takes ESPnet's arguments; packed models compute packed.
    """

    @classmethod
    def from_pretrained(
        cls,
        model_tag: Optional[Source] = None,
        model_file: Optional[PathLike] = None,
        cachedir: Optional[PathLike] = None,
        **options: Any,
    ):
        """Build from a shared model.

        Args:
            model_tag: A model zip; a folder (an unpacked zip, or a training's output);
                config.yaml of a training, followed by its checkpoint; or a name on the
                hub, user/model.
            model_file: The checkpoint, where `model_tag` is config.yaml.
            cachedir: Cache for unpacked zips and downloads; None: ~/.cache/espnet_gq
                and the cache of ESPnet's ModelDownloader.
            **options: Arguments of ESPnet's Speech2Text, for example `beam_size`,
                `device` and `quantize_asr_model` (int8).

        Returns:
            A Speech2Text of the ASR task; for a model of another task, ESPnet's own
            inference class (`espnet_gq.espnet.tasks`).

        Raises:
            FileNotFoundError: If a path does not exist.
            ArchiveError: If a zip or a model folder is malformed or hostile.
            ValueError: If there is no model, several, or one that cannot be read.
            OSError: If the hub does not deliver the model.

        Example:
            >>> speech2text = Speech2Text.from_pretrained("model.zip", beam_size=5)
            >>> text, token, token_int, hyp = speech2text(samples)[0]
        """
        model = _given(model_tag, model_file, cachedir, options)
        task = model.task
        constructor = cls if task.name == "asr" else task.inference_class()
        return build(constructor, model, options)


class Speech2TextStreaming:
    """Streaming decoding: ESPnet's class if it supports the model, else this plugin's.

    Args:
        asr_train_config: config.yaml of the training.
        asr_model_file: Checkpoint, packed or not.
        **options: Further arguments of ESPnet's Speech2TextStreaming; for transducers
            also `transducer_conf`.

    Raises:
        ValueError: If the model needs the whole utterance.
    """

    def __new__(cls, asr_train_config: PathLike, asr_model_file=None, **options: Any):
        return build_speech2text(
            asr_train_config, asr_model_file=asr_model_file, **options
        )

    @classmethod
    def from_pretrained(
        cls,
        model_tag: Optional[Source] = None,
        model_file: Optional[PathLike] = None,
        cachedir: Optional[PathLike] = None,
        **options: Any,
    ):
        """Build from a shared model; see `Speech2Text.from_pretrained`."""
        model = _given(model_tag, model_file, cachedir, options)
        task = model.task.name
        if task != "asr":
            others = {
                "asr_transducer": "Speech2Text.from_pretrained(..., streaming=True)",
                "st": "espnet2.bin.st_inference_streaming",
            }
            raise ValueError(
                f"{model.config_file} is of ESPnet's task {task}, which this class "
                f"cannot decode; allowed: {others.get(task, 'a model of the task asr')}"
            )
        return build(cls, model, options)


def _given(model_tag, model_file, cachedir, options: Dict[str, Any]) -> Model:
    """Return the model that the arguments of from_pretrained name."""
    if model_tag is None:
        keys = pair_of([key for key, value in options.items() if value is not None])
        if keys is None:
            raise ValueError(
                "no model was given; allowed: a model zip, a folder, a pair "
                "(config.yaml, checkpoint), or user/model of the hub"
            )
        model_tag = [options.pop(key) for key in keys]
    elif model_file is not None:
        model_tag = (model_tag, model_file)
    return find_model(model_tag, cachedir)
