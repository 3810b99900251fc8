"""The codebook of a weight: converted in blocks, as it would be at once."""

import pytest
import torch

from espnet_gq.calibration import codebooks
from espnet_gq.calibration.codebooks import fit_codebook, nearest, relative_error
from espnet_gq.nn import GQConfig
from espnet_gq.packing import writer
from espnet_gq.packing.writer import blocks
from espnet_gq.quantizer.function import hard_indices


@pytest.mark.parametrize("shape", [(7, 5), (3, 40), (1, 33), (2, 16)])
def test_blocks_cover_a_matrix_once(shape, monkeypatch):
    monkeypatch.setattr(writer, "BLOCK", 16)
    seen = torch.zeros(shape)
    for at in blocks(shape):
        assert 0 < seen[at].numel() <= 16
        seen[at] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("shape", [(6, 5, 3), (4, 50)])
def test_a_weight_in_blocks(shape, granularity, monkeypatch):
    w = torch.randn(shape)
    config = GQConfig(bits=3, granularity=granularity)
    stored = fit_codebook(w, config.options(None))
    whole = hard_indices(w, stored.log_scale, stored.codebook)
    rows = stored.codebook[whole.reshape(len(stored.log_scale), -1).int()]
    hard = (rows * stored.scale.view(-1, 1)).view(shape)
    for module in (codebooks, writer):
        monkeypatch.setattr(module, "BLOCK", 16)
    indices = nearest(w, stored)
    assert indices.dtype == torch.uint8 and torch.equal(indices, whole)
    assert torch.equal(codebooks.weights(indices, stored), hard)
    error = relative_error(w, hard)
    assert error == pytest.approx(float((w - hard).norm() / w.norm()), rel=1e-5)
    assert relative_error(torch.zeros(3), torch.zeros(3)) == 0.0
