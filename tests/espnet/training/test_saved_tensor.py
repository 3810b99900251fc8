"""A saved tensor is unobserved exactly where nothing else can read it any more."""

import pytest
import torch

from espnet_gq.espnet.training.saved_tensor import unobserved


class Saves(torch.autograd.Function):
    """Saves its input; tells in the backward pass whether it is unobserved."""

    @staticmethod
    def forward(ctx, tensor, found):
        ctx.save_for_backward(tensor)
        ctx.found = found
        return tensor.sum()

    @staticmethod
    def backward(ctx, grad):
        (tensor,) = ctx.saved_tensors
        ctx.found.append(unobserved(tensor))
        return torch.ones_like(tensor), None


MADE = {
    "result": lambda leaf: leaf * 2,
    "linear": lambda leaf: torch.nn.functional.linear(leaf, torch.eye(3)),
    "view": lambda leaf: (leaf * 2).view(-1, 2),
}
HELD = {
    "nothing": lambda tensor: None,
    "tensor": lambda tensor: tensor,
    "detached": lambda tensor: tensor.detach(),
    "base": lambda tensor: tensor if tensor._base is None else tensor._base,
    "part": lambda tensor: tensor[0],
    "storage": lambda tensor: tensor.untyped_storage(),
    "graph": lambda tensor: tensor.exp() * tensor,
    "dlpack": lambda tensor: torch.utils.dlpack.to_dlpack(tensor.detach()),
}


@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("keep", [False, True])
def test_unobserved(made, held, keep):
    found = []

    def begin():
        tensor = MADE[made](torch.ones(2, 2, 3, requires_grad=True))
        return Saves.apply(tensor, found), HELD[held](tensor)

    loss, kept = begin()
    loss.backward(retain_graph=keep)
    assert found == [held == "nothing" and not keep]
    del kept


def test_leaves_results_and_parts_are_observed():
    found = []
    leaf = torch.ones(4, requires_grad=True)
    Saves.apply(leaf, found).backward()
    Saves.apply(torch.ones(4, requires_grad=True).tanh(), found).backward()
    whole = torch.ones(2, 3, requires_grad=True) * 2
    Saves.apply(whole[:1], found).backward()
    Saves.apply((torch.ones(2, 3, requires_grad=True) * 2).T, found).backward()
    assert found == [False] * 4
