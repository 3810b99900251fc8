"""A trained model as ESPnet's zip: packed, in a float form beside it, with a card.

The zip is what ESPnet's stage 14 writes (`espnet2.bin.pack asr`) and two files more:

    meta.yaml, exp/.../config.yaml, exp/.../valid.acc.ave.packed.pth, ...
    README.md    the model card
    float.zip    a zip of ESPnet's own kind that needs no plugin: the same weights as
                 float32, with a configuration of float classes

A zip within the zip, because ESPnet's downloader puts right the paths in the
configuration of one model a zip, and because the hub then holds it compressed.
"""

import shutil
import tempfile
from pathlib import Path, PurePath
from typing import Any, Dict, Iterable, List, Mapping, Optional, Union

import yaml
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from espnet_gq.espnet.archive import (
    read_yaml,
    unpack_archive,
    write_archive,
    write_meta,
)
from espnet_gq.espnet.card import FLOAT, FLOAT_WEIGHTS, model_card
from espnet_gq.espnet.loading import check_files
from espnet_gq.espnet.plain_config import plain_config
from espnet_gq.packing import (
    harden_state_dict,
    is_packed,
    load_state_dict,
    quantized_names,
    save,
    unpack_state_dict,
)

PathLike = Union[str, Path]
CARD = "README.md"


def zip_model(
    asr_train_config: PathLike,
    asr_model_file: PathLike,
    outpath: PathLike,
    options: Iterable[PathLike] = (),
    lang: Optional[str] = None,
    recipe: Optional[str] = None,
) -> None:
    """Write a model's zip. Paths in it are as in the configuration of the training.

    What decoding needs of the files that the configuration names goes in by itself.

    Args:
        asr_train_config: config.yaml of the training.
        asr_model_file: Its packed file, or the checkpoint of a float training.
        outpath: The zip to write.
        options: Further files and folders, such as RESULTS.md and images.
        lang: Language, for the card.
        recipe: Such as "librispeech/asr1", for the card.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the configuration or the checkpoint is malformed, or a quantized
            checkpoint is not packed.
    """
    check_files(asr_train_config, asr_model_file)
    config = read_yaml(asr_train_config)
    state = load_state_dict(asr_model_file)
    if not is_packed(state) and quantized_names(state):
        raise ValueError(
            f"{asr_model_file} is quantized but not packed; allowed: what "
            "python3 -m espnet_gq.bin.pack writes, or a float checkpoint"
        )
    needed = _needed(config)
    names = _names([*needed, *_files(options), Path(asr_model_file)])
    model, config_name = names[Path(asr_model_file)], _name(Path(asr_train_config))
    config = _renamed(config, names)
    with tempfile.TemporaryDirectory() as temporary:
        folder, float_folder = Path(temporary) / "model", Path(temporary) / "float"
        for path, name in names.items():
            _copy(path, folder / name)
        _write(folder, config_name, config, model)
        if is_packed(state):
            for path in needed:
                _copy(path, float_folder / names[path])
            stem = model.removesuffix(".pth").removesuffix(".packed")
            weights = f"{stem}{FLOAT_WEIGHTS}"
            save(harden_state_dict(unpack_state_dict(state)), float_folder / weights)
            _write(float_folder, f"{stem}.float.yaml", plain_config(config), weights)
            write_archive(float_folder, folder / FLOAT)
        card = model_card(folder, Path(outpath).name, lang, recipe)
        (folder / CARD).write_text(card, encoding="utf-8")
        write_archive(folder, outpath)


def _needed(config: Mapping[str, Any]) -> List[Path]:
    """Return the files named in a configuration that decoding reads."""
    stats = (config.get("normalize_conf") or {}).get("stats_file")
    named = [stats, config.get("non_linguistic_symbols")]
    if config.get("token_type") == "bpe":
        named.append(config.get("bpemodel"))
    paths = [Path(name) for name in named if isinstance(name, str) and name != "none"]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}, which the configuration names: no such file; allowed: to be "
                "run in the folder of the recipe"
            )
    return paths


def _files(options: Iterable[PathLike]) -> Iterable[Path]:
    """Yield files, and all files below folders."""
    for option in map(Path, options):
        if not option.exists():
            raise FileNotFoundError(f"{option}: no such file or folder")
        found = sorted(option.rglob("*")) if option.is_dir() else [option]
        yield from (path for path in found if path.is_file())


def _name(path: Path) -> str:
    """Return a file's path in the zip: relative to the recipe where it lies in it.

    Links are not followed: a configuration has the names that the recipe gave.
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
    """Return a configuration that has the names of files as they are in the zip."""
    if isinstance(value, dict):
        return {k: _renamed(v, names) for k, v in value.items()}
    if isinstance(value, list):
        return [_renamed(v, names) for v in value]
    return names.get(Path(value), value) if isinstance(value, str) else value


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _write(folder: Path, name: str, config: Mapping[str, Any], model: str) -> None:
    """Write a model folder's configuration and meta.yaml."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(config, sort_keys=False)
    (folder / name).write_text(text, encoding="utf-8")
    write_meta(folder, {"asr_model_file": model}, {"asr_train_config": name})


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
        folder: Where its contents are put together, on this machine.
        lang: Language, for the card.
        recipe: Such as "librispeech/asr1", for the card.
        creator: Who trained the model, for the card.

    Returns:
        The address of the commit.

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
