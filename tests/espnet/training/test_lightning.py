"""QAT where Lightning trains: ESPnet's `use_lightning`, ESPnet3, any other script."""

import csv
import importlib.util
from argparse import Namespace
from functools import partial

import pytest
import torch
import yaml
from forked import forked
from tiny_task import TOKENS, Task
from torch import nn
from torch.utils.data import DataLoader, IterableDataset
from untrained import build

from espnet_gq.analysis.size import describe
from espnet_gq.nn import GQConfigError, prepare
from espnet_gq.nn.finite import NotFiniteError
from espnet_gq.packing import load_state_dict, quantized_names

lightning = pytest.importorskip(
    "lightning", reason="lightning is not installed (pip install espnet-gq[lightning])"
)
from lightning.pytorch.strategies import Strategy  # noqa: E402
from lightning_runs import EPOCHS, train_all  # noqa: E402

from espnet_gq.espnet.training.lightning import (  # noqa: E402
    GQCallback,
    configure_callbacks,
)

needs_espnet3 = pytest.mark.skipif(
    importlib.util.find_spec("espnet3") is None, reason="ESPnet3 came with 202611"
)
BATCHES = 5
# Lightning keeps no state of the random numbers: dropout would differ after a resume.
EXACT = {
    "encoder_conf__dropout_rate": 0.0,
    "encoder_conf__positional_dropout_rate": 0.0,
    "encoder_conf__attention_dropout_rate": 0.0,
    "decoder_conf__dropout_rate": 0.0,
    "decoder_conf__positional_dropout_rate": 0.0,
    "decoder_conf__self_attention_dropout_rate": 0.0,
    "decoder_conf__src_attention_dropout_rate": 0.0,
}
DATASET = """
import soundfile
from espnet3.components.data.base_dataset import BaseDataset
from espnet3.contract import Field


class Dataset(BaseDataset):
    fields = (Field("speech", "audio"), Field("text", "text"))

    def __init__(self, folder):
        self.wavs, self.texts = (
            [line.split(maxsplit=1)[1].strip() for line in open(f"{folder}/{name}")]
            for name in ("wav.scp", "text")
        )

    def __len__(self):
        return len(self.wavs)

    def __getitem__(self, index):
        speech = soundfile.read(self.wavs[int(index)], dtype="float32")[0]
        return {"speech": speech, "text": self.texts[int(index)]}
"""


def esp2_asr(folder, model):
    """Write what a recipe of egs3 has: its data set, and its training configuration."""
    (folder / "dataset").mkdir()
    (folder / "dataset" / "__init__.py").write_text(DATASET)
    loader = {}
    for split in ("train", "valid"):
        shapes = (folder / split / "speech_shape").read_text().splitlines()
        indexed = [f"{i} {line.split()[1]}\n" for i, line in enumerate(shapes)]
        (folder / split / "indexed_shape").write_text("".join(indexed))
        loader[split] = {
            "iter_factory": {
                "_target_": "espnet2.iterators.sequence_iter_factory."
                "SequenceIterFactory",
                "shuffle": split == "train",
                "collate_fn": "${dataloader.collate_fn}",
                "batches": {
                    "type": "unsorted",
                    "batch_size": 4,
                    "batch_bins": 1000000,
                    "shape_files": [f"{folder}/{split}/indexed_shape"],
                },
            }
        }
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir()
    for name in ("bpe.model", "bpe.vocab"):  # there, so that none is trained
        (tokenizer / name).touch()
    config = {
        "task": "espnet3.systems.esp2_asr.task.ASRTask",
        "num_device": 1,
        "num_nodes": 1,
        "recipe_dir": str(folder),
        "exp_dir": f"{folder}/esp2_asr",
        "tokenizer": {"model_type": "bpe", "save_path": str(tokenizer)},
        "dataset": {
            "_target_": "espnet3.components.data.data_organizer.DataOrganizer",
            "_recursive_": False,
            "recipe_dir": str(folder),
            "train": [{"data_src_args": {"folder": f"{folder}/train"}}],
            "valid": [{"data_src_args": {"folder": f"{folder}/valid"}}],
            "preprocessor": {
                "_target_": "espnet2.train.preprocessor.CommonPreprocessor",
                "token_type": "word",
                "token_list": f"{folder}/tokens.txt",
            },
        },
        "model": {**model, "init_param": [f"{folder}/float.pth"]},
        "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.002},
        "scheduler": {
            "_target_": "espnet2.schedulers.warmup_lr.WarmupLR",
            "warmup_steps": 5,
        },
        "best_model_criterion": [["valid/loss", 2, "min"]],
        "seed": 1,
        "dataloader": {
            "collate_fn": {
                "_target_": "espnet2.train.collate_fn.CommonCollateFn",
                "int_pad_value": -1,
            },
            **loader,
        },
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "num_nodes": 1,
            "accumulate_grad_batches": 2,
            "gradient_clip_val": 1.0,
            "log_every_n_steps": 1,
            "max_epochs": EPOCHS,
            "callbacks": [
                {
                    "_target_": "lightning_runs.Probe",
                    "begin": f"{folder}/esp2_asr.begin.pth",
                }
            ],
            "logger": [
                {
                    "_target_": "lightning.pytorch.loggers.CSVLogger",
                    "save_dir": f"{folder}/esp2_asr",
                }
            ],
            "strategy": "auto",
        },
        "fit": {},
    }
    (folder / "esp2_asr.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder of finished trainings (see lightning_runs.py)."""
    task = Task(tmp_path_factory.mktemp("lightning"), train=20)
    config = task.config(**EXACT)
    given = yaml.safe_load(config.read_text())
    names = ("encoder", "decoder", "model", "frontend", "normalize")
    model = {k: v for k, v in given.items() if k.removesuffix("_conf") in names}
    for part in ("encoder", "decoder", "model"):
        del given[f"{part}_conf"]["gq_conf"]
        given[part] = given.get(part).removeprefix("gq_")
    (task.path / "float.yaml").write_text(yaml.safe_dump(given))
    net, _ = build(task, task.path / "float.yaml")
    torch.save(net.state_dict(), task.path / "float.pth")
    if importlib.util.find_spec("espnet3"):
        esp2_asr(task.path, {**model, "token_list": TOKENS})
    forked(task.path, partial(train_all, task.path))
    return task.path


def read(path):
    """Return what Lightning wrote; the file is the test's own."""
    return torch.load(path, weights_only=False)


def annealed(state):
    """Return {(fitted, step, total steps)} of the quantizers in a state dict."""
    saved = [v for k, v in state.items() if k.endswith("_quantizer.saved_state")]
    assert saved
    return {tuple(round(v) for v in values[1:].tolist()) for values in saved}


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    return torch.equal(a, b) if torch.is_tensor(a) else a == b


@pytest.mark.parametrize(
    "run, prefix, steps",
    [
        ("whole", "model.", EPOCHS * BATCHES),
        # Gradients of two batches make a step, the fifth batch makes one of its own.
        pytest.param("esp2_asr", "", EPOCHS * 3, marks=needs_espnet3),
    ],
)
def test_it_starts_from_the_float_checkpoint_and_counts_steps(
    folder, run, prefix, steps
):
    source = torch.load(folder / "float.pth")
    begin = read(folder / f"{run}.begin.pth")
    for name, weight in source.items():
        assert torch.equal(begin[prefix + name], weight), name
    assert annealed(begin) == {(1, 0, 0)}
    last = read(folder / run / "last.ckpt")
    assert last["global_step"] == steps
    assert annealed(last["state_dict"]) == {(1, steps, steps)}
    assert not torch.equal(
        last["state_dict"][f"{prefix}ctc.ctc_lo.weight"], source["ctc.ctc_lo.weight"]
    )


def test_resume_is_exact(folder):
    whole, killed = (read(folder / run / "last.ckpt") for run in ("whole", "killed"))
    assert same(dict(whole["state_dict"]), dict(killed["state_dict"]))
    assert same(whole["optimizer_states"], killed["optimizer_states"])


@pytest.mark.parametrize(
    "run", ["whole", pytest.param("esp2_asr", marks=needs_espnet3)]
)
def test_averages_are_quantized_checkpoints(folder, run):
    (average,) = (folder / run).glob("valid.loss.ave_*best.pth")
    assert describe(average).format == "qat"
    state = load_state_dict(average)
    assert {name for name in quantized_names(state)} >= {"ctc.ctc_lo.weight"}
    assert len(annealed(state)) == 1


@pytest.mark.parametrize(
    "module, hook",
    [
        ("espnet2.train.lightning_callbacks", "on_fit_end"),
        pytest.param(
            "espnet3.components.callbacks.default_callbacks",
            "on_validation_end",
            marks=needs_espnet3,
        ),
    ],
)
def test_averages_are_written_atomically(tmp_path, module, hook):
    callback_class = importlib.import_module(module).AverageCheckpointsCallback
    best = {}
    for name, value in (("1.ckpt", 1.0), ("2.ckpt", 3.0)):
        state = {"state_dict": {"model.weight": torch.tensor([value])}}
        torch.save(state, tmp_path / name)
        best[str(tmp_path / name)] = None
    kept = Namespace(best_k_models=best, monitor="valid/loss")
    path = tmp_path / "valid.loss.ave_2best.pth"
    path.write_bytes(b"the average before")
    (tmp_path / "same file").hardlink_to(path)
    model = nn.Linear(1, 1, bias=False)
    callback = callback_class(str(tmp_path), [kept])
    getattr(callback, hook)(Namespace(is_global_zero=True), model)
    assert load_state_dict(path)["weight"].item() == 2.0
    assert (tmp_path / "same file").read_bytes() == b"the average before"


def test_figures_are_logged(folder):
    (events,) = (folder / "whole" / "lightning_logs").rglob("events.*")
    names = (b"train/gq_temperature", b"valid/gq_temperature", b"valid/gq_settled")
    for name in (*names, b"valid/gq_soft_hard_gap", b"valid/gq_effective_bits"):
        assert name in events.read_bytes(), name


@needs_espnet3
def test_figures_are_logged_by_espnet3(folder):
    (log,) = (folder / "esp2_asr" / "lightning_logs").rglob("metrics.csv")
    rows = list(csv.DictReader(log.open()))
    first, *_, last = [
        float(row["train/gq_temperature"])
        for row in rows
        if row["train/gq_temperature"]
    ]
    assert 3 <= first < last < 50
    bits = [row["valid/gq_effective_bits"] for row in rows]
    assert 4 < float(next(b for b in bits if b)) < 6


class Net(lightning.LightningModule):
    """Any Lightning module: it need not be ESPnet's."""

    def __init__(self, gq_conf=None):
        super().__init__()
        net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
        self.net = net if gq_conf is None else prepare(net, gq_conf)

    def training_step(self, batch, batch_idx):
        return self.net(batch).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("valid/loss", self.net(batch).square().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self):
        return DataLoader(torch.randn(30, 4), batch_size=3)

    def val_dataloader(self):
        return DataLoader(torch.randn(3, 4), batch_size=3)


def trainer(**options):
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar")
    quiet = dict.fromkeys((*quiet, "enable_model_summary"), False)
    return lightning.Trainer(accelerator="cpu", **{**quiet, "max_epochs": 2, **options})


@pytest.mark.parametrize(
    "options, steps",
    [
        ({}, 20),
        ({"accumulate_grad_batches": 3}, 8),
        ({"max_steps": 10}, 10),
        ({"precision": "bf16-mixed"}, 20),
    ],
    ids=str,
)
def test_any_module_is_annealed_to_the_end(options, steps):
    module, callback = Net({"bits": 3}), GQCallback()
    fitting = trainer(callbacks=[callback], **options)
    fitting.fit(module)
    assert annealed(module.state_dict()) == {(1, steps, steps)}
    quantizer = module.net[0].weight_quantizer
    assert quantizer.alpha == pytest.approx(quantizer.annealing.end)
    assert fitting.callback_metrics["valid/gq_effective_bits"] == 3
    # A second training begins anew and counts every step once.
    trainer(callbacks=[callback], max_epochs=1).fit(module)
    assert annealed(module.state_dict()) == {(1, 10, 10)}


def test_weights_that_are_not_finite_are_named():
    module = Net({"bits": 3})
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=1e38)
    with pytest.raises(NotFiniteError, match="in net.0.weight, .*allowed: finite"):
        trainer(callbacks=[GQCallback()]).fit(module)


def test_the_length_of_the_annealing_may_be_given():
    module = Net({"bits": 3, "annealing": {"steps": 5}})
    trainer(callbacks=[GQCallback()]).fit(module)
    assert annealed(module.state_dict()) == {(1, 20, 5)}


def test_a_float_model_trains_as_without_the_callback():
    module = Net()
    fitting = trainer(callbacks=[GQCallback()])
    fitting.fit(module)
    assert not any("gq_" in name for name in fitting.callback_metrics)


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield torch.randn(4)


def test_a_training_of_unknown_length_is_refused():
    module = Net({"bits": 3})
    module.train_dataloader = lambda: DataLoader(Endless(), batch_size=3)
    with pytest.raises(ValueError, match="steps is not set and the length"):
        trainer(callbacks=[GQCallback()]).fit(module)


@pytest.mark.parametrize(
    "gq_conf, options, words",
    [
        ({}, {"max_epochs": 2}, []),
        ({}, {"max_epochs": 4}, ["20 steps are trained at the final temperature"]),
        ({}, {"max_steps": 25, "max_epochs": -1}, ["now at step 25: 5 steps are"]),
        (
            {"annealing": {"steps": 40}},
            {"max_epochs": 4},
            ["20 optimizer steps and con"],
        ),
        (
            {"annealing": {"steps": 80}},
            {"max_epochs": 4},
            [
                "continues over 80",
                "training at step 40",
                "ended at optimizer step 40 of 80",
            ],
        ),
    ],
    ids=str,
)
def test_a_training_that_is_resumed_with_another_length(
    tmp_path, caplog, gq_conf, options, words
):
    first = trainer(callbacks=[GQCallback()])
    first.fit(Net({"bits": 5}))
    first.save_checkpoint(tmp_path / "a.ckpt")
    assert not [r for r in caplog.records if "GQ:" in r.getMessage()]
    resumed = trainer(callbacks=[GQCallback()], **options)
    resumed.fit(Net({"bits": 5, **gq_conf}), ckpt_path=tmp_path / "a.ckpt")
    said = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    said = [message for message in said if message.startswith("GQ:")]
    assert len(said) == len(words)
    assert all(word in message for word, message in zip(words, said)), said


def test_a_strategy_that_cuts_weights_is_refused():
    fitting = trainer()
    fitting.strategy.__class__ = type("FSDPStrategy", (Strategy,), {})
    with pytest.raises(GQConfigError, match="strategy is FSDPStrategy .* or ddp"):
        GQCallback().setup(fitting, Net({"bits": 3}), "fit")
    GQCallback().setup(fitting, Net(), "fit")


def test_a_method_is_told_how_gradients_are_made():
    penalty, plain = (Net({"bits": 3, "method": m}) for m in ("lloyd_max", "gq"))
    accumulated = trainer(accumulate_grad_batches=2)
    scaled = trainer()
    scaled.strategy.precision_plugin.precision = "16-mixed"  # of a GPU
    for fitting, message in (
        (
            accumulated,
            "accumulate_grad_batches 2: method lloyd_max .* allowed: 1 batch",
        ),
        (scaled, "precision is 16-mixed .* allowed: float32 or bfloat16"),
    ):
        with pytest.raises(GQConfigError, match=message):
            GQCallback().setup(fitting, penalty, "fit")
        GQCallback().setup(fitting, plain, "fit")
    GQCallback().setup(trainer(precision="bf16-mixed"), penalty, "fit")


def attached(module, *callbacks):
    """Return the GQCallbacks of a training of the module."""
    fitting = trainer(callbacks=list(callbacks))
    module.trainer = fitting
    fitting.strategy.connect(module)
    fitting._callback_connector._attach_model_callbacks()
    return [c for c in fitting.callbacks if isinstance(c, GQCallback)]


def test_a_module_of_espnet_brings_one_callback():
    class Module(Net):
        args = Namespace(init_param=["a.pth"], ignore_init_mismatch=True)
        configure_callbacks = configure_callbacks(Net.configure_callbacks)

    (brought,) = attached(Module({"bits": 3}))
    assert brought.init_param == ["a.pth"] and brought.ignore_init_mismatch
    assert attached(Module()) == []
    mine = GQCallback()
    assert attached(Module({"bits": 3}), mine) == [mine]
