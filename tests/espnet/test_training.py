"""QAT in ESPnet's own trainer: figures, steps, resume, average, pack, decode."""

import signal
import subprocess
import sys
import time

import torch
import yaml
from tiny_task import RNNT, Task, assert_same_results, environment, run

from espnet_gq.analysis.size import describe
from espnet_gq.packing import load_state_dict, quantized_names, unpack_state_dict

EPOCHS, BATCHES = 3, 10


def steps(state):
    return {
        round(float(state[f"{n}_quantizer.saved_state"][2]))
        for n in quantized_names(state)
    }


def test_annealing_counts_optimizer_steps(trained):
    assert steps(load_state_dict(trained / "1epoch.pth")) == {BATCHES}
    assert steps(load_state_dict(trained / "2epoch.pth")) == {2 * BATCHES}


def test_figures_are_reported(trained):
    reporter = torch.load(trained / "checkpoint.pth", weights_only=False)["reporter"]
    train, valid = (reporter["stats"][2][key] for key in ("train", "valid"))
    assert 3 < train["gq_temperature"] < 50
    assert 0 < valid["gq_soft_hard_gap"] < 1
    assert 0 < valid["gq_settled"] <= 1
    assert 4 < valid["gq_effective_bits"] < 6
    for name in ("gq_temperature", "gq_soft_hard_gap", "gq_settled"):
        assert (trained / "images" / f"{name}.png").exists(), name
    events = list((trained / "tensorboard" / "valid").iterdir())
    assert any(b"gq_soft_hard_gap" in e.read_bytes() for e in events)


def test_accumulated_gradients_count_once(task):
    config = task.config("accum.yaml", accum_grad=4, max_epoch=1)
    task.train(config, "accum")
    assert steps(load_state_dict(task.path / "accum" / "1epoch.pth")) == {BATCHES // 4}


def test_steps_that_amp_skips_do_not_count():
    import espnet_gq

    net = espnet_gq.prepare(
        torch.nn.Linear(4, 4), {"bits": 5, "annealing": {"steps": 9}}
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    optimizer.register_step_post_hook(lambda *_: espnet_gq.advance(net))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    for factor, expected in ((1.0, 1), (float("inf"), 1), (1.0, 2)):
        optimizer.zero_grad()
        scaler.scale(net(torch.ones(1, 4)).sum() * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        assert net.weight_quantizer.step == expected


def start(task, config, output):
    log = open(task.path / f"{output}.log", "a")
    return subprocess.Popen(
        task.arguments(config, output),
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment(),
    )


def kill_at(task, config, output, marker):
    """Start a training and SIGKILL it when `marker` appears in its log."""
    process = start(task, config, output)
    log = task.path / f"{output}.log"
    deadline = time.monotonic() + 300
    while marker not in log.read_text(errors="replace"):
        assert process.poll() is None, "the training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    return torch.equal(a, b) if torch.is_tensor(a) else a == b


def test_resume_after_sigkill_is_exact(tmp_path):
    """A process of its own; tests/robustness kills a Conformer at every point."""
    task = Task(tmp_path)
    config = task.config(max_epoch=EPOCHS, keep_nbest_models=EPOCHS, **RNNT)
    task.train(config, "whole")
    # Inside the second epoch, then between the second and the third.
    kill_at(task, config, "killed", "2epoch:train:4-4batch")
    assert not (task.path / "killed" / "2epoch.pth").exists()
    kill_at(task, config, "killed", "2epoch results")
    for _ in range(200):
        if (task.path / "killed" / "2epoch.pth").exists():
            break
        time.sleep(0.01)
    task.train(config, "killed")
    for epoch in range(1, EPOCHS + 1):
        a, b = (
            load_state_dict(task.path / run / f"{epoch}epoch.pth")
            for run in ("whole", "killed")
        )
        assert steps(a) == steps(b) == {epoch * BATCHES}
        assert same(dict(a), dict(b)), f"epoch {epoch}"
    a, b = (
        torch.load(task.path / run / "checkpoint.pth", weights_only=False)["optimizers"]
        for run in ("whole", "killed")
    )
    assert same(a, b)


def test_float_start_average_pack_and_decode(task, trained):
    # A float model of the same shape; QAT starts from it through --init_param.
    config = task.config(
        "float.yaml", encoder="conformer", decoder="transformer", model="espnet"
    )
    plain = yaml.safe_load(config.read_text())
    for part in ("encoder_conf", "decoder_conf", "model_conf"):
        del plain[part]["gq_conf"]
    config.write_text(yaml.safe_dump(plain))
    task.train(config, "float")
    source = task.path / "float" / "valid.acc.ave.pth"
    qat = task.config("qat.yaml", init="xavier_uniform")
    task.train(qat, "qat", "--init_param", str(source), "--max_epoch", "2")
    folder = task.path / "qat"
    average = load_state_dict(folder / "valid.acc.ave.pth")
    assert describe(folder / "valid.acc.ave.pth").format == "qat"
    assert len(steps(average)) == 1

    command = [sys.executable, "-m", "espnet_gq.bin.pack"]
    model = str(folder / "valid.acc.ave.pth")
    assert "bits" in run([*command, "--asr_model_file", model]).stdout
    run([*command, "--asr_model_file", model, "--format", "float"])
    packed = folder / "valid.acc.ave.packed.pth"
    state = unpack_state_dict(load_state_dict(packed))
    for name in quantized_names(state):
        bits = round(float(state[f"{name}_quantizer.saved_state"][0]))
        assert state[name].unique().numel() <= 2**bits
    assert describe(packed).num_params == describe(source).num_params

    results = [
        task.decode(folder / "config.yaml", folder / "valid.acc.ave.pth", "d1"),
        task.decode(folder / "config.yaml", packed, "d2"),
        # Plain ESPnet, without the plugin.
        task.decode(
            folder / "valid.acc.ave.float.yaml",
            folder / "valid.acc.ave.float.pth",
            "d3",
            launcher=False,
        ),
    ]
    assert results[0] == results[2]
    assert_same_results(results[1], results[0])
    assert len(results[0]["text"].splitlines()) == 4


def test_decoding_a_packed_file_that_is_damaged_says_so(task, trained):
    packed = trained / "damaged.pth"
    model = str(trained / "valid.acc.ave.pth")
    command = [sys.executable, "-m", "espnet_gq.bin.pack", "--asr_model_file", model]
    run([*command, "--output", str(packed)])
    content = torch.load(packed)
    content["data"][5] ^= 1
    torch.save(content, packed)
    done = task.decode(trained / "config.yaml", packed, "damaged", check=False)
    assert done.returncode and "checksum does not match" in done.stderr


def test_a_wrong_configuration_stops_before_training(task):
    config = task.config("wrong.yaml", encoder_conf__gq_conf={"bits": 11})
    done = task.train(config, "wrong", check=False)
    assert done.returncode
    last = done.stderr.strip().splitlines()[-1]
    assert last.endswith(
        "gq_conformer: gq_conf: bits is 11; allowed: a whole number from 1 to 8"
    )
    assert not (task.path / "wrong" / "checkpoint.pth").exists()
