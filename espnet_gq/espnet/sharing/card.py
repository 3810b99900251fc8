"""The model card: README.md of a model zip and of its repository on the hub.

The layout is ESPnet's (`scripts/utils/TEMPLATE_HF_Readme.md`).
"""

import zipfile
from pathlib import Path
from typing import Any, List, Mapping, Optional

from huggingface_hub import ModelCardData

from espnet_gq._version import __version__
from espnet_gq.analysis.size import Description
from espnet_gq.espnet.inference.counting import describe_model
from espnet_gq.espnet.sharing.archive import (
    ArchiveError,
    model_files,
    read_yaml,
    reading,
)
from espnet_gq.espnet.tasks import Task, pair_of, task_of

FLOAT = "float.zip"
"""The zip within a model zip that plain ESPnet loads."""
FLOAT_WEIGHTS = ".float.pth"

ESPNET = "[ESPnet](https://github.com/espnet/espnet/)"
GQ = "GQ, the General Quantizer ([arXiv 2210.09188](https://arxiv.org/abs/2210.09188))"
CITATION = """```bibtex
@inproceedings{watanabe2018espnet,
  author={Shinji Watanabe and Takaaki Hori and Shigeki Karita and Tomoki Hayashi and
    Jiro Nishitoba and Yuya Unno and Nelson Yalta and Jahn Heymann and
    Matthew Wiesner and Nanxin Chen and Adithya Renduchintala and Tsubasa Ochiai},
  title={{ESPnet}: End-to-End Speech Processing Toolkit},
  year={2018},
  booktitle={Proceedings of Interspeech},
  pages={2207--2211},
  doi={10.21437/Interspeech.2018-1456},
}
```"""

USAGE = """### Use it

With `espnet-gq` {version} or newer beside ESPnet; it computes with the packed weights:

```python
import espnet_gq

speech2text = espnet_gq.Speech2Text.from_pretrained("{name}")
```

In a program that uses ESPnet's own classes, one more import does it. Without it ESPnet
ends with an error such as `--encoder must be one of ...` or `got an unexpected keyword
argument 'gq_conf'`:

```python
import espnet_gq.espnet
from {module} import {cls}

speech2text = {cls}.from_pretrained("{name}")
```
{command}
### Without the plugin

`{float}` has the same weights as float32, for plain ESPnet.{needs}

```python
import {fetch}
from {module} import {cls}

float_zip = {fetched}
speech2text = {cls}.from_pretrained(float_zip)
```"""
PLAIN_USAGE = """### Use it

```python
from {module} import {cls}

speech2text = {cls}.from_pretrained("{name}")
```"""
COMMAND_TAKES = "s2t_train_config"
COMMAND = """
ESPnet's own command (202611) loads it, too:

    python3 -m espnet_gq -m espnet2.bin.cli transcribe --model {name} audio.wav
"""


def model_card(
    folder: Path,
    name: str,
    lang: Optional[str] = None,
    recipe: Optional[str] = None,
    creator: Optional[str] = None,
    on_hub: bool = False,
) -> str:
    """Return the card of a model folder (see `archive.py`) as Markdown.

    Args:
        folder: The folder, with RESULTS.md beside the checkpoint if it was scored.
        name: Name that the model is loaded by: its zip, or user/model on the hub.
        lang: Language; "noinfo" means none.
        recipe: For example "librispeech/asr1".
        creator: Who trained it.
        on_hub: Whether `name` is a name on the hub.

    Raises:
        ArchiveError: If a packed model has no float form beside it.
    """
    files = model_files(folder)
    keys = pair_of(files)
    assert keys is not None, files
    config_file, model_file = (files[key] for key in keys)
    config = read_yaml(config_file)
    task = task_of(config, keys[0])
    size = describe_model(model_file, config_file)
    by = f" by {creator}" if creator else ""
    recipe_words = f" with the {recipe} recipe" if recipe else ""
    sections = [
        f"---\n{_front_matter(task, lang, recipe)}\n---",
        f"## ESPnet2 {task.title} model\n\n### `{name}`",
        f"This model was trained{by}{recipe_words} in {ESPNET}.",
    ]
    if size.format == "packed":
        sections += _quantized(size, _float_bytes(folder, name))
    sections += [_usage(config, task, size, name, on_hub)]
    results = model_file.with_name("RESULTS.md")
    text = results.read_text(encoding="utf-8").strip() if results.is_file() else ""
    sections += [text or "# RESULTS\n\nNot scored yet."]
    sections += [_config(config_file, task), f"### Citing ESPnet\n\n{CITATION}"]
    return "\n\n".join(sections) + "\n"


def _front_matter(task: Task, lang: Optional[str], recipe: Optional[str]) -> str:
    corpus = recipe.split("/")[0].removesuffix("_gq") if recipe else None
    return ModelCardData(
        language=lang if lang and lang != "noinfo" else None,
        datasets=[corpus] if corpus else None,
        license="cc-by-4.0",  # ESPnet's
        library_name="espnet",
        pipeline_tag=task.tag,
        tags=["espnet", "audio", task.tag],
    ).to_yaml()


def _float_bytes(folder: Path, name: str) -> int:
    """Return the size of the checkpoint in the zip for plain ESPnet."""
    path = folder / FLOAT
    if not path.is_file():
        raise ArchiveError(
            f"{name} has a packed model and no {FLOAT}; allowed: what "
            "espnet-gq zip-model writes"
        )
    with reading(path), zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        return sum(i.file_size for i in infos if i.filename.endswith(FLOAT_WEIGHTS))


def _quantized(size: Description, float_bytes: int) -> List[str]:
    return [
        f"Its weights are quantized with {GQ} by `espnet-gq` {__version__}.",
        "| | effective bits | quantized | file | smaller |\n|---|---|---|---|---|\n"
        f"| float32 | 32 | none | {float_bytes / 1e6:.3f} MB | 1.00 x |\n"
        f"| packed | {size.bits:.2f} | {size.count} | {size.file_bytes / 1e6:.3f} MB | "
        f"{float_bytes / size.file_bytes:.2f} x |",
    ]


def _usage(
    config: Mapping[str, Any],
    task: Task,
    size: Description,
    name: str,
    on_hub: bool,
) -> str:
    module, cls = task.inference.split(":")
    if size.format != "packed":
        return PLAIN_USAGE.format(name=name, module=module, cls=cls)
    needs = ""
    if task.name == "asr" and str(config.get("decoder")).endswith("transducer"):
        needs = (
            " As every transducer there, it needs `warprnnt_pytorch`, which the plugin "
            "does without."
        )
    if on_hub:
        fetch, fetched = "huggingface_hub", f'hf_hub_download("{name}", "{FLOAT}")'
    else:
        fetch, fetched = "zipfile", f'ZipFile("{name}").extract("{FLOAT}")'
    return USAGE.format(
        name=name,
        version=__version__,
        module=module,
        cls=cls,
        command=COMMAND.format(name=name) if task.config_key == COMMAND_TAKES else "",
        float=FLOAT,
        needs=needs,
        fetch=fetch,
        fetched=f"{fetch}.{fetched}",
    )


def _config(path: Path, task: Task) -> str:
    text = path.read_text(encoding="utf-8").strip()
    return (
        f"## {task.title[:1].upper()}{task.title[1:]} config\n\n"
        "<details><summary>expand</summary>\n\n```\n"
        f"{text}\n```\n\n</details>"
    )
