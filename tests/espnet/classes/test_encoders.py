"""Quantized encoders and decoders are ESPnet's own, with quantizers in the way."""

import inspect

import espnet2.tasks.asr as asr
import pytest
import torch

import espnet_gq
import espnet_gq.espnet  # noqa: F401
from espnet_gq.espnet.classes.encoders import ENCODERS
from espnet_gq.nn.prepare import quantizable, quantized_layers, quantized_weights
from espnet_gq.nn.training import fit_quantizers

SMALL = dict(output_size=16, attention_heads=2, linear_units=32, num_blocks=2)
ENCODER_OPTIONS = {
    "gq_conformer": dict(SMALL, macaron_style=True, rel_pos_type="latest"),
    "gq_transformer": SMALL,
    "gq_branchformer": dict(
        output_size=16, attention_heads=2, cgmlp_linear_units=32, num_blocks=2
    ),
    "gq_e_branchformer": dict(SMALL, cgmlp_linear_units=32),
    "gq_contextual_block_conformer": dict(
        SMALL, block_size=8, hop_size=4, look_ahead=2
    ),
    "gq_rnn": dict(rnn_type="gru", hidden_size=12, output_size=16, num_layers=2),
    "gq_vgg_rnn": dict(
        hidden_size=12, output_size=16, num_layers=2, use_projection=False
    ),
}


def build(name, **options):
    torch.manual_seed(0)
    return asr.encoder_choices.get_class(name)(
        20, **ENCODER_OPTIONS["gq_" + name.removeprefix("gq_")], **options
    )


def speech():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 90, 20, generator=generator), torch.tensor([90, 70])


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_every_layer_is_quantized_and_used(name):
    encoder = build(name, gq_conf={"bits": 5})
    # Each kind of layer that could be quantized is.
    assert not quantizable(encoder)
    used = set()
    for name, _, quantizer in quantized_weights(encoder):
        quantizer.register_forward_hook(lambda *_, n=name: used.add(n))
    encoder(*speech())[0].sum().backward()
    assert used == {n for n, _, _ in quantized_weights(encoder)}
    for weight_name, weight, _ in quantized_weights(encoder):
        assert weight.grad is not None, weight_name


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_float_checkpoint_in_and_hardened_checkpoint_out(name):
    source = build(name.removeprefix("gq_"))
    encoder = build(name, gq_conf={"bits": 5})
    missing, unexpected = encoder.load_state_dict(source.state_dict(), strict=False)
    assert not unexpected and all("_quantizer." in k for k in missing)
    encoder(*speech())
    encoder.eval()
    plain = build(name.removeprefix("gq_")).eval()
    plain.load_state_dict(espnet_gq.harden(encoder).state_dict())
    assert torch.equal(plain(*speech())[0], encoder(*speech())[0])


@pytest.mark.parametrize("name", sorted({**ENCODERS}))
def test_arguments_are_those_of_the_class_it_extends(name):
    quantized = inspect.signature(asr.encoder_choices.get_class(name)).parameters
    plain = inspect.signature(
        asr.encoder_choices.get_class(name.removeprefix("gq_"))
    ).parameters
    assert {k: v for k, v in quantized.items() if k != "gq_conf"} == dict(plain)
    assert quantized["gq_conf"].default is None


def test_decoder():
    options = dict(
        vocab_size=13,
        encoder_output_size=16,
        attention_heads=2,
        linear_units=32,
        num_blocks=1,
    )
    decoder = asr.decoder_choices.get_class("gq_transformer")(
        **options, gq_conf={"bits": 5}
    )
    names = {n for n, _ in quantized_layers(decoder)}
    assert {"embed.0", "output_layer", "decoders.0.src_attn.linear_q"} <= names
    memory = torch.randn(2, 9, 16)
    tokens = torch.tensor([[1, 2, 3], [4, 5, 0]])
    decoder(memory, torch.tensor([9, 7]), tokens, torch.tensor([3, 2]))[0].sum()
    decoder.eval()
    plain = asr.decoder_choices.get_class("transformer")(**options).eval()
    plain.load_state_dict(espnet_gq.harden(decoder).state_dict())
    args = (memory, torch.tensor([9, 7]), tokens, torch.tensor([3, 2]))
    assert torch.equal(plain(*args)[0], decoder(*args)[0])


@pytest.mark.parametrize("rnn_type", ["lstm", "gru"])
def test_attention_rnn_decoder(rnn_type):
    options = dict(
        vocab_size=13,
        encoder_output_size=16,
        rnn_type=rnn_type,
        num_layers=2,
        hidden_size=12,
    )
    torch.manual_seed(0)
    decoder = asr.decoder_choices.get_class("gq_rnn")(**options, gq_conf={"bits": 5})
    names = {n for n, _, _ in quantized_weights(decoder)}
    assert {"decoder.0.weight_hh", "decoder.1.weight_ih", "embed.weight"} <= names
    assert {"att_list.0.mlp_enc.weight", "output.weight"} <= names
    calls = []
    for name, _, quantizer in quantized_weights(decoder):
        quantizer.register_forward_hook(lambda *_, n=name: calls.append(n))
    tokens = torch.tensor([[1, 2, 3], [4, 5, 0]])
    args = (torch.randn(2, 9, 16), torch.tensor([9, 7]), tokens, torch.tensor([3, 2]))
    decoder(*args)[0].sum().backward()
    # Once each, however many labels there are.
    assert sorted(calls) == sorted(names)
    decoder.eval()
    plain = asr.decoder_choices.get_class("rnn")(**options).eval()
    plain.load_state_dict(espnet_gq.harden(decoder).state_dict())
    assert torch.equal(plain(*args)[0], decoder(*args)[0])


@pytest.mark.parametrize("rnn_type", ["lstm", "gru"])
def test_transducer_decoder(rnn_type):
    options = dict(vocab_size=13, rnn_type=rnn_type, num_layers=2, hidden_size=12)
    torch.manual_seed(0)
    decoder = asr.decoder_choices.get_class("gq_transducer")(
        **options, gq_conf={"bits": 5}
    )
    names = {n for n, _, _ in quantized_weights(decoder)}
    assert {"embed.weight", "decoder.0.weight_ih_l0", "decoder.1.weight_hh_l0"} <= names
    labels = torch.tensor([[0, 2, 3], [0, 5, 1]])
    decoder(labels).sum().backward()
    assert all(w.grad is not None for _, w, _ in quantized_weights(decoder))
    decoder.eval()
    plain = asr.decoder_choices.get_class("transducer")(**options).eval()
    plain.load_state_dict(espnet_gq.harden(decoder).state_dict())
    torch.testing.assert_close(plain(labels), decoder(labels))


def test_mistakes_name_the_class_and_the_key():
    with pytest.raises(espnet_gq.GQConfigError, match="gq_conformer: gq_conf: .*'bit'"):
        build("gq_conformer", gq_conf={"bit": 5})
    with pytest.raises(espnet_gq.GQConfigError, match="'nope' matches no layer"):
        build("gq_conformer", gq_conf={"rules": [{"pattern": "nope", "bits": 4}]})


def test_a_name_that_espnet_has_already_is_an_error(monkeypatch):
    from espnet_gq.espnet.registration import install_all

    monkeypatch.setitem(asr.encoder_choices.classes, "gq_conformer", object)
    with pytest.raises(RuntimeError, match="already has encoder 'gq_conformer'"):
        install_all(asr)


def test_quantizers_follow_a_layer_that_a_release_renamed():
    encoder = build("gq_conformer", gq_conf={"bits": 5})
    fit_quantizers(encoder)
    state = encoder.state_dict()
    layer = next(n for n in state if n.startswith("embed.out.")).rpartition(".")[0]
    earlier = {
        "embed.out.0" + k[len(layer) :] if k.startswith(layer + ".") else k: v
        for k, v in state.items()
    }
    assert "embed.out.0.weight_quantizer.log_scale" in earlier
    other = build("gq_conformer", gq_conf={"bits": 5})
    other.load_state_dict(earlier)
    assert all(torch.equal(state[k], v) for k, v in other.state_dict().items())
