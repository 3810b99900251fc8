"""Streams and planes of indices, in Python and in the library."""

from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_gq.native import library
from espnet_gq.runtime import layout
from espnet_gq.runtime.layout import (
    from_planes,
    from_stream,
    planes_size,
    stream_size,
    stream_to_planes,
    to_planes,
    to_stream,
)

compiled = pytest.mark.skipif(
    not library.available(), reason="the native library was not built"
)
MATRICES = given(
    rows=st.integers(0, 70), cols=st.integers(0, 70), bits=st.integers(1, 8)
)


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.integers(0, 255), max_size=70),
    bits=st.integers(1, 8),
    part=st.sampled_from([8, 16, layout.PART]),
)
def test_streams(values, bits, part):
    values = np.array(values, dtype=np.uint8) & (2**bits - 1)
    with patch.object(layout, "PART", part):
        stream = to_stream(values, bits)
        assert stream.size == stream_size(values.size, bits)
        assert (from_stream(stream, values.size, bits) == values).all()
    # The layout that the format promises.
    number = sum(int(v) << (i * bits) for i, v in enumerate(values))
    assert stream.tobytes() == number.to_bytes(stream.size, "little")


@settings(max_examples=60, deadline=None)
@MATRICES
def test_planes_and_back(rows, cols, bits):
    index = torch.randint(2**bits, (rows, cols), dtype=torch.uint8)
    planes = to_planes(index, bits)
    assert planes.numel() == planes_size(rows, cols, bits)
    assert torch.equal(from_planes(planes, rows, cols, bits), index)


@compiled
@settings(max_examples=40, deadline=None)
@MATRICES
def test_the_library_has_the_same_layout(rows, cols, bits):
    index = torch.randint(2**bits, (rows, cols), dtype=torch.uint8)
    planes = stream_to_planes(to_stream(index.numpy(), bits), rows, cols, bits)
    assert torch.equal(planes, to_planes(index, bits))
    size = library.loaded().gq_planes_size(rows, cols, bits)
    assert size == planes_size(rows, cols, bits)


@pytest.mark.parametrize("built", [True, False])
@pytest.mark.parametrize(
    "stream", [np.zeros(4, np.uint8), np.zeros(6, np.uint8), np.zeros(5, np.int32)]
)
def test_a_stream_of_another_size_is_refused(stream, built, monkeypatch):
    if not built:
        monkeypatch.setattr(library, "loaded", lambda: None)
    with pytest.raises(ValueError, match="8 5-bit numbers has 5 bytes"):
        stream_to_planes(stream, 2, 4, 5)
