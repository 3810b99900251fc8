"""A tiny real ASR task: spoken digits, a two-block Conformer, ESPnet's own trainer."""

import os
import subprocess
import sys
from pathlib import Path

import soundfile
import yaml

ROOT = Path(__file__).resolve().parents[2]
FSDD = ROOT.parent / "shared" / "data" / "fsdd" / "recordings"
SYNTHETIC = ROOT / "egs2" / "fsdd_gq" / "asr1" / "synthetic"
WORDS = "zero one two three four five six seven eight nine".split()
TOKENS = ["<blank>", "<unk>", *WORDS, "<sos/eos>"]


def recordings():
    """Yield (id, path, word) of real recordings, or of the shipped synthetic ones."""
    if FSDD.is_dir():
        for path in sorted(FSDD.glob("*_[5-9].wav")):
            yield path.stem, path, WORDS[int(path.stem.split("_")[0])]
        return
    for transcript in sorted(SYNTHETIC.rglob("*.trans.txt")):
        for line in transcript.read_text().splitlines():
            name, word = line.split()
            yield name, transcript.parent / f"{name}.flac", word.lower()


CONFIG = {
    "encoder": "gq_conformer",
    "encoder_conf": {
        "output_size": 16,
        "attention_heads": 2,
        "linear_units": 32,
        "num_blocks": 2,
        "macaron_style": True,
        "rel_pos_type": "latest",
        "cnn_module_kernel": 7,
        "gq_conf": {"bits": 5},
    },
    "decoder": "gq_transformer",
    "decoder_conf": {
        "attention_heads": 2,
        "linear_units": 32,
        "num_blocks": 1,
        "gq_conf": {"bits": 4},
    },
    "model": "gq_espnet",
    "model_conf": {"ctc_weight": 0.3, "gq_conf": {"bits": 8}},
    "frontend_conf": {"fs": 8000, "n_fft": 256, "hop_length": 128, "n_mels": 20},
    "normalize": "utterance_mvn",
    "batch_type": "unsorted",
    "batch_size": 4,
    "max_epoch": 2,
    "optim": "adam",
    "optim_conf": {"lr": 0.002},
    "num_workers": 0,
    "num_att_plot": 0,
    "use_tensorboard": True,
    "log_interval": 1,
    "seed": 3,
    "keep_nbest_models": 2,
    "best_model_criterion": [["valid", "acc", "max"]],
}


ABSENT = object()
RNNT = {
    "encoder": "gq_rnn",
    "encoder_conf": {
        "bidirectional": False,
        "num_layers": 2,
        "hidden_size": 16,
        "output_size": 16,
        "subsample": [2, 2],
        "gq_conf": {
            "bits": 5,
            "rules": [{"pattern": "*.weight_hh_l0", "bits": 1}],
        },
    },
    "decoder": "gq_transducer",
    "decoder_conf": {"hidden_size": 16, "gq_conf": {"bits": 4}},
    "joint_net_conf": {"joint_space_size": 16},
    "model_conf": {
        "ctc_weight": 0.3,
        "report_cer": False,
        "report_wer": False,
        "gq_conf": {"bits": 8},
    },
    "normalize": None,
    "batch_type": "sorted",  # as ESPnet's RNN encoders need
    "best_model_criterion": [["valid", "loss", "min"]],
}
"""What makes CONFIG an LSTM transducer, in part at 1 bit."""

SECOND_TASK = {
    "encoder": ABSENT,
    "encoder_conf": {
        "main_conf": {"dynamic_chunk_training": True, "short_chunk_size": 5},
        "input_conf": {"vgg_like": False, "conv_size": 16, "subsampling_factor": 4},
        "body_conf": [
            {
                "block_type": "conformer",
                "hidden_size": 16,
                "linear_size": 32,
                "heads": 2,
                "conv_mod_kernel_size": 7,
                "num_blocks": 2,
            }
        ],
        "gq_conf": {"bits": 5},
    },
    "decoder": "gq_rnn",
    "decoder_conf": {"embed_size": 16, "hidden_size": 16, "gq_conf": {"bits": 4}},
    "joint_network_conf": {"joint_space_size": 16},
    "model": ABSENT,
    "model_conf": {"auxiliary_ctc_weight": 0.3, "gq_conf": {"bits": 8}},
    "normalize": None,
    "best_model_criterion": [["valid", "loss", "min"]],
}
"""What makes CONFIG a streaming Conformer of ESPnet's second transducer task."""


class Task:
    """A folder with a data set; trains and decodes in processes of its own."""

    def __init__(self, path: Path, train: int = 40, valid: int = 4):
        self.path = path
        items = list(recordings())
        step = max(1, len(items) // (train + valid))
        items = items[::step][: train + valid]
        for split, part in (("train", items[valid:]), ("valid", items[:valid])):
            folder = path / split
            folder.mkdir(parents=True)
            with (
                open(folder / "wav.scp", "w") as scp,
                open(folder / "text", "w") as text,
                open(folder / "speech_shape", "w") as shape,
            ):
                for name, wav, word in sorted(part):
                    scp.write(f"{name} {wav}\n")
                    text.write(f"{name} {word}\n")
                    shape.write(f"{name} {soundfile.info(str(wav)).frames}\n")
        (path / "tokens.txt").write_text("\n".join(TOKENS) + "\n")

    def config(self, name: str = "train.yaml", **changes) -> Path:
        """Write a configuration; `a__b=c` sets a nested key, ABSENT takes one out."""
        config = yaml.safe_load(yaml.safe_dump(CONFIG))
        for key, value in changes.items():
            *parents, last = key.split("__")
            target = config
            for parent in parents:
                target = target.setdefault(parent, {})
            if value is ABSENT:
                del target[last]
            else:
                target[last] = value
        (self.path / name).write_text(yaml.safe_dump(config))
        return self.path / name

    def arguments(self, config: Path, output: str, *extra: str, asr_task="asr"):
        """Return the command line of a training."""
        data = []
        for split in ("train", "valid"):
            folder = self.path / split
            data += [
                f"--{split}_data_path_and_name_and_type={folder}/wav.scp,speech,sound",
                f"--{split}_data_path_and_name_and_type={folder}/text,text,text",
                f"--{split}_shape_file={folder}/speech_shape",
            ]
        return [
            *[sys.executable, "-m", "espnet_gq", "-m", f"espnet2.bin.{asr_task}_train"],
            *["--config", str(config), "--output_dir", str(self.path / output)],
            *["--token_type", "word", "--token_list", str(self.path / "tokens.txt")],
            *["--ngpu", "0", "--resume", "true", *data, *extra],
        ]

    def train(
        self, config: Path, output: str, *extra: str, check: bool = True, **options
    ):
        """Train to the end; returns the completed process."""
        return run(self.arguments(config, output, *extra, **options), check=check)

    def decode(
        self,
        config: Path,
        model: Path,
        output: str,
        *extra: str,
        launcher=True,
        check=True,
        module="espnet2.bin.asr_inference",
    ):
        """Decode the validation set; returns {file: contents}."""
        done = run(
            [
                *[sys.executable, *(["-m", "espnet_gq"] if launcher else [])],
                *["-m", module, "--asr_train_config", str(config)],
                *["--asr_model_file", str(model), "--ngpu", "0", "--beam_size", "2"],
                *["--data_path_and_name_and_type"],
                f"{self.path}/valid/wav.scp,speech,sound",
                *["--output_dir", str(self.path / output), *extra],
            ],
            check=check,
        )
        if not check:
            return done
        folder = self.path / output / "1best_recog"
        return {f: (folder / f).read_text() for f in ("text", "token", "score")}


def assert_same_results(packed, hardened):
    """Compare what decoding wrote; the packed kernels add in another order."""
    for name in ("text", "token"):
        assert packed[name] == hardened[name]
    for a, b in zip(packed["score"].splitlines(), hardened["score"].splitlines()):
        (utt, score), (other, expected) = (
            line.replace("tensor(", "").replace(")", "").split() for line in (a, b)
        )
        assert utt == other
        assert abs(float(score) - float(expected)) < 1e-4 * abs(float(expected)) + 2e-4


def environment(**extra: str):
    fixed = {
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "CUDA_VISIBLE_DEVICES": "",
    }
    return {**os.environ, **fixed, **extra}


def run(command, check=True, **options):
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        **{"env": environment(), "timeout": 400, **options},
    )
    if check and done.returncode:
        raise AssertionError(f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done
