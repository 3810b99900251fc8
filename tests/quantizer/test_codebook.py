"""Codebooks without a training: what of a method is saved, packed and evaluated."""

import pytest
import torch

from espnet_gq.quantizer.baselines.lloyd import LloydMaxCodebook
from espnet_gq.quantizer.baselines.stored import StoredCodebook
from espnet_gq.quantizer.general import MuLawCodebook
from espnet_gq.quantizer.state import StateError


@pytest.mark.parametrize("cls", [MuLawCodebook, StoredCodebook, LloydMaxCodebook])
@pytest.mark.parametrize("granularity, scales", [("tensor", 1), ("channel", 6)])
def test_a_codebook_stands_by_itself(cls, granularity, scales):
    w = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    codebook = cls(3, 6, granularity)
    assert not codebook.fitted and codebook.fitted_to(w) is not codebook
    hard = codebook.fitted_to(w).quantize(w)
    codebook.fit(w)
    assert torch.equal(codebook.quantize(w), hard)
    assert codebook.log_scale.numel() == scales
    z = codebook.centroids().reshape(-1, 8).expand(6, 8)
    assert torch.equal(hard, z.gather(1, codebook.indices(w).long()))
    assert (hard - w).square().mean() < 0.1 * w.square().mean()
    other = cls(3, 6, granularity)
    other.load_state_dict(codebook.state_dict())
    assert other.fitted and torch.equal(other.quantize(w), hard)
    with pytest.raises(StateError, match="has 3 bits in the checkpoint and 4"):
        cls(4, 6, granularity).load_state_dict(codebook.state_dict())


def test_a_codebook_of_another_type_keeps_float32():
    codebook = MuLawCodebook(3, 6).half()
    assert {t.dtype for t in codebook.state_dict().values()} == {torch.float32}
    assert codebook.double().log_scale.dtype == torch.float64


def test_memory_without_values_gets_the_first_state():
    with torch.device("meta"):
        codebook = MuLawCodebook(3, 6, total_steps=20).to("meta")
    assert (codebook.total_steps, codebook.fitted) == (20, False)
    codebook.to_empty(device="cpu")
    assert codebook.saved_state.tolist() == [3, 0, 0, 20]
