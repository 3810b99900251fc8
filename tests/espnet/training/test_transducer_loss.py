"""The transducer loss sums over all alignments, as warp-transducer does."""

import itertools
import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_task import run

from espnet_gq.espnet.training import transducer_loss
from espnet_gq.espnet.training.transducer_loss import RNNTLoss, rnnt_loss

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


def batch(frames, counts, vocabulary=5, blank=0, padding=0, seed=0, scale=2.0):
    """Return random inputs of the loss; logits of float32 precision in float64."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(frames), max(frames), max(counts) + 1, vocabulary)
    acts = (scale * torch.randn(shape, generator=generator)).double()
    labels = torch.full((len(frames), max(counts)), padding, dtype=torch.int32)
    for row, count in zip(labels, counts):
        other = torch.randint(vocabulary - 1, (count,), generator=generator)
        row[:count] = other + (other >= blank)
    lengths = (torch.tensor(x, dtype=torch.int32) for x in (frames, counts))
    return acts, labels, *lengths


def reference(acts, labels, act_lens, label_lens, blank=0, fastemit_lambda=0.0):
    """Return the losses (B,) in float64 by the recursion of arXiv 1211.3711, eq. 16."""
    losses = []
    for b, (frames, count) in enumerate(zip(act_lens.tolist(), label_lens.tolist())):
        log_p = acts[b].double().log_softmax(-1)
        alpha = {(0, 0): log_p.new_zeros(())}
        for t, u in itertools.product(range(frames), range(count + 1)):
            ways = []
            if t > 0:
                ways.append(alpha[t - 1, u] + log_p[t - 1, u, blank])
            if u > 0:
                emit = log_p[t, u - 1, int(labels[b, u - 1])]
                # The value stays, the gradient is multiplied by 1 + lambda.
                emit = emit + fastemit_lambda * (emit - emit.detach())
                ways.append(alpha[t, u - 1] + emit)
            if ways:
                alpha[t, u] = torch.stack(ways).logsumexp(0)
        losses.append(-alpha[frames - 1, count] - log_p[frames - 1, count, blank])
    return torch.stack(losses)


def value_and_gradient(loss, acts, weights=None):
    acts = acts.detach().clone().requires_grad_()
    value = loss(acts)
    value.backward(torch.ones_like(value) if weights is None else weights.to(value))
    return value.detach(), acts.grad


def assert_as_reference(inputs, blank=0, fastemit_lambda=0.0, device="cpu"):
    acts, *rest = inputs
    weights = torch.linspace(0.5, -1.5, len(acts), dtype=torch.float64)
    value, gradient = value_and_gradient(
        lambda x: reference(x, *rest, blank, fastemit_lambda), acts, weights
    )
    rest = [r.to(device) for r in rest]
    found, found_gradient = value_and_gradient(
        # Nothing else holds the product: the gradient takes its place.
        lambda x: rnnt_loss(1.0 * x, *rest, blank, "none", fastemit_lambda),
        acts.float().to(device),
        weights,
    )
    assert found.dtype == found_gradient.dtype == torch.float32
    # float32 knows a log probability to about 1e-7 of the largest logit.
    atol = 5e-7 * float(acts.abs().max())
    torch.testing.assert_close(found.cpu().double(), value, rtol=1e-5, atol=atol)
    atol *= 1 + fastemit_lambda
    torch.testing.assert_close(
        found_gradient.cpu().double(), gradient, rtol=1e-4, atol=atol
    )


def test_reference_is_the_sum_over_alignments():
    for frames, count in itertools.product((1, 2, 3, 4), (0, 1, 2, 3)):
        acts, labels, *lengths = batch([frames], [count], seed=frames)
        p = acts[0].softmax(-1)
        total = 0.0
        # The last of the T + U steps is a blank; the labels take any of the others.
        for places in itertools.combinations(range(frames + count - 1), count):
            t = u = 0
            product = 1.0
            for step in range(frames + count):
                if step in places:
                    product *= float(p[t, u, labels[0, u]])
                    u += 1
                else:
                    product *= float(p[t, u, 0])
                    t += 1
            total += product
        loss = float(reference(acts, labels, *lengths))
        assert loss == pytest.approx(-math.log(total), rel=1e-12)


@st.composite
def ragged(draw):
    size = draw(st.integers(1, 3))
    blank = draw(st.integers(0, 4))
    inputs = batch(
        draw(st.lists(st.integers(1, 6), min_size=size, max_size=size)),
        draw(st.lists(st.integers(0, 4), min_size=size, max_size=size)),
        blank=blank,
        padding=draw(st.sampled_from([0, -1, 1000])),
        seed=draw(st.integers(0, 1000)),
        scale=draw(st.sampled_from([0.1, 2.0, 20.0])),
    )
    return inputs, blank


@settings(max_examples=25, deadline=None)
@given(ragged())
def test_ragged_batches(case):
    assert_as_reference(*case)


@settings(max_examples=25, deadline=None)
@given(ragged(), st.sampled_from([0.001, 0.5, 10.0]))
def test_fastemit(case, fastemit_lambda):
    assert_as_reference(*case, fastemit_lambda)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "frames, counts",
    [
        ([4, 3], [2, 0]),
        ([4, 3], [0, 0]),
        ([1], [0]),
        ([1], [3]),
        ([1, 5], [2, 1]),
        ([40, 33], [34, 40]),
    ],
    ids=["one empty", "all empty", "one node", "one frame", "a short one", "long"],
)
def test_sizes_at_the_edge(frames, counts, device):
    assert_as_reference(batch(frames, counts, padding=-1), device=device)


def test_a_label_may_be_the_blank():
    acts, labels, *lengths = batch([4, 3], [3, 2])
    labels[0, 1] = 0
    assert_as_reference((acts, labels, *lengths))


def test_agrees_with_torchaudio():
    from torchaudio.functional import rnnt_loss as torchaudio_loss

    acts, labels, *lengths = batch([40, 33], [20, 31], vocabulary=50, blank=7)
    expected = value_and_gradient(
        lambda x: torchaudio_loss(x, labels, *lengths, blank=7).view(1), acts.float()
    )
    loss = RNNTLoss(blank=7, fastemit_lambda=0.0)
    found = value_and_gradient(lambda x: loss(x, labels, *lengths), acts.float())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_float64_and_its_gradient():
    acts, *rest = batch([4, 2, 3], [3, 1, 0])
    found = rnnt_loss(acts, *rest, 0, "none", 0.0)
    torch.testing.assert_close(found, reference(acts, *rest), rtol=1e-12, atol=0)
    acts.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: rnnt_loss(x, *rest, 0, "none", 0.0), acts, atol=1e-8
    )


def test_reductions_are_those_of_warp_transducer():
    acts, *rest = batch([4, 2, 3], [3, 1, 0])

    def by(reduction):
        loss = RNNTLoss(reduction=reduction, fastemit_lambda=0.0)
        return value_and_gradient(lambda x: loss(x, *rest), acts)

    (losses, _), (total, total_gradient), (mean, mean_gradient) = map(
        by, ("none", "sum", "mean")
    )
    torch.testing.assert_close(losses, reference(acts, *rest))
    torch.testing.assert_close(total, losses.sum().view(1))
    torch.testing.assert_close(mean, total / 3)
    torch.testing.assert_close(mean_gradient, total_gradient / 3)


def test_defaults_are_those_of_warp_transducer():
    acts, *rest = batch([4, 3], [2, 1])
    named = dict(blank=0, reduction="mean", fastemit_lambda=0.001)
    expected = value_and_gradient(lambda x: rnnt_loss(x, *rest, **named), acts)
    for loss in (rnnt_loss, RNNTLoss()):
        found = value_and_gradient(lambda x: loss(x, *rest), acts)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    acts, *rest = batch([30, 21], [12, 7], vocabulary=40)
    acts = acts.to(dtype)
    value, gradient = value_and_gradient(
        lambda x: rnnt_loss(x, *rest, 0, "none", 0.0), acts
    )
    expected, expected_gradient = value_and_gradient(
        lambda x: reference(x, *rest), acts.double()
    )
    with torch.autocast("cpu", dtype):
        assert torch.equal(rnnt_loss(acts, *rest, 0, "none", 0.0), value)
    assert value.dtype == torch.float32 and gradient.dtype == dtype
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(
        gradient, expected_gradient.to(dtype), rtol=2e-2, atol=1e-6
    )


def test_gradient_ends_where_the_utterance_ends():
    frames, counts = [5, 3, 1], [1, 4, 0]
    acts, labels, *lengths = batch(frames, counts, padding=-1)
    # As under DataParallel: longer than the longest of this part of the batch.
    acts = torch.nn.functional.pad(acts.float(), (0, 0, 0, 2, 0, 3), value=math.nan)
    labels = torch.nn.functional.pad(labels, (0, 5), value=-1)
    for b, (frame, count) in enumerate(zip(frames, counts)):
        acts[b, frame:] = acts[b, :, count + 1 :] = math.nan
    value, gradient = value_and_gradient(
        lambda x: rnnt_loss(x, labels, *lengths, 0, "sum", 0.0), acts
    )
    assert value.isfinite().all() and gradient.isfinite().all()
    for b, (frame, count) in enumerate(zip(frames, counts)):
        inside = gradient[b, :frame, : count + 1].clone()
        assert (inside != 0).all()
        assert inside.sum(-1).abs().max() < 1e-5
        gradient[b, :frame, : count + 1] = 0
    assert not gradient.any()


def test_long_utterances_stay_exact():
    acts, *rest = batch([500, 380], [100, 63], vocabulary=30, scale=3.0)
    value, gradient = value_and_gradient(
        lambda x: rnnt_loss(x, *rest, 0, "none", 0.0), acts
    )
    found, found_gradient = value_and_gradient(
        lambda x: rnnt_loss(x, *rest, 0, "none", 0.0), acts.float()
    )
    assert value.min() > 1000
    torch.testing.assert_close(found.double(), value, rtol=1e-6, atol=0)
    assert (found_gradient - gradient).abs().max() < 2e-5


def test_large_vocabulary():
    assert_as_reference(batch([6, 4], [3, 4], vocabulary=20_000))


def test_targets_as_espnet_prepares_them():
    from espnet2.asr_transducer.utils import get_transducer_task_io

    padded = torch.tensor([[3, 1, -1], [2, -1, -1], [-1, -1, -1]])
    _, target, t_len, u_len = get_transducer_task_io(padded, torch.tensor([5, 4, 2]))
    acts = batch([5, 4, 2], [2, 1, 0])[0]
    found = RNNTLoss(blank=0, fastemit_lambda=0.0)(acts.float(), target, t_len, u_len)
    expected = reference(acts, target, t_len, u_len).mean()
    torch.testing.assert_close(found.double(), expected.view(1), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(acts=torch.zeros(2, 4, 3)), r"acts has shape \(2, 4, 3\); allowed: \(B"),
        (dict(acts=torch.zeros(0, 4, 3, 5)), r"acts has shape \(0, .*none 0"),
        (dict(acts=torch.zeros(2, 4, 3, 5).long()), "acts is torch.int64; .* floating"),
        (dict(labels=torch.zeros(2, 2)), "labels is torch.float32; allowed: int32"),
        (dict(labels=torch.ones(2, 1).int()), r"label_lens\[0\] is 2; .* and labels 1"),
        (dict(labels=torch.zeros(4).int()), r"labels has shape \(4,\).*\(2, U\)"),
        (
            dict(labels=torch.tensor([[1, 5], [2, 2]])),
            r"labels\[0, 1\] is 5; .* 0 to 4",
        ),
        (
            dict(labels=torch.tensor([[1, 2], [-1, 2]])),
            r"labels\[1, 0\] is -1; .* 0 to",
        ),
        (dict(act_lens=torch.tensor([4, 0])), r"act_lens\[1\] is 0; allowed: 1 to 4"),
        (dict(act_lens=torch.tensor([5, 4])), r"act_lens\[0\] is 5; allowed: 1 to 4"),
        (dict(act_lens=torch.tensor([4.0, 4])), "act_lens is torch.float32; allowed"),
        (dict(act_lens=torch.tensor([4])), r"act_lens has shape \(1,\).*2 utterances"),
        (dict(label_lens=torch.tensor([1, 3])), r"label_lens\[1\] is 3; .* 0 to 2"),
        (
            dict(labels=torch.ones(2, 3).int(), label_lens=torch.tensor([1, 3])),
            r"label_lens\[1\] is 3; .* 0 to 2",
        ),
        (dict(label_lens=torch.tensor([-1, 2])), r"label_lens\[0\] is -1; .* 0 to 2"),
        (dict(blank=5), "blank is 5; allowed: 0 to 4"),
        (dict(blank=-1), "blank is -1; allowed: 0 or more"),
        (dict(reduction="avg"), "reduction is 'avg'; allowed: none, mean, sum"),
        (dict(fastemit_lambda=-0.1), "fastemit_lambda is -0.1; allowed: 0 or more"),
        (dict(fastemit_lambda=math.nan), "fastemit_lambda is nan; allowed: 0 or more"),
    ],
)
def test_mistakes_name_the_input_and_what_is_allowed(change, words):
    acts, labels, act_lens, label_lens = batch([4, 3], [2, 1])
    inputs = dict(acts=acts, labels=labels, act_lens=act_lens, label_lens=label_lens)
    with pytest.raises(ValueError, match=words) as error:
        rnnt_loss(**{**inputs, **change})
    assert "\n" not in str(error.value)
    if not change.keys() & inputs.keys() and change != {"blank": 5}:
        with pytest.raises(ValueError, match=words):
            RNNTLoss(**change)


PROGRAM = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
from espnet_gq.espnet.training.transducer_loss import provide_when_missing
provide_when_missing()
provide_when_missing()
from warprnnt_pytorch import RNNTLoss, rnnt_loss
from warprnnt_pytorch import RNNTLoss
print("class of", RNNTLoss.__module__)
"""


def test_import_where_the_package_is_missing(tmp_path):
    # What pip leaves of a package that had files of its own is not a package.
    (tmp_path / "warprnnt_pytorch").mkdir()
    assert run([sys.executable, "-c", PROGRAM], cwd=tmp_path).stdout.splitlines() == [
        "Transducer loss: espnet_gq.espnet.training.transducer_loss "
        "(warprnnt_pytorch is not installed)",
        "class of espnet_gq.espnet.training.transducer_loss",
    ]


def test_import_where_the_package_is_installed(tmp_path):
    package = tmp_path / "warprnnt_pytorch"
    package.mkdir()
    (package / "__init__.py").write_text("from .real import RNNTLoss, rnnt_loss")
    (package / "real.py").write_text("class RNNTLoss: ...\nrnnt_loss = None")
    assert run([sys.executable, "-c", PROGRAM], cwd=tmp_path).stdout.splitlines() == [
        "Transducer loss: warprnnt_pytorch",
        "class of warprnnt_pytorch.real",
    ]


def test_an_installed_package_that_fails_is_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "warprnnt_pytorch.py").write_text(
        "raise ImportError('undefined symbol')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "warprnnt_pytorch", raising=False)
    transducer_loss.provide_when_missing()
    with pytest.raises(ImportError, match="undefined symbol"):
        import warprnnt_pytorch  # noqa: F401


# --- memory ---------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 7, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunks_change_nothing(chunk, dtype, monkeypatch):
    acts, *rest = batch([4, 3, 1], [2, 0, 3])
    acts = acts.to(dtype)

    def loss(x):
        return rnnt_loss(1.0 * x, *rest, fastemit_lambda=0.5)

    expected = value_and_gradient(loss, acts)
    monkeypatch.setattr(transducer_loss, "CHUNK", chunk)
    found = value_and_gradient(loss, acts)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def bytes_allocated(step):
    """Return the most bytes of tensors that a call holds beyond those before it."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as done:
        step()
    events = [
        e for e in done.profiler.kineto_results.events() if e.name() == "[memory]"
    ]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


class Joint(torch.autograd.Function):
    """Makes logits (..., V) of hidden states, and nothing else: a matrix product in
    bfloat16 takes further memory on some processors."""

    @staticmethod
    def forward(ctx, hidden, v):
        ctx.size = hidden.shape[-1]
        return hidden.new_zeros(*hidden.shape[:-1], v)

    @staticmethod
    def backward(ctx, grad):
        return grad[..., : ctx.size].clone(), None


@pytest.mark.parametrize("held", [False, True], ids=["in place", "logits held"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_peak_memory_is_that_of_the_docstring(dtype, held, monkeypatch):
    b, t, u, v = 2, 60, 20, 500
    monkeypatch.setattr(transducer_loss, "CHUNK", 2**15)
    _, *rest = batch([t, t - 9], [u - 3, u], vocabulary=v)
    hidden = torch.randn(b, t, u + 1, 4, dtype=dtype, requires_grad=True)

    def step():
        logits = Joint.apply(hidden, v)
        loss = rnnt_loss(logits, *rest)
        if not held:
            del logits
        loss.backward()

    step()
    logits = b * t * (u + 1) * v * torch.finfo(dtype).bits // 8
    most = 12 * max(2**15, (u + 1) * v) + 96 * b * (t + u + 1) * (u + 1)
    small = 16 * hidden.numel()  # the gradient of what made the logits
    gradient = logits if held else 0
    peak = bytes_allocated(step)
    assert logits + gradient <= peak <= logits + gradient + most + small


OBSERVERS = {
    "variable": lambda logits, kept: kept.append(logits),
    "detached": lambda logits, kept: kept.append(logits.detach()),
    "part": lambda logits, kept: kept.append(logits[1:]),
    "storage": lambda logits, kept: kept.append(logits.untyped_storage()),
    "array": lambda logits, kept: kept.append(logits.detach().numpy()),
}


@pytest.mark.parametrize("way", OBSERVERS)
@pytest.mark.parametrize("view", [False, True])
def test_logits_that_something_can_read_are_left(way, view):
    acts, *rest = batch([4, 3], [2, 1])
    leaf = acts.float().requires_grad_()
    kept = []

    def loss():
        logits = (leaf * 1.0).view(*acts.shape) if view else leaf * 1.0
        OBSERVERS[way](logits, kept)
        return rnnt_loss(logits, *rest)

    loss().backward()
    read = torch.as_tensor(kept[0])
    if way == "storage":
        read = torch.empty(0).set_(kept[0]).view_as(acts)
    expected = acts.float()
    torch.testing.assert_close(
        read.detach(), expected[1:] if way == "part" else expected
    )


def test_other_nodes_of_the_graph_read_the_logits():
    acts, *rest = batch([4, 3], [2, 1])
    leaf = acts.float().requires_grad_()

    def both(order):
        logits = leaf.tanh()  # needs its result in its own backward pass
        losses = [rnnt_loss(logits, *rest), (logits * logits).sum()]
        del logits
        return losses[order[0]] + losses[order[1]]

    gradients = [torch.autograd.grad(both(o), leaf)[0] for o in ((0, 1), (1, 0))]
    t = leaf.detach().tanh().requires_grad_()
    (rnnt_loss(t, *rest) + (t * t).sum()).backward()
    whole = t.grad * (1 - t.detach() ** 2)
    for gradient in gradients:
        torch.testing.assert_close(gradient, whole)


def test_a_graph_that_is_kept_gives_the_same_gradient_again():
    acts, *rest = batch([4, 3], [2, 1])
    leaf = acts.float().requires_grad_()
    loss = rnnt_loss(leaf * 1.0, *rest)
    gradients = [
        torch.autograd.grad(loss, leaf, retain_graph=keep)[0] for keep in (True, False)
    ]
    assert torch.equal(*gradients)
