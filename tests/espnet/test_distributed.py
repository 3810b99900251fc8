"""Several processes, through ESPnet's own code, train as one on the same batches."""

import os
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from espnet2.tasks.asr import ASRTask
from espnet2.train.distributed_utils import get_node_rank, resolve_distributed_mode
from forked import forked
from tiny_task import RNNT, Task
from torch.optim.optimizer import register_optimizer_step_pre_hook

import espnet_gq.espnet  # noqa: F401

STEPS = 4
SAMPLES = 4000
# Steps amplify rounding by the slope of the soft assignment: it stays gentle here.
GQ = {"bits": 4, "annealing": {"end": 5.0}}
TRANSFORMER = {
    "encoder": "gq_transformer",
    "encoder_conf": {
        "output_size": 16,
        "attention_heads": 2,
        "linear_units": 32,
        "num_blocks": 1,
        "dropout_rate": 0.0,
        "positional_dropout_rate": 0.0,
        "attention_dropout_rate": 0.0,
        # A step that does not quantize must not leave parameters without a gradient.
        "gq_conf": {**GQ, "every": 2, "rules": [{"pattern": "*.w_1", "bits": 2}]},
    },
    "decoder_conf": {
        "attention_heads": 2,
        "linear_units": 32,
        "num_blocks": 1,
        "dropout_rate": 0.0,
        "positional_dropout_rate": 0.0,
        "self_attention_dropout_rate": 0.0,
        "src_attention_dropout_rate": 0.0,
        "gq_conf": GQ,
    },
    "model_conf": {"ctc_weight": 0.3, "gq_conf": GQ},
}
TRANSDUCER = {
    **RNNT,
    "encoder_conf": {**RNNT["encoder_conf"], "dropout": 0.0},
    "decoder_conf": {
        **{"hidden_size": 16, "dropout": 0.0, "dropout_embed": 0.0},
        "gq_conf": {**GQ, "annealing": {"end": 5.0, "warmup_steps": 1}},
    },
    "model_conf": {**RNNT["model_conf"], "gq_conf": GQ},
}


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """A task whose recordings all have the same length."""
    task = Task(tmp_path_factory.mktemp("distributed"), train=14)
    for split in ("train", "valid"):
        folder = task.path / split
        scp, shapes = [], []
        for line in (folder / "wav.scp").read_text().splitlines():
            name, wav = line.split()
            samples, rate = soundfile.read(wav)
            soundfile.write(folder / f"{name}.wav", np.resize(samples, SAMPLES), rate)
            scp.append(f"{name} {folder}/{name}.wav\n")
            shapes.append(f"{name} {SAMPLES}\n")
        (folder / "wav.scp").write_text("".join(scp))
        (folder / "speech_shape").write_text("".join(shapes))
    return task


def train(task, config, world, rank):
    """Train as a process of ESPnet's does; keep the gradients and what comes out."""
    models, gradients = [], []
    build = ASRTask.build_model

    def build_model(args):
        models.append(build(args))
        return models[-1]

    def keep(*_):
        grads = {n: p.grad.clone() for n, p in models[0].named_parameters()}
        gradients.append(grads)

    ASRTask.build_model = build_model
    register_optimizer_step_pre_hook(keep)
    name = f"{config.stem}{world}"
    place = f"--dist_backend gloo --dist_init_method file://{task.path}/.{name}"
    options = f"{place} --dist_world_size {world} --dist_rank {rank}".split()
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # 202511 takes it for a rank
    _, *arguments = task.arguments(config, name, *(options if world > 1 else []))
    ASRTask.main(cmd=arguments[4:])  # without python3 -m espnet_gq -m
    kept = {"model": dict(models[0].state_dict()), "gradients": gradients}
    torch.save(kept, task.path / f"{name}.{rank}")


def distance(a, b):
    return float((a.double() - b.double()).norm())


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("changes", [TRANSFORMER, TRANSDUCER], ids=["att", "rnnt"])
def test_processes_train_as_one(task, changes, request):
    """ESPnet divides a batch of N utterances among W processes.

    Process i has the mean loss of its n_i utterances and multiplies it by W n_i / N;
    the mean of the gradients over the processes is that of the mean loss of all N. So
    it is where an utterance's loss does not depend on the others in its batch: not with
    batch normalization, nor with dropout, nor where convolutions see padding.
    """
    config = task.config(
        f"{request.node.callspec.id}.yaml",
        **{
            **changes,
            "batch_size": 7,  # 4 + 3, and 2 + 2 + 2 + 1
            "optim": "sgd",
            "optim_conf": {"lr": 0.05},
            "grad_clip": 1000.0,
            "keep_nbest_models": 1,
            "use_tensorboard": False,
            "use_matplotlib": False,
        },
    )
    runs = {}
    for world in (1, 2, 4):
        calls = [partial(train, task, config, world, rank) for rank in range(world)]
        forked(task.path, *calls)
        files = [task.path / f"{config.stem}{world}.{rank}" for rank in range(world)]
        runs[world] = [torch.load(file) for file in files]
    (one,) = runs.pop(1)
    states = [k for k in one["model"] if k.endswith("_quantizer.saved_state")]
    assert len(states) > 5
    for many in runs.values():
        first, *others = many
        assert all(same(first["model"], other["model"]) for other in others)
        for name in states:  # bits, fitted, step, total steps
            assert torch.equal(first["model"][name], one["model"][name])
            assert first["model"][name][1:].tolist() == [1, STEPS, STEPS]
        assert len(one["gradients"]) == len(first["gradients"]) == STEPS
        for step, (a, b) in enumerate(zip(one["gradients"], first["gradients"])):
            assert a.keys() == b.keys()
            for name in a:
                share = 1e-5 if step == 0 else 1e-3
                # The biases of the attention's keys have no gradient but rounding.
                bound = share * float(a[name].norm()) + 1e-8
                assert distance(a[name], b[name]) < bound, (step, name)
        for name, value in one["model"].items():
            bound = 1e-5 * float(value.double().norm()) + 1e-7
            assert distance(value, first["model"][name]) < bound, name
    trained = [n for n in one["gradients"][0] if n.endswith("_quantizer.log_scale")]
    for name in trained:
        assert any(gradients[name].norm() > 0 for gradients in one["gradients"]), name


SCRIPTS = {
    # Kaldi's: options with a value each, the log, the command.
    "slurm.pl": """
        while [[ $1 == --* ]]; do shift 2; done
        log=$1
        shift
        "$@" > "$log" 2>&1
    """,
    "srun": """
        shift  # --export=ALL
        export SLURM_NTASKS=2 SLURM_STEP_NUM_NODES=2 SLURM_STEP_NODELIST=node[1-2]
        for node in 0 1; do
            SLURM_PROCID=$node SLURM_NODEID=$node SLURM_LOCALID=0 "$@" &
        done
        wait
    """,
    "mpirun": """
        shift 2  # -np 2
        for rank in 0 1; do MPI_RANK=$rank "$@" & done
        wait
    """,
    "ssh": 'shift; eval "$*"',
    "record": """
        { printf '%s\\0' "$@"; } > "$RECORDS/$$.args"
        { env -0 | grep -z -E '^(SLURM|MPI)_'; true; } > "$RECORDS/$$.env"
    """,
}
"""What stands in for a cluster, and for the program that is started on it."""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A folder to work in, with everything of SCRIPTS on the PATH."""
    for name, text in {**SCRIPTS, "queue.pl": SCRIPTS["slurm.pl"]}.items():
        script = tmp_path / "bin" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(f"#!/usr/bin/env bash\n{text}")
        script.chmod(0o755)
    (tmp_path / "run.pl").symlink_to(tmp_path / "bin" / "slurm.pl")
    (tmp_path / "path.sh").touch()
    (tmp_path / "records").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("RECORDS", str(tmp_path / "records"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "options, processes, processes_each",
    [
        ("--cmd ./run.pl --ngpu 0", 1, 1),
        ("--cmd ./run.pl --ngpu 2", 1, 2),
        ("--cmd slurm.pl --ngpu 0 --num_nodes 2", 2, 1),
        ("--cmd slurm.pl --ngpu 2 --num_nodes 2", 2, 2),
        ("--cmd queue.pl --ngpu 2 --num_nodes 2", 2, 2),
        ("--host node1,node2 --ngpu 0", 2, 1),
    ],
    ids=str,
)
def test_back_ends_start_the_launcher(
    cluster, task, options, processes, processes_each, monkeypatch
):
    """Back ends of cmd.sh hand a training to the nodes, under python3 -m espnet_gq."""
    from espnet2.bin import launch

    _, *training = task.arguments(task.config(), "launched")
    cut = training.index("--ngpu")  # as in asr.sh, where the launcher gives it
    training = ["record", *training[:cut], *training[cut + 2 :]]
    own = "--log train.log --init_file_prefix exp/.dist_init_"
    launch.main([*options.split(), *own.split(), "--", *training])
    records = sorted((cluster / "records").glob("*.args"))
    assert len(records) == processes
    ranks, places = set(), set()
    for record in records:
        program = record.read_text().split("\0")[:-1]
        assert program[: len(training) - 1] == training[1:]
        assert program[:4] == ["-m", "espnet_gq", "-m", "espnet2.bin.asr_train"]
        node = dict(
            v.split("=", 1)
            for v in record.with_suffix(".env").read_text().split("\0")
            if v
        )
        for name in ("SLURM_PROCID", "SLURM_NODEID"):
            monkeypatch.delenv(name, raising=False)
        for name, value in node.items():
            monkeypatch.setenv(name, value)
        rank = int(node.get("MPI_RANK", 0))
        world = SimpleNamespace(Get_rank=lambda: rank, Get_size=lambda: processes)
        mpi = SimpleNamespace(MPI=SimpleNamespace(COMM_WORLD=world))
        monkeypatch.setitem(sys.modules, "mpi4py", mpi)
        args = ASRTask.get_parser().parse_args(program[4:])
        resolve_distributed_mode(args)
        assert args.distributed == (processes * processes_each > 1)
        assert args.multiprocessing_distributed == (processes_each > 1)
        assert args.dist_backend == (
            "gloo" if processes > 1 and "ngpu 0" in options else "nccl"
        )
        ranks.add(get_node_rank(args.dist_rank, args.dist_launcher))
        places.add(args.dist_init_method)
    assert ranks == ({0, 1} if processes > 1 else {None})
    (place,) = places  # where the processes find one another
    assert place.startswith(f"file://{cluster}/exp/") == (processes > 1)
