"""Transducers in both of ESPnet's tasks: train, pack, decode, as a user would."""

import argparse
import sys

import pytest
import torch
import yaml
from tiny_task import ABSENT, RNNT, SECOND_TASK, assert_same_results, run

import espnet_gq
import espnet_gq.espnet  # noqa: F401
from espnet_gq.nn.prepare import quantizable, quantized_weights
from espnet_gq.packing import load_state_dict, quantized_names
from espnet_gq.runtime import available

STREAMING = {
    "asr": ("espnet_gq.bin.asr_inference_streaming", ["--sim_chunk_length", "1000"]),
    "asr_transducer": (
        "espnet2.bin.asr_transducer_inference",
        ["--streaming", "true", "--decoding_window", "200", "--left_context", "20"],
    ),
}


@pytest.mark.parametrize(
    "asr_task, changes",
    [("asr", RNNT), ("asr_transducer", SECOND_TASK)],
    ids=["asr", "asr_transducer"],
)
def test_train_pack_and_decode(task, asr_task, changes):
    config = task.config(f"{asr_task}_rnnt.yaml", max_epoch=2, **changes)
    name = f"{asr_task}_rnnt"
    done = task.train(config, name, asr_task=asr_task)
    assert done.stderr.count("Transducer loss: ") == 1
    folder = task.path / name
    state = load_state_dict(folder / "valid.loss.ave.pth")
    bits = {
        n: round(float(state[f"{n}_quantizer.saved_state"][0]))
        for n in quantized_names(state)
    }
    if asr_task == "asr":
        assert bits["encoder.enc.0.rnn1.weight_hh_l0"] == 1
        assert bits["decoder.decoder.0.weight_hh_l0"] == 4
    else:
        assert bits["encoder.encoders.blocks.0.self_att.linear_q.weight"] == 5
        assert bits["decoder.rnn.0.weight_hh_l0"] == 4
        assert bits["ctc_lin.weight"] == 8
    assert bits["joint_network.lin_out.weight"] == 8
    model = folder / "valid.loss.ave.pth"
    command = [sys.executable, "-m", "espnet_gq.bin.pack", "--asr_model_file"]
    run([*command, str(model)])
    run([*command, str(model), "--format", "float"])
    plain = yaml.safe_load((folder / "valid.loss.ave.float.yaml").read_text())
    assert "gq" not in yaml.safe_dump(plain)
    module = f"espnet2.bin.{asr_task}_inference"
    results = [
        task.decode(folder / yml, folder / file, f"{name}_{i}", module=module)
        for i, (yml, file) in enumerate(
            [
                ("config.yaml", "valid.loss.ave.pth"),
                ("config.yaml", "valid.loss.ave.packed.pth"),
                ("valid.loss.ave.float.yaml", "valid.loss.ave.float.pth"),
            ]
        )
    ]
    assert results[0] == results[2]
    assert_same_results(results[1], results[0])
    assert len(results[0]["score"].splitlines()) == 4
    int8 = task.decode(
        folder / "config.yaml",
        folder / "valid.loss.ave.packed.pth",
        f"{name}_int8",
        *("--quantize_asr_model", "true"),
        module=module,
    )
    assert len(int8["score"].splitlines()) == 4
    if available():  # else the model is float, and the option PyTorch's
        assert int8["score"] != results[1]["score"]
    module, options = STREAMING[asr_task]
    streamed = task.decode(
        folder / "config.yaml",
        folder / "valid.loss.ave.packed.pth",
        f"{name}_streamed",
        *options,
        module=module,
    )
    assert len(streamed["score"].splitlines()) == 4


def build(**changes):
    import espnet2.tasks.asr_transducer as module

    config = {k: v for k, v in SECOND_TASK.items() if v is not ABSENT}
    config = yaml.safe_load(yaml.safe_dump({**config, **changes}))
    args = vars(module.ASRTransducerTask.get_parser().parse_args([]))
    args.update(config, token_list=["<blank>", "<unk>", "a", "b", "<sos/eos>"])
    args["frontend_conf"] = {"n_mels": 20}
    torch.manual_seed(0)
    return module.ASRTransducerTask.build_model(argparse.Namespace(**args))


def without_gq_conf(config):
    config = {k: v for k, v in config.items() if v is not ABSENT}
    config = yaml.safe_load(yaml.safe_dump(config))
    for part in ("encoder_conf", "decoder_conf", "model_conf"):
        del config[part]["gq_conf"]
    config["decoder"] = config["decoder"].removeprefix("gq_")
    return config


def test_second_task_is_quantized_whole():
    model = build()
    assert not quantizable(model)
    bits = {name: q.bits for name, _, q in quantized_weights(model)}
    assert {b for n, b in bits.items() if n.startswith("encoder.")} == {5}
    assert {b for n, b in bits.items() if n.startswith("decoder.")} == {4}
    rest = {n for n in bits if not n.startswith(("encoder.", "decoder."))}
    assert {n.split(".")[0] for n in rest} == {"joint_network", "ctc_lin"}


def test_second_task_stays_float_without_gq_conf():
    model = build(**without_gq_conf(SECOND_TASK))
    assert not list(quantized_weights(model))
    names = {n for n in build().state_dict() if "_quantizer." not in n}
    assert names == set(model.state_dict())


@pytest.mark.parametrize("decoder", ["stateless", "mega"])
def test_other_decoders_of_the_second_task(decoder):
    sizes = {"stateless": {"embed_size": 16}, "mega": {"block_size": 16, "qk_size": 8}}
    options = dict(sizes[decoder], gq_conf={"bits": 5})
    model = build(decoder=f"gq_{decoder}", decoder_conf=options)
    assert any(n.startswith("decoder.embed") for n, _, _ in quantized_weights(model))


def test_mistakes_name_the_part_and_the_key():
    for part in ("encoder_conf", "model_conf"):
        conf = dict(SECOND_TASK[part], gq_conf={"bit": 5})
        with pytest.raises(espnet_gq.GQConfigError, match=f"{part}: .*'bit'"):
            build(**{part: conf})
