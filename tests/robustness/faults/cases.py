"""Commands for fault injection, on a task that trains within seconds."""

import functools
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any, Dict

import espnet2.bin.asr_inference as asr_inference
import espnet2.main_funcs.collect_stats  # noqa: F401 - imports once, before all forks
import numpy as np
import soundfile
import torch
from espnet2.tasks.asr import ASRTask

import espnet_gq.espnet  # noqa: F401
from benchmarks import ROOT
from espnet_gq.analysis.sensitivity import Sensitivity
from espnet_gq.bin import (
    allocate,
    filter_data_dir,
    format_wav_scp,
    pack,
    report,
    score,
    sensitivity,
    token_list,
    zip_model,
)
from tests.espnet.tiny_task import ABSENT, Task
from tests.robustness.faults.runner import Case, Damaged, digest_of, hashed

torch.set_num_threads(1)

EPOCHS = 3
SMALL: Dict[str, Any] = {
    "encoder_conf__num_blocks": 1,
    "max_epoch": EPOCHS,
    "keep_nbest_models": 2,
    "nbest_averaging_interval": 2,
    "use_tensorboard": False,  # its logs grow line by line
    "use_matplotlib": False,
}
STEPS = {"annealing": {"steps": 6}}
"""Steps of the whole training, so that shorter trainings are prefixes of it."""
QUANTIZED = {
    "encoder_conf__gq_conf": {"bits": 5, **STEPS},
    "decoder_conf__gq_conf": {"bits": 2, **STEPS},
    "model_conf__gq_conf": {"bits": 8, **STEPS},
}
FLOAT = {
    **{"encoder": "conformer", "decoder": "transformer", "model": "espnet"},
    **{f"{part}_conf__gq_conf": ABSENT for part in ("encoder", "decoder", "model")},
}
OTHERS = {
    "encoder_conf__gq_conf": {"bits": 3, "method": "free", **STEPS},
    "decoder_conf__gq_conf": {"bits": 2, "method": "dkm", **STEPS},
    "model_conf__gq_conf": {"bits": 4, "method": "lloyd_max", **STEPS},
}
CONFIGS: Dict[str, Dict[str, Any]] = {
    "gq": QUANTIZED,
    "float": FLOAT,
    "methods": OTHERS,
    "plots": {**QUANTIZED, "use_matplotlib": True, "max_epoch": 1},
}
RECIPE = ROOT / "egs2" / "fsdd_gq" / "asr1"
STUB = """#!/usr/bin/env bash
set -eu
while [ $# -gt 0 ]; do
    case $1 in
        --output_dir) output=$2 ;;
        --key_file) keys=$2 ;;
    esac
    shift
done
[ -n "${keys:-}" ] || exit 0  # another tool
mkdir -p "${output}/1best_recog"
for name in token token_int score text; do
    cp "${keys}" "${output}/1best_recog/${name}"
done
"""
"""A fast decoder: the text of each utterance is the path of its file."""


class Commands:
    """The commands; their inputs are made once, in new processes."""

    def __init__(self, work: Path):
        self.task = Task(work / "task", train=8, valid=2)
        self.configs = {
            name: self.task.config(f"{name}.yaml", **{**SMALL, **changes})
            for name, changes in CONFIGS.items()
        }

    def _finished(self, config: str) -> Path:
        """Return the folder of a finished training, which all processes share."""
        folder = self.task.path / f"trained_{config}"
        if not folder.exists():
            self.task.train(self.configs[config], folder.name)
        return folder

    @property
    def trained(self) -> Path:
        """Folder of a finished training."""
        return self._finished("gq")

    @property
    def trained_float(self) -> Path:
        """Folder of a finished training of the float model."""
        return self._finished("float")

    def train(self, folder: Path, config: str = "gq", epochs: int = EPOCHS) -> None:
        extra = [] if config == "plots" else ["--max_epoch", str(epochs)]
        command = self.task.arguments(self.configs[config], str(folder), *extra)
        ASRTask.main(cmd=command[5:])

    def pack(self, folder: Path, form: str = "packed") -> None:

        model = ["--asr_model_file", str(folder / "valid.acc.ave.pth")]
        pack.main([*model, "--format", form])

    def zip(self, folder: Path) -> None:
        zip_model.main(
            [
                *["--asr_train_config", str(folder / "config.yaml")],
                *["--asr_model_file", str(folder / "valid.acc.ave.packed.pth")],
                *["--outpath", str(folder / "model.zip"), "--recipe", "tiny/asr1"],
            ]
        )

    def decode_another(self, folder: Path) -> None:
        """Decode with the first epoch that the training kept."""
        self.decode(folder, min(self.trained.glob("[0-9]epoch.pth")).name)

    def decode(self, folder: Path, model: str = "valid.acc.ave.pth") -> None:
        asr_inference.main(
            [
                *["--asr_train_config", str(self.trained / "config.yaml")],
                *["--asr_model_file", str(self.trained / model)],
                *["--ngpu", "0", "--beam_size", "2", "--num_workers", "0"],
                "--data_path_and_name_and_type",
                f"{self.task.path}/valid/wav.scp,speech,sound",
                *["--output_dir", str(folder)],
            ]
        )

    def report(self, folder: Path) -> None:

        model = self.trained / "valid.acc.ave.pth"
        plots = [
            "--json",
            str(folder / "report.json"),
            "--plots",
            str(folder / "plots"),
        ]
        report.main([str(model), *plots])

    def sensitivity(self, folder: Path) -> None:

        data = self.task.path / "valid"
        sensitivity.main(
            [
                *["--asr_model_file", str(self.trained_float / "valid.acc.ave.pth")],
                *["--data_path_and_name_and_type", f"{data}/wav.scp,speech,sound"],
                *["--data_path_and_name_and_type", f"{data}/text,text,text"],
                *["--bits", "2,4", "--output", str(folder / "sensitivity.json")],
            ]
        )

    def allocate(self, folder: Path) -> None:

        target = ["--output", str(folder / "chosen.yaml")]
        budget = ["--effective_bits", "3"]
        allocate.main([str(folder / "sensitivity.json"), *budget, *target])

    def format(self, folder: Path) -> None:

        org, out = str(folder / "org"), str(folder / "out")
        format_wav_scp.main(["--dir", str(folder / "data"), org, "--fs", "8k"])
        filter_data_dir.main(
            [
                *["--dir", org, out, "--fs", "8k"],
                *["--min_wav_duration", "0.01", "--max_wav_duration", "20"],
            ]
        )

    def tokens(self, folder: Path) -> None:

        token_list.main([str(folder / "text"), "--dir", str(folder), "--nbpe", "24"])

    def score(self, folder: Path) -> None:

        names = ["set", "--asr_exp", str(folder), "--inference_tag", "decoded"]
        score.main([*names, "--data_feats", str(folder / "data"), "--scorer", "jiwer"])

    def recipe(self, folder: Path, *options: str) -> None:
        """Run the recipe's driver with STUB instead of Python."""
        stub = folder.parent / "stub"
        stub.write_text(STUB)
        stub.chmod(0o755)
        subprocess.run(
            [
                *["./asr.sh", "--python", str(stub), "--dumpdir", f"{folder}/dump"],
                *["--asr_exp", f"{folder}/exp", "--test_sets", "set", *options],
                *["--inference_nj", "2", "--inference_tag", "decoded"],
            ],
            cwd=RECIPE,
            check=True,
        )

    def recipe_text(self, folder: Path) -> None:
        sets = ["--train_set", "train", "--valid_set", "dev"]
        self.recipe(folder, "--stage", "4", "--stop_stage", "4", *sets)

    def recipe_decode(self, folder: Path) -> None:
        stages = ["--stage", "12", "--stop_stage", "12"]
        self.recipe(folder, "--skip_train", "true", *stages)

    # --- initial contents of the folder ----------------------------------------------

    def text(self, folder: Path) -> None:
        words = "zero one two three four five six seven eight nine".split()
        lines = (f"u{i} {words[i % 10]} {words[i * 7 % 10]}\n" for i in range(40))
        (folder / "text").write_text("".join(lines))

    def data(self, folder: Path) -> None:
        data = folder / "data"
        data.mkdir()
        draw = np.random.default_rng(0)
        scp, text, speakers = "", "", ""
        for name in ("u1", "u2", "u3"):
            soundfile.write(data / f"{name}.wav", 0.1 * draw.normal(size=4000), 16000)
            scp += f"{name} {data / name}.wav\n"
            text += f"{name} one two\n"
            speakers += f"{name} u\n"
        (data / "wav.scp").write_text(scp)
        (data / "text").write_text(text)
        (data / "utt2spk").write_text(speakers)

    def decoded(self, folder: Path) -> None:
        (folder / "data" / "set").mkdir(parents=True)
        (folder / "decoded" / "set").mkdir(parents=True)
        self.text(folder / "data" / "set")
        lines = (folder / "data" / "set" / "text").read_text()
        (folder / "decoded" / "set" / "text").write_text(lines.replace("two", "one"))
        utterances = [line.split()[0] for line in lines.splitlines()]
        speakers = "".join(f"{u} u\n" for u in utterances)
        (folder / "data" / "set" / "utt2spk").write_text(speakers)


def _results_digest(path: Path) -> Any:
    if path.name == "RESULTS.md":
        lines = path.read_text().splitlines()
        return hashed([line for line in lines if "date" not in line])
    return digest_of(path)


def _sensitivity_digest(path: Path) -> Any:
    if path.name == "sensitivity.json":
        Sensitivity.read(path)
    return digest_of(path)


def _zip_digest(path: Path) -> Any:
    """Return names and checksums, without checksums of dated entries."""
    if path.suffix != ".zip":
        return digest_of(path)
    with zipfile.ZipFile(path) as archive:
        if archive.testzip():
            raise Damaged(f"{archive.testzip()} in {path.name}")
        entries = [(e.filename, e.CRC) for e in archive.infolist()]
    dated = ("meta.yaml", "float.zip", "README.md")
    return hashed([(n, 0 if n in dated else crc) for n, crc in entries])


def _recipe_digest(path: Path) -> Any:
    return "" if "logdir" in path.parts else digest_of(path)


def all_cases(work: Path) -> Dict[str, Case]:
    """Return all cases by name."""
    c = Commands(work)
    partial = functools.partial

    def nothing(folder: Path) -> None:
        """Start with an empty folder."""

    def model(folder: Path) -> None:
        for name in ("config.yaml", "valid.acc.ave.pth"):
            shutil.copy(c.trained / name, folder / name)

    def packed_before(folder: Path, form: str) -> None:
        model(folder)
        shutil.copy(c.trained / "latest.pth", folder / "valid.acc.ave.pth")
        c.pack(folder, form)
        model(folder)

    def measured(folder: Path) -> None:
        c.sensitivity(folder)
        (folder / "chosen.yaml").write_text("encoder_conf: {}\n")

    def zipped_before(folder: Path) -> None:
        packed_before(folder, "packed")
        c.zip(folder)
        c.pack(folder)

    def dumped(folder: Path) -> None:
        for name in ("org/train", "set"):
            (folder / "dump" / "raw" / name).mkdir(parents=True)
            c.text(folder / "dump" / "raw" / name)
        (folder / "dump/raw/set/text").rename(folder / "dump/raw/set/wav.scp")
        (folder / "dump/raw/lm_train.txt").write_text("u1 one\n")
        (folder / "exp/decoded/set").mkdir(parents=True)
        (folder / "exp/decoded/set/text").write_text("u1 one\n")

    def training(name: str, config: str) -> Case:
        run = partial(c.train, config=config)
        parts = [partial(run, epochs=epochs) for epochs in range(1, EPOCHS)]
        return Case(name, nothing, run, parts)

    cases = [
        training("train", "gq"),
        training("train_float", "float"),
        training("train_others", "methods"),
        Case("train_more", partial(c.train, epochs=EPOCHS - 1), c.train),
        Case("train_plots", nothing, partial(c.train, config="plots")),
        Case("pack", partial(packed_before, form="packed"), c.pack),
        Case(
            "pack_float",
            partial(packed_before, form="float"),
            partial(c.pack, form="float"),
        ),
        Case("zip", zipped_before, c.zip, digest=_zip_digest),
        Case("decode", c.decode_another, c.decode),
        Case("report", nothing, c.report),
        Case(
            "sensitivity",
            nothing,
            c.sensitivity,
            digest=_sensitivity_digest,
            any_version=["sensitivity.json"],
        ),
        Case("allocate", measured, c.allocate),
        Case("format", c.data, c.format),
        Case("tokens", c.text, c.tokens),
        Case("recipe_text", dumped, c.recipe_text),
        Case("recipe_decode", dumped, c.recipe_decode, digest=_recipe_digest),
        Case("score", c.decoded, c.score, digest=_results_digest),
    ]
    return {case.name: case for case in cases}
