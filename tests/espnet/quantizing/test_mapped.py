"""Pages of a mapped checkpoint are forgotten, and nothing beside them."""

import re
import sys
from pathlib import Path

import pytest
import torch

from espnet_gq.espnet.quantizing.mapped import drop_pages


def file_bytes():
    """Return how much of mapped files the process holds in memory."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssFile:\s+(\d+)", status)[1]) * 1024


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_a_weight_is_forgotten_and_read_again(tmp_path):
    path = tmp_path / "model.pth"
    torch.manual_seed(0)
    state = {"before": torch.randn(3), "w": torch.randn(2**23), "after": torch.randn(3)}
    torch.save(state, path)
    mapped = torch.load(path, mmap=True, weights_only=True)
    assert torch.equal(mapped["w"], state["w"])
    for name in ("before", "after"):
        mapped[name] += 1
    held = file_bytes()
    drop_pages(mapped["w"])
    assert held - file_bytes() > 0.9 * state["w"].nbytes
    assert torch.equal(mapped["w"], state["w"])
    for name in ("before", "after"):
        assert torch.equal(mapped[name], state[name] + 1)


def test_a_tensor_of_less_than_a_page(tmp_path):
    w = torch.ones(3)
    drop_pages(w)
    assert torch.equal(w, torch.ones(3))
