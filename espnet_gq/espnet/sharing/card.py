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
says `--encoder must be one of ...`:

```python
import espnet_gq.espnet
from {module} import Speech2Text

speech2text = Speech2Text.from_pretrained("{name}")
```

### Without the plugin

`{float}` has the same weights as float32, for plain ESPnet.{needs}

```python
import {fetch}
from {module} import Speech2Text

float_zip = {fetched}
speech2text = Speech2Text.from_pretrained(float_zip)
```"""
PLAIN_USAGE = """### Use it

```python
from {module} import Speech2Text

speech2text = Speech2Text.from_pretrained("{name}")
```"""


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
    config = read_yaml(files["asr_train_config"])
    size = describe_model(files["asr_model_file"], files["asr_train_config"])
    by = f" by {creator}" if creator else ""
    recipe_words = f" with the {recipe} recipe" if recipe else ""
    sections = [
        f"---\n{_front_matter(lang, recipe)}\n---",
        f"## ESPnet2 ASR model\n\n### `{name}`",
        f"This model was trained{by}{recipe_words} in {ESPNET}.",
    ]
    if size.format == "packed":
        sections += _quantized(size, _float_bytes(folder, name))
    sections += [_usage(config, size, name, on_hub)]
    results = files["asr_model_file"].with_name("RESULTS.md")
    text = results.read_text(encoding="utf-8").strip() if results.is_file() else ""
    sections += [text or "# RESULTS\n\nNot scored yet."]
    sections += [_config(files["asr_train_config"]), f"### Citing ESPnet\n\n{CITATION}"]
    return "\n\n".join(sections) + "\n"


def _front_matter(lang: Optional[str], recipe: Optional[str]) -> str:
    corpus = recipe.split("/")[0].removesuffix("_gq") if recipe else None
    return ModelCardData(
        language=lang if lang and lang != "noinfo" else None,
        datasets=[corpus] if corpus else None,
        license="cc-by-4.0",  # ESPnet's
        library_name="espnet",
        pipeline_tag="automatic-speech-recognition",
        tags=["espnet", "audio", "automatic-speech-recognition"],
    ).to_yaml()


def _float_bytes(folder: Path, name: str) -> int:
    """Return the size of the checkpoint in the zip for plain ESPnet."""
    path = folder / FLOAT
    if not path.is_file():
        raise ArchiveError(
            f"{name} has a packed model and no {FLOAT}; allowed: what "
            "python3 -m espnet_gq.bin.zip_model writes"
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
    config: Mapping[str, Any], size: Description, name: str, on_hub: bool
) -> str:
    task = "asr" if "encoder" in config else "asr_transducer"
    module = f"espnet2.bin.{task}_inference"
    if size.format != "packed":
        return PLAIN_USAGE.format(name=name, module=module)
    needs = ""
    if task == "asr" and str(config.get("decoder")).endswith("transducer"):
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
        float=FLOAT,
        needs=needs,
        fetch=fetch,
        fetched=f"{fetch}.{fetched}",
    )


def _config(path: Path) -> str:
    text = path.read_text(encoding="utf-8").strip()
    return (
        "## ASR config\n\n<details><summary>expand</summary>\n\n```\n"
        f"{text}\n```\n\n</details>"
    )
