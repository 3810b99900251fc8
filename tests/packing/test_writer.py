"""A packed checkpoint written tensor by tensor is the one that pack writes."""

import pytest
import torch

from espnet_gq import GQConfig, pack, prepare
from espnet_gq.packing import harden_state_dict, stored_quantizer, unpack_state_dict
from espnet_gq.packing.writer import PackedWriter, unpack
from espnet_gq.quantizer.function import hard_indices


def prepared(method):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.BatchNorm1d(7))
    prepare(model, GQConfig(bits=3, granularity="channel", method=method))
    model(torch.randn(4, 5))
    return model


@pytest.mark.parametrize("method", ["gq", "uniform"])
def test_it_is_what_pack_writes(method):
    model = prepared(method)
    state, expected = model.state_dict(), pack(model)
    writer = PackedWriter()
    stored = stored_quantizer(state, "0.weight")
    for name, tensor in state.items():
        if name == "0.weight":
            indices = hard_indices(tensor, stored.log_scale, stored.codebook)
            writer.add_quantized(name, tensor.shape, stored, indices)
        elif "_quantizer." not in name:
            writer.add(name, tensor)
    found = writer.finish()
    assert found["version"] == expected["version"]
    assert found["sha256"] == expected["sha256"]
    assert torch.equal(found["data"], expected["data"])


def test_unpacked_it_is_the_hardened_model():
    packed = pack(prepared("gq"))
    expected = harden_state_dict(unpack_state_dict(packed))
    found = unpack(packed)
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_tensor_of_two_names_is_one():
    writer = PackedWriter()
    model = prepared("gq")
    stored = stored_quantizer(model.state_dict(), "0.weight")
    indices = torch.zeros(7, 5, dtype=torch.uint8)
    writer.add_quantized("a", indices.shape, stored, indices)
    writer.add_again("b", "a")
    found = unpack(writer.finish())
    assert found["a"] is found["b"]


def test_a_type_that_the_format_does_not_know():
    with pytest.raises(ValueError, match="complex64"):
        PackedWriter().add("a", torch.zeros(1, dtype=torch.complex64))
