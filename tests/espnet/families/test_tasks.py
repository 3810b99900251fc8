"""A whole training of every task: averaged, packed, decoded by ESPnet's own program."""

import importlib
from functools import partial
from pathlib import Path

import pytest
import soundfile
import yaml
from forked import forked

import espnet_gq.espnet  # noqa: F401 registers
from espnet_gq.espnet.sharing.model_zip import pack_beside
from espnet_gq.espnet.tasks import TASKS
from espnet_gq.packing import load_state_dict, quantized_names
from tests.espnet.families import local
from tests.espnet.families.bases import TRANSLATION
from tests.espnet.families.building import WHOLE
from tests.espnet.families.decoding import OPTIONS
from tests.espnet.families.local import placed
from tests.espnet.families.registry import FAMILIES
from tests.espnet.tiny_task import recordings

EPOCHS = {
    "max_epoch": 2,
    "batch_type": "unsorted",
    "batch_size": 4,
    "optim": "adam",
    "optim_conf": {"lr": 0.002},
    "num_workers": 0,
    "num_att_plot": 0,
    "use_tensorboard": False,
    "keep_nbest_models": 2,
    "best_model_criterion": [["valid", "loss", "min"]],
    "seed": 3,
}
LINES = {
    "asr": {"text": "{word}"},
    "asr_transducer": {"text": "{word}"},
    "slu": {"text": "{word}"},
    "st": {"text": "{translation}", "src_text": "{word}"},
    "s2t": {
        "text": "<eng><asr><notimestamps> {word}",
        "text_prev": "<na>",
        "text_ctc": "{word}",
    },
    "s2t_ctc": {
        "text": "<eng><asr> {word}",
        "text_prev": "<na>",
        "text_ctc": "{word}",
    },
    "lm": {"text": "<unk> <generatetext> {word} one two"},
}
"""Files of a data directory beside the audio, by task: what they say of a recording."""

PROGRAMS = {"s2t_ctc": "espnet2.bin.s2t_inference_ctc"}
"""Inference programs that are not those of the inference class's module."""


@pytest.fixture(scope="module")
def assets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks") / "assets"
    local.make(folder)
    return folder


def data(folder: Path, task: str):
    """Write a data directory; return {name: (file, type)}."""
    folder.mkdir()
    items = list(recordings())[::37][:12]
    files = {name: (folder / name, "text") for name in LINES[task]}
    if task != "lm":
        files["speech"] = (folder / "wav.scp", "sound")
        (folder / "wav.scp").write_text("".join(f"{i} {w}\n" for i, w, _ in items))
    for name, line in LINES[task].items():
        lines = [
            f"{i} {line.format(word=word, translation=TRANSLATION[word])}\n"
            for i, _, word in items
        ]
        (folder / name).write_text("".join(lines))
    lengths = (f"{i} {soundfile.info(str(w)).frames}\n" for i, w, _ in items)
    (folder / "shape").write_text("".join(lengths))
    return files


def train(folder: Path, task: str, config: Path, files) -> None:
    """Run ESPnet's training program."""
    command = ["--config", str(config), "--output_dir", str(folder / "exp")]
    for split in ("train", "valid"):
        for name, (path, kind) in files.items():
            option = f"--{split}_data_path_and_name_and_type"
            command += [option, f"{path},{name},{kind}"]
        command += [f"--{split}_shape_file", str(folder / "data" / "shape")]
    TASKS[task].load().main(cmd=[*command, "--ngpu", "0"])


def decode(folder: Path, task: str, checkpoint: Path, output: Path, files) -> None:
    """Run ESPnet's inference program."""
    known = TASKS[task]
    name = "text" if task == "lm" else "speech"
    path, kind = files[name]
    options = {
        known.config_key: folder / "exp" / "config.yaml",
        known.model_key: checkpoint,
        "output_dir": output,
        "data_path_and_name_and_type": f"{path},{name},{kind}",
        "ngpu": 0,
        "num_workers": 0,
        **OPTIONS[task],
    }
    if "maxlenratio" in options:  # ESPnet 202511 fails on more tokens than frames
        options["maxlenratio"] = -2.0
    command = [word for k, v in options.items() for word in (f"--{k}", str(v))]
    program = PROGRAMS.get(task, known.inference.split(":")[0])
    importlib.import_module(program).main(command)


def whole(folder: Path, task: str, config: Path, files) -> None:
    """Train, average, pack and decode with both forms."""
    train(folder, task, config, files)
    checkpoint = folder / "exp" / "valid.loss.ave.pth"
    decode(folder, task, checkpoint, folder / "hardened", files)
    decode(folder, task, pack_beside(checkpoint), folder / "packed", files)


@pytest.mark.parametrize("task", TASKS)
def test_training(task, tmp_path, assets):
    family = next(f for f in FAMILIES if f.task == task and not f.needs)
    config = placed({**family.config(), **EPOCHS}, assets)
    config["model_conf"] = {**(config.get("model_conf") or {}), "gq_conf": WHOLE}
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(config))
    files = data(tmp_path / "data", task)
    forked(tmp_path, partial(whole, tmp_path, task, path, files))
    checkpoint = tmp_path / "exp" / "valid.loss.ave.pth"
    assert len(quantized_names(load_state_dict(checkpoint))) > 5
    packed, hardened = (
        {
            path.relative_to(tmp_path / form): path.read_text()
            for path in (tmp_path / form).rglob("token_int")
        }
        for form in ("packed", "hardened")
    )
    assert packed and packed == hardened
