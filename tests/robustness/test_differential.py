"""All forms of a module agree, or refuse in a sentence: random small modules.

The reference is the hardened float module, which itself is compared with a search for
the nearest centroid in float64. GQ_DIFFERENTIAL_MODULES is the number of modules that
each test draws: by default the same few at every run, others where it is set.
"""

import contextlib
import copy
import io
import math
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from random_modules import DTYPES, Spec, default_dtype, seeded, specs
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils._pytree import tree_leaves

import espnet_gq
from espnet_gq.nn.layers import QuantizedLayer, quantized_once
from espnet_gq.nn.prepare import quantized_layers, quantized_weights
from espnet_gq.packing import (
    harden_state_dict,
    load_packed,
    save,
    unpack_state_dict,
)
from espnet_gq.quantizer.function import HARD
from espnet_gq.quantizer.peers.dkm import DKMQuantizer
from espnet_gq.quantizer.peers.lloyd_max import LloydMaxQuantizer
from espnet_gq.runtime import PackedWeight, reference, set_mode, skeleton

MODULES = os.environ.get("GQ_DIFFERENTIAL_MODULES")
REFUSALS = (ValueError, RuntimeError, TypeError, IndexError, NotImplementedError)
"""What PyTorch raises for bad input; GQConfigError and NotFiniteError are ValueErrors."""
MODES = {
    "with gradients": torch.enable_grad,
    "without gradients": torch.no_grad,
    "in inference mode": torch.inference_mode,
}

drawn = settings(
    max_examples=int(MODULES or 150),
    deadline=None,
    derandomize=MODULES is None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def is_a_sentence(error: Exception) -> bool:
    text = str(error)
    return bool(text) and "\n" not in text and len(text) < 600


def refused(call, *words: str) -> None:
    """Check that a call is refused in one sentence that has these words."""
    with pytest.raises(REFUSALS) as caught:
        call()
    assert is_a_sentence(caught.value), caught.value
    assert all(word in str(caught.value) for word in words), caught.value


def flat(result):
    return [t for t in tree_leaves(result) if torch.is_tensor(t)]


class Trial:
    """A prepared module, the hardened one, an input and what has to come out.

    Args:
        spec: The module.
    """

    def __init__(self, spec: Spec):
        self.spec = spec
        self.x = spec.input()
        self.prepared = self.prepare(spec.build())
        self._train(self.prepared)
        self.prepared.eval()
        self.hardened = self.harden(self.prepared)
        self.expected = self.call(self.hardened)

    def prepare(self, module: nn.Module) -> nn.Module:
        with default_dtype(self.spec.default):
            return espnet_gq.prepare(module, copy.deepcopy(self.spec.conf))

    def harden(self, module: nn.Module) -> nn.Module:
        with default_dtype(self.spec.default):
            return espnet_gq.harden(module)

    def pack(self, module: nn.Module) -> dict:
        with default_dtype(self.spec.default):
            return espnet_gq.pack(module)

    def load(self, module: nn.Module, source, mode: str = "exact") -> nn.Module:
        with default_dtype(self.spec.default):
            return load_packed(module, source, mode).eval()

    def call(self, module: nn.Module, x=None, mode=torch.no_grad):
        """Return the outputs of a module."""
        with default_dtype(self.spec.default), mode(), seeded(1):
            return flat(module(self.x if x is None else x))

    def _train(self, module: nn.Module) -> None:
        parameters = [p for p in module.parameters() if p.requires_grad]
        module.train()
        for step in range(self.spec.steps):
            with default_dtype(self.spec.default), seeded(step):
                loss = sum(y.float().square().sum() for y in flat(module(self.x)))
                if loss.requires_grad:
                    loss.backward()
                with torch.no_grad():
                    for p in parameters:
                        if p.grad is not None:
                            size = p.grad.float().norm().clamp_min(1e-6)
                            p.sub_((0.1 * p.grad / size).to(p.dtype))
                        p.grad = None
                espnet_gq.advance(module)

    def tolerance(self, hardened=None, x=None):
        """Return how far rounding may move each output of the hardened module."""
        hardened = self.hardened if hardened is None else hardened
        x = self.x if x is None else x
        expected = self.call(hardened, x)
        eps = max(
            torch.finfo(p.dtype).eps
            for p in (*hardened.parameters(), torch.empty(0))
            if p.is_floating_point()
        )

        def moved(t, generator):
            noise = torch.rand(t.shape, generator=generator, dtype=torch.float64)
            return (t.double() * (1 + 2 * eps * (2 * noise - 1))).to(t.dtype)

        most = [0.0] * len(expected)
        for seed in range(3):
            generator = torch.Generator().manual_seed(seed)
            other = copy.deepcopy(hardened)
            with torch.no_grad():
                for p in other.parameters():
                    p.copy_(moved(p, generator))
            near = moved(x, generator) if x.is_floating_point() else x
            for i, (a, b) in enumerate(zip(self.call(other, near), expected)):
                if a.numel():
                    gap = (a.double() - b.double()).abs().nan_to_num(0.0, 0.0)
                    most[i] = max(most[i], float(gap.max()))
        largest = [
            float(t.double().abs().nan_to_num(0.0, 0.0).max()) if t.numel() else 0.0
            for t in expected
        ]
        return [8 * m + 32 * eps * max(1.0, n) for m, n in zip(most, largest)]

    def agree(self, got, expected=None, tolerance=None, dtype=None) -> None:
        """Check outputs: number, type, shape and values."""
        expected = self.expected if expected is None else expected
        if tolerance is None:
            tolerance = self.own_tolerance
        assert len(got) == len(expected)
        for a, b, most in zip(got, expected, tolerance):
            assert a.dtype == (dtype or b.dtype), (a.dtype, dtype or b.dtype)
            assert a.shape == b.shape, (a.shape, b.shape)
            if a.numel() and b.isfinite().all():
                gap = float((a.detach().double() - b.detach().double()).abs().max())
                assert gap <= most, f"off by {gap:.3g}, allowed {most:.3g}"

    @property
    def limits(self) -> bool:
        """Whether an embedding limits the norm of its rows."""
        first = self.spec.blocks[0]
        return first.kind == "Embedding" and first.options["max_norm"] is not None

    @property
    def quantized(self) -> bool:
        """Whether a rule leaves something to quantize."""
        return bool(list(quantized_layers(self.prepared)))

    @property
    def own_tolerance(self):
        if not hasattr(self, "_tolerance"):
            self._tolerance = self.tolerance()
        return self._tolerance

    def gradients(self, module: nn.Module):
        """Return the gradients for the input and, by name, for the parameters."""
        x = self.x.clone()
        if x.is_floating_point():
            x.requires_grad_()
        module.zero_grad()
        loss = sum(
            (y.double() * torch.arange(1, y.numel() + 1).view(y.shape).cos()).sum()
            for y in self.call(module, x, torch.enable_grad)
        )
        if loss.requires_grad:
            loss.backward()
        return x.grad, {n: p.grad for n, p in module.named_parameters()}


def trial(spec: Spec):
    """Return a trial, None where the module itself cannot do this or is refused."""
    try:
        spec.build().eval()(spec.input())
        module = spec.build()
        if spec.steps:
            module.train()(spec.input())
    except REFUSALS:
        return None  # float layers cannot do it either
    before = [(type(m), list(m._modules)) for m in module.modules()]
    try:
        espnet_gq.prepare(module, copy.deepcopy(spec.conf))
    except espnet_gq.GQConfigError as e:
        assert is_a_sentence(e), e
        assert before == [(type(m), list(m._modules)) for m in module.modules()]
        return None
    try:
        return Trial(spec)
    except espnet_gq.nn.finite.NotFiniteError as e:  # 16 bits overflow in training
        assert is_a_sentence(e) and spec.steps, e
        return None


@contextlib.contextmanager
def form(name: str):
    """Say which form is at fault."""
    try:
        yield
    except BaseException as e:
        e.add_note(f"form: {name}")
        raise


def in_threads(t: Trial, module: nn.Module):
    """Return the outputs of calls in four threads at once."""
    with ThreadPoolExecutor(4) as pool, default_dtype(t.spec.default):
        def call(_):
            with torch.no_grad():
                return flat(module(t.x))

        return list(pool.map(call, range(8)))


def saved(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


# --- the reference --------------------------------------------------------------------


def check_hardened(t: Trial) -> None:
    """Compare hardened weights with a search for the nearest centroid in float64."""
    new = t.harden(t.prepared)  # an embedding with max_norm changes at its first use
    hardened = dict(new.named_parameters(remove_duplicate=False))
    bits = {}
    for name, weight, quantizer in quantized_weights(t.prepared):
        bits[name] = quantizer.bits
        fitted = quantizer.fitted_to(weight)
        scale = fitted.scale(torch.float64)
        rows = weight.detach().double().reshape(len(scale), -1)
        z = scale * fitted.normalized_centroids().double()
        assert hardened[name].requires_grad == weight.requires_grad
        got = hardened[name].detach()
        assert got.dtype == weight.dtype and got.shape == weight.shape
        if not weight.numel():
            continue
        for row in got.reshape(len(scale), -1):
            assert len(row.unique()) <= 2**quantizer.bits
        got = got.double().reshape(rows.shape)
        eps = 4 * max(torch.finfo(weight.dtype).eps, 1e-7)
        size = torch.maximum(z.abs().amax(1, keepdim=True), rows.abs())
        slack = eps * size + 1e-12
        if weight.dtype == torch.float16:
            slack = slack + 2.0**-24
        distance = (got[..., None] - z[:, None]).abs().amin(-1)
        assert (distance <= slack).all(), name
        nearest = (rows[..., None] - z[:, None]).abs().amin(-1)
        assert ((got - rows).abs() <= nearest + slack).all(), name
    summary = espnet_gq.summarize(t.prepared)
    floats = espnet_gq.summarize(t.spec.build())
    parameters = sum(p.numel() for p in t.spec.build().parameters())
    assert summary.total == floats.total == parameters
    assert dict(summary.quantized) == bits
    assert not espnet_gq.summarize(new).quantized
    assert not list(quantized_layers(new))
    assert set(new.state_dict()) == set(t.spec.build().state_dict())
    plain = t.spec.build(seed=77).eval()
    plain.load_state_dict(new.state_dict())
    t.agree(t.call(plain))


# --- prepared modules -----------------------------------------------------------------


def prepared_modes(t: Trial) -> None:
    for name, mode in MODES.items():
        with form(name):
            t.agree(t.call(t.prepared, mode=mode))
    with quantized_once(t.prepared):
        t.agree(t.call(t.prepared))
        t.agree(t.call(t.prepared))
    t.agree(t.call(t.prepared))


def prepared_gradients(t: Trial) -> None:
    """After inference mode, the gradients are those of the hardened module."""
    t.call(t.prepared, mode=torch.inference_mode)
    try:
        x, own = t.gradients(t.hardened)
    except (RuntimeError, IndexError):  # mixed with sparse ones
        return
    x_too, own_too = t.gradients(t.prepared)
    for name, a, b in [
        ("input", x_too, x),
        *((name, own_too[name], own[name]) for name in own),
    ]:
        if t.limits and name == "blocks.0.weight":
            continue
        assert (a is None) == (b is None), name
        if a is None:
            continue
        a, b = (g.to_dense().double() for g in (a, b))
        eps = torch.finfo(DTYPES[t.spec.dtype]).eps
        most = 3e-3 if eps < 1e-6 else 0.2
        if b.isfinite().all() and b.numel():
            size = max(float(b.abs().max()), 1e-3)
            assert float((a - b).abs().max()) <= most * size, name


def prepared_attributes(t: Trial) -> None:
    """What is read through an attribute is the weight in use."""
    hardened = dict(t.harden(t.prepared).named_modules(remove_duplicate=False))
    for name, layer in quantized_layers(t.prepared):
        for weight, parameter, _ in layer.quantized():
            read = getattr(layer, weight) * 1
            assert type(read) is torch.Tensor
            torch.testing.assert_close(read, getattr(hardened[name], weight) * 1)
            assert getattr(layer, weight).data_ptr() == parameter.data_ptr()


def prepared_copies(t: Trial) -> None:
    for name, copied in {
        "deepcopy": copy.deepcopy,
        "pickle": lambda m: pickle.loads(pickle.dumps(m)),
        "torch.save": saved,
        "deepcopy of a deepcopy": lambda m: copy.deepcopy(copy.deepcopy(m)),
    }.items():
        with form(name):
            other = copied(t.prepared)
            t.agree(t.call(other))
            t.agree(t.call(t.harden(other)))
            assert not {id(p) for p in other.parameters()} & {
                id(p) for p in t.prepared.parameters()
            }


def prepared_state(t: Trial) -> None:
    """A state dict has all there is."""
    other = t.prepare(t.spec.build(seed=77)).eval()
    t.call(other)
    other.load_state_dict(t.prepared.state_dict())
    t.agree(t.call(other))
    file = io.BytesIO()
    torch.save(t.prepared.state_dict(), file)
    file.seek(0)
    other = t.prepare(t.spec.build(seed=78)).eval()
    other.load_state_dict(torch.load(file, weights_only=True), assign=True)
    t.agree(t.call(other))
    if all(q.fitted for _, _, q in quantized_weights(t.prepared)):
        plain = t.spec.build(seed=77).eval()
        plain.load_state_dict(harden_state_dict(t.prepared.state_dict()))
        t.agree(t.call(plain))


def prepared_float_weights(t: Trial) -> None:
    """Float weights loaded after a look at the module get a codebook of their own."""
    late = t.prepare(t.spec.build(seed=77)).eval()
    t.call(late)
    late.load_state_dict(t.spec.build().state_dict(), strict=False)
    want = t.harden(t.prepare(t.spec.build()).eval())
    t.agree(t.call(late), t.call(want), t.tolerance(want))


def prepared_averages(t: Trial) -> None:
    """The average of one model is that model, whenever the copy was made."""
    with form("average of one"):
        average = AveragedModel(t.prepared)
        average.update_parameters(t.prepared)
        average.update_parameters(t.prepared)
        t.agree(t.call(average.module.eval()))
    with form("a copy made before the first forward pass"):
        source = t.prepare(t.spec.build())
        average = AveragedModel(source)
        t._train(source)
        average.update_parameters(source)
        t.agree(t.call(average.module.eval()))


def prepared_writes(t: Trial) -> None:
    """Weights that are written to are seen."""
    other = copy.deepcopy(t.prepared)
    t.call(other)
    for _, layer in quantized_layers(other):
        for name, _, _ in layer.quantized():
            getattr(layer, name).data.neg_()
    t.agree(t.call(other), t.call(t.harden(other)), t.tolerance(t.harden(other)))
    with torch.no_grad():
        for p in other.parameters():
            p.data.mul_(0.75)
    t.agree(t.call(other), t.call(t.harden(other)), t.tolerance(t.harden(other)))


def prepared_casts(t: Trial) -> None:
    other = copy.deepcopy(t.prepared).double()
    if t.spec.dtype != "float64":
        with form("float64"):
            x = t.x.double() if t.x.is_floating_point() else t.x
            hardened = t.harden(other)
            t.agree(t.call(other, x), t.call(hardened, x), t.tolerance(hardened, x))
        with form("float64 and back"):
            t.agree(t.call(other.to(DTYPES[t.spec.dtype])))
    for name in ("bfloat16", "float32"):
        with form(name):
            x = t.x.to(DTYPES[name]) if t.x.is_floating_point() else t.x
            other = copy.deepcopy(t.prepared).to(DTYPES[name])
            hardened = t.harden(other)
            try:
                want = t.call(hardened, x)
            except RuntimeError:
                continue
            t.agree(t.call(other, x), want, t.tolerance(hardened, x))
    with form("moved"):
        t.agree(t.call(copy.deepcopy(t.prepared).to("cpu").share_memory()))


def prepared_training(t: Trial) -> None:
    """A training step computes as the float or the hardened module, where it is hard."""
    other = t.prepare(t.spec.build())
    quantizers = [q for _, _, q in quantized_weights(other)]
    step = t.spec.conf["annealing"]["warmup_steps"]
    if step:
        want = t.spec.build().train()
    elif not t.limits and all(
        getattr(q, "mode", HARD) == HARD
        and not isinstance(q, (DKMQuantizer, LloydMaxQuantizer))
        for q in quantizers
    ):
        for _, weight, quantizer in quantized_weights(other):
            quantizer.fit(weight)
        want = t.harden(other).train()
    else:
        return
    try:
        expected = t.call(want, mode=torch.enable_grad)
    except (RuntimeError, ValueError):
        return  # batch normalization of one value
    # Statistics of a batch are not in the reference's tolerance.
    size = max([1.0, *(float(y.abs().max()) for y in expected if y.numel())])
    eps = max(torch.finfo(DTYPES[t.spec.dtype]).eps, 1e-7)
    few = any(b.kind in ("Batched", "LayerNorm", "Transformer") for b in t.spec.blocks)
    most = [eps * size * (20000 if few else 300)] * len(expected)
    t.agree(t.call(other.train(), mode=torch.enable_grad), expected, most)


def prepared_threads(t: Trial) -> None:
    for got in in_threads(t, t.prepared):
        t.agree(got)


def prepared_tracing(t: Trial) -> None:
    if t.spec.seed % 4 or 0 in t.spec.shape or not t.quantized:
        return
    with torch.no_grad():
        refused(lambda: torch.jit.trace(t.prepared, (t.x,)), "harden")
        if t.spec.seed % 8 == 0:
            refused(
                lambda: torch.export.export(t.prepared, (t.x,), strict=False), "harden"
            )
        torch._C._jit_clear_class_registry()


def prepared_twice(t: Trial) -> None:
    if not t.quantized:
        return
    keys = list(t.prepared.state_dict())
    refused(lambda: espnet_gq.prepare(t.prepared, {"bits": 3}), "quantized already")
    assert keys == list(t.prepared.state_dict())


def built_in_inference_mode(t: Trial) -> None:
    with torch.inference_mode():
        other = t.prepare(t.spec.build()).eval()
        want = t.harden(other)
        t.agree(t.call(other), t.call(want), t.tolerance(want))
    t.agree(t.call(other), t.call(want), t.tolerance(want))


def unchanged(t: Trial) -> None:
    """All that was done to copies left the module as it was."""
    t.agree(t.call(t.prepared))
    t.agree(t.call(t.harden(t.prepared)))


PREPARED = [
    *(check_hardened, prepared_modes, prepared_gradients, prepared_attributes),
    *(prepared_copies, prepared_state, prepared_float_weights, prepared_averages),
    *(prepared_writes, prepared_casts, prepared_training, prepared_threads),
    *(prepared_tracing, prepared_twice, built_in_inference_mode, unchanged),
]


def check(spec: Spec, forms) -> bool:
    """Check forms of a module; return whether there was anything to check."""
    with torch.random.fork_rng(devices=[]):
        t = trial(spec)
        for one in forms if t else ():
            with form(one.__name__):
                one(t)
    return t is not None


@drawn
@given(specs())
def test_prepared(spec):
    check(spec, PREPARED)
