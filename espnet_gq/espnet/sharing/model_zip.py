"""A trained model as ESPnet's zip: the packed model, its float form and a model card.

The zip has the files of ESPnet's stage 14 (`espnet2.bin.pack asr`) and two more:

    meta.yaml, exp/.../config.yaml, exp/.../valid.acc.ave.packed.pth, ...
    README.md    the model card
    float.zip    a zip for ESPnet without the plugin: the same weights as float32, with
                 a configuration of float classes

The float form is a zip within the zip because ESPnet's downloader corrects paths in the
configuration of only one model per zip, and because the hub then stores it compressed.
"""

import logging
import shutil
import tempfile
from argparse import Namespace
from pathlib import Path, PurePath
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Union

import yaml
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from espnet_gq.espnet.inference.loading import MissingFileError, check_files
from espnet_gq.espnet.sharing.archive import (
    YAML_FILES,
    ArchiveError,
    read_yaml,
    unpack_archive,
    write_archive,
    write_meta,
)
from espnet_gq.espnet.sharing.card import FLOAT, FLOAT_WEIGHTS, model_card
from espnet_gq.espnet.sharing.plain_config import plain_config
from espnet_gq.espnet.tasks import Task, pair_of, task_of
from espnet_gq.espnet.training.options import quantizes
from espnet_gq.packing import (
    CheckpointError,
    is_packed,
    load_state_dict,
    pack_state_dict,
    quantized_names,
    save,
)
from espnet_gq.packing.writer import unpack

PathLike = Union[str, Path]
CARD = "README.md"


def zip_model(
    train_config: PathLike,
    model_file: PathLike,
    outpath: PathLike,
    options: Iterable[PathLike] = (),
    lang: Optional[str] = None,
    recipe: Optional[str] = None,
    language_models: Optional[Mapping[str, PathLike]] = None,
    config_key: Optional[str] = None,
    parts: Iterable[PathLike] = (),
) -> None:
    """Write a model's zip, with paths as in the configuration of the training.

    The files named in the configuration that decoding needs are included.

    Args:
        train_config: config.yaml of the training.
        model_file: Packed file, or the checkpoint of a float training.
        outpath: The zip to write.
        options: Further files and folders, for example RESULTS.md and images.
        lang: Language, for the card.
        recipe: For example "librispeech/asr1", for the card.
        language_models: Further file arguments of ESPnet's inference class, for
            example lm_train_config and lm_file.
        config_key: Argument of that class for `train_config`, where the configuration
            alone does not tell the task.
        parts: Further files that the configuration names, for example the model that a
            frontend is made of.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the configuration or the checkpoint is malformed, or a quantized
            checkpoint is not packed.
    """
    check_files(train_config, model_file)
    config = read_yaml(train_config)
    task = task_of(config, config_key)
    state = load_state_dict(model_file, mmap=True)
    if not is_packed(state) and quantized_names(state):
        raise ValueError(
            f"{model_file} is quantized but not packed; allowed: what "
            "espnet-gq pack writes, or a float checkpoint"
        )
    further = {key: Path(path) for key, path in (language_models or {}).items()}
    named = [*_needed(config), *_files(further.values()), *map(Path, parts)]
    needed = list(dict.fromkeys(named))
    names = _names([*needed, *_files(options), Path(model_file)])
    warn_left_out(config, list(names))
    model, config_name = names[Path(model_file)], _name(Path(train_config))
    config = _renamed(config, names)
    files = {task.config_key: config_name, task.model_key: model}
    with tempfile.TemporaryDirectory() as temporary:
        folder, float_folder = Path(temporary) / "model", Path(temporary) / "float"
        for path, name in names.items():
            _copy(path, folder / name)
        _write(folder, config, task, files, further, names)
        if is_packed(state):
            for path in needed:
                _copy(path, float_folder / names[path])
            stem = model.removesuffix(".pth").removesuffix(".packed")
            weights = f"{stem}{FLOAT_WEIGHTS}"
            save(unpack(state), float_folder / weights)
            files = {task.config_key: f"{stem}.float.yaml", task.model_key: weights}
            plain = plain_config(config)
            _write(float_folder, plain, task, files, further, names)
            write_archive(float_folder, folder / FLOAT)
        card = model_card(folder, Path(outpath).name, lang, recipe)
        (folder / CARD).write_text(card, encoding="utf-8")
        write_archive(folder, outpath)


def _needed(config: Mapping[str, Any]) -> List[Path]:
    """Return the files named in a configuration that decoding reads."""
    stats = (config.get("normalize_conf") or {}).get("stats_file")
    named = [stats, config.get("non_linguistic_symbols")]
    for prefix in ("", "src_"):
        if config.get(f"{prefix}token_type") == "bpe":
            named.append(config.get(f"{prefix}bpemodel"))
    paths = [Path(name) for name in named if isinstance(name, str) and name != "none"]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}, which the configuration names: no such file; allowed: to be "
                "run in the folder of the recipe"
            )
    return paths


def warn_left_out(
    config: Mapping[str, Any],
    included: Iterable[Path],
    roots: Iterable[Path] = (Path(),),
) -> None:
    """Warn of what a model is built from that its zip does not contain.

    Classes of ESPnet may read a folder of this machine, for example that of a model of
    Hugging Face Transformers.

    Args:
        config: The configuration.
        included: The files of the zip.
        roots: Folders that the paths of the configuration start from.
    """
    inside = set(included)

    def visit(part: Any, key: str) -> None:
        if isinstance(part, dict):
            for name, value in part.items():
                visit(value, f"{key}.{name}")
        elif isinstance(part, list):
            for value in part:
                visit(value, key)
        elif isinstance(part, str) and "/" in part and Path(part) not in inside:
            if any((root / part).exists() for root in roots):
                logging.warning(
                    f"the zip does not contain {part}, which {key} names: the model "
                    "can be built only where it exists"
                )

    for key, value in config.items():
        if key.endswith("_conf"):
            visit(value, key)


def _files(options: Iterable[PathLike]) -> Iterable[Path]:
    """Yield files, and all files below folders."""
    for option in map(Path, options):
        if not option.exists():
            raise FileNotFoundError(f"{option}: no such file or folder")
        found = sorted(option.rglob("*")) if option.is_dir() else [option]
        yield from (path for path in found if path.is_file())


def _name(path: Path) -> str:
    """Return a file's path in the zip: relative to the recipe if it is in there.

    Symlinks are not followed, since a configuration has the recipe's names.
    """
    if path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return PurePath(*(p for p in path.parts if p not in (path.anchor, ".."))).as_posix()


def _names(paths: Iterable[Path]) -> Dict[Path, str]:
    names = {path: _name(path) for path in paths}
    if len(set(names.values())) < len(names):
        raise ValueError(
            "two files have the same path in the zip; allowed: files below the folder "
            f"of the recipe, not {', '.join(map(str, names))}"
        )
    return names


def _renamed(value: Any, names: Mapping[Path, str]) -> Any:
    """Return a configuration in which files have their names in the zip."""
    if isinstance(value, dict):
        return {k: _renamed(v, names) for k, v in value.items()}
    if isinstance(value, list):
        return [_renamed(v, names) for v in value]
    return names.get(Path(value), value) if isinstance(value, str) else value


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _write(
    folder: Path,
    config: Mapping[str, Any],
    task: Task,
    model: Mapping[str, str],
    language_models: Mapping[str, Path],
    names: Mapping[Path, str],
) -> None:
    """Write a model folder's configurations and meta.yaml.

    Args:
        folder: The model folder.
        config: The model's configuration.
        task: Its task.
        model: Paths of configuration and checkpoint in the folder, by the task's keys.
        language_models: Argument of the inference class -> file, copied there already.
        names: File -> path in the folder.
    """
    files = {task.model_key: model[task.model_key]}
    yaml_files = {task.config_key: model[task.config_key]}
    configs = {model[task.config_key]: config}
    for key, path in language_models.items():
        if key in YAML_FILES:
            yaml_files[key] = names[path]
            configs[names[path]] = _renamed(read_yaml(path), names)
        else:
            files[key] = names[path]
    for name, contents in configs.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(contents, sort_keys=False)
        (folder / name).write_text(text, encoding="utf-8")
    write_meta(folder, files, yaml_files)


# ---- ESPnet's stage 14 --------------------------------------------------------------
def pack_beside(model_file: PathLike) -> Path:
    """Write the packed form of a checkpoint beside it; return it.

    A packed file is returned as it is.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a quantized checkpoint.
    """
    path = Path(model_file)
    state = load_state_dict(path)
    if is_packed(state):
        return path
    try:
        packed = pack_state_dict(state)
    except ValueError as e:
        raise CheckpointError(f"{path}: {e}") from None
    path = path.with_name(f"{path.name.removesuffix('.pth')}.packed.pth")
    save(packed, path)
    return path


def _is_quantized(model_file: PathLike) -> bool:
    state = load_state_dict(model_file, mmap=True)
    return is_packed(state) or bool(quantized_names(state))


def pack(original: Callable) -> Callable:
    """Wrap ESPnet's `pack`: a quantized model is packed and zipped with `zip_model`.

    ESPnet's stage 14 calls it with the training's checkpoint, which has float weights.
    The packed file is written beside it, where stage 12 finds it.
    """

    def pack(
        files: Mapping[str, PathLike],
        yaml_files: Mapping[str, PathLike],
        outpath: PathLike,
        option: Iterable[PathLike] = (),
    ) -> None:
        keys = pair_of({**files, **yaml_files})
        if keys is None:
            return original(files, yaml_files, outpath, option)
        config, model = yaml_files[keys[0]], files[keys[1]]
        check_files(config, model)
        if not (quantizes(Namespace(**read_yaml(config))) and _is_quantized(model)):
            return original(files, yaml_files, outpath, option)
        others = {k: v for k, v in {**yaml_files, **files}.items() if k not in keys}
        if Path(outpath).suffix != ".zip":
            raise ArchiveError(f"{outpath} is not a zip; allowed: a name with .zip")
        try:
            packed = pack_beside(model)
            recipe = "/".join(Path.cwd().parts[-2:])
            zip_model(
                *(config, packed, outpath, option),
                recipe=recipe,
                language_models=others,
                config_key=keys[0],
            )
        except FileNotFoundError as e:
            raise MissingFileError(str(e)) from None
        except ValueError as e:
            raise CheckpointError(str(e)) from None
        print(f"espnet_gq: wrote {packed}, and the model zip with it: {outpath}")

    return pack


# ---- The hub ------------------------------------------------------------------------
def upload_model(
    path: PathLike,
    hf_repo: str,
    folder: PathLike,
    lang: Optional[str] = None,
    recipe: Optional[str] = None,
    creator: Optional[str] = None,
) -> str:
    """Upload the contents of a model zip to a repository of the Hugging Face hub.

    Args:
        path: The zip.
        hf_repo: The repository, user/model.
        folder: Local folder in which the contents are assembled.
        lang: Language, for the card.
        recipe: Such as "librispeech/asr1", for the card.
        creator: Who trained the model, for the card.

    Returns:
        The URL of the commit.

    Raises:
        ArchiveError: If the zip cannot be unpacked.
        ValueError: If the name of the repository is malformed.
        OSError: If the hub refuses.
    """
    folder = Path(folder)
    if folder.exists():
        shutil.rmtree(folder)
    unpack_archive(path, folder)
    card = model_card(folder, hf_repo, lang, recipe, creator, on_hub=True)
    (folder / CARD).write_text(card, encoding="utf-8")
    try:
        commit = HfApi().upload_folder(
            repo_id=hf_repo, folder_path=folder, commit_message="Update model"
        )
    except RepositoryNotFoundError:
        raise OSError(
            f"the hub has no repository {hf_repo} that this login may write to; make "
            f"it with 'hf repo create {hf_repo}' after 'hf auth login'"
        ) from None
    return commit.commit_url
