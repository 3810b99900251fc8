"""All forms of a random small module agree, or refuse in one sentence.

The reference is the hardened float module, which itself is compared with a search for
the nearest centroid in float64. GQ_DIFFERENTIAL_MODULES sets the number of modules that
each test draws. By default, every run draws the same few modules.
"""

import contextlib
import copy
import functools
import io
import os
import pickle
import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils._pytree import tree_leaves

import espnet_gq
from espnet_gq.native.library import HARD
from espnet_gq.nn.layers import QuantizedLayer, quantized_once
from espnet_gq.nn.prepare import quantized_layers, quantized_weights
from espnet_gq.packing import (
    harden_state_dict,
    load_packed,
    save,
    unpack_state_dict,
)
from espnet_gq.quantizer.baselines.dkm import DKMQuantizer
from espnet_gq.quantizer.baselines.lloyd_max import LloydMaxQuantizer
from espnet_gq.quantizer.baselines.lsq import LSQuantizer
from espnet_gq.runtime import PackedWeight, reference, set_mode, skeleton
from tests.robustness.random_modules import (
    DTYPES,
    Spec,
    default_dtype,
    seeded,
    specs,
)

MODULES = os.environ.get("GQ_DIFFERENTIAL_MODULES")
REFUSALS = (ValueError, RuntimeError, TypeError, IndexError, NotImplementedError)
"""Exceptions of PyTorch for bad input; this project raises ValueError."""
MODES = {
    "with gradients": torch.enable_grad,
    "without gradients": torch.no_grad,
    "in inference mode": torch.inference_mode,
}

pytestmark = pytest.mark.filterwarnings("ignore")  # from tracing, about constants

drawn = settings(
    max_examples=int(MODULES or 150),
    deadline=None,
    derandomize=MODULES is None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


class Refused(Exception):
    """The module was refused as expected and has no further forms."""


def is_a_sentence(error: Exception) -> bool:
    text = str(error)
    return bool(text) and "\n" not in text and len(text) < 600


def refused(call, *words: str) -> None:
    """Check that a call is refused in one sentence that contains these words."""
    with pytest.raises(REFUSALS) as caught:
        call()
    assert is_a_sentence(caught.value), caught.value
    assert all(word in str(caught.value) for word in words), caught.value


def flat(result):
    return [t for t in tree_leaves(result) if torch.is_tensor(t)]


class Trial:
    """A prepared module, its hardened form, an input and the expected output.

    Args:
        spec: The module.
    """

    def __init__(self, spec: Spec):
        self.spec = spec
        self.seed = zlib.crc32(repr(spec).encode())
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
        """Return the rounding tolerance for each output of the hardened module."""
        hardened = self.hardened if hardened is None else hardened
        x = self.x if x is None else x
        expected = self.call(hardened, x)
        eps = max(
            torch.finfo(p.dtype).eps
            for p in (*hardened.parameters(), torch.empty(0))
            if p.is_floating_point()
        )

        most = [0.0] * len(expected)
        for other, near in rounded(hardened, x, eps):
            for i, (a, b) in enumerate(zip(self.call(other, near), expected)):
                if a.numel():
                    gap = (a.double() - b.double()).abs().nan_to_num(0.0, 0.0)
                    most[i] = max(most[i], float(gap.max()))
        largest = [
            float(t.double().abs().nan_to_num(0.0, 0.0).max()) if t.numel() else 0.0
            for t in expected
        ]
        return [10 * m + 32 * eps * max(1.0, n) for m, n in zip(most, largest)]

    def agree(self, got, expected=None, tolerance=None, dtype=None) -> None:
        """Compare outputs: number, type, shape and values."""
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
        """Whether the module has an embedding with max_norm."""
        first = self.spec.blocks[0]
        return first.kind == "Embedding" and first.options["max_norm"] is not None

    @property
    def quantized(self) -> bool:
        """Whether the rules leave anything to quantize."""
        return bool(list(quantized_layers(self.prepared)))

    @functools.cached_property
    def own_tolerance(self):
        """The tolerance of the hardened module on the trial's input."""
        return self.tolerance()

    @functools.cached_property
    def file(self) -> Dict[str, Any]:
        """The packed module as a saved file."""
        return self.pack(self.prepared)

    @functools.cached_property
    def packed(self) -> nn.Module:
        """The packed module."""
        return self.load(self.spec.build(seed=77), self.file)

    @functools.cached_property
    def gradient_tolerance(self) -> Dict[str, float]:
        """The rounding tolerance for each gradient of the hardened module, by name.

        For example, a layer norm over one channel divides rounding errors by the square
        root of its epsilon.
        """
        eps = torch.finfo(DTYPES[self.spec.dtype]).eps
        most: Dict[str, float] = {}
        expected = self.gradients(self.hardened)
        for other, near in rounded(self.hardened, self.x, eps):
            for name, a in self.gradients(other, near).items():
                if a is not None and a.numel():
                    gap = a.to_dense().double() - expected[name].to_dense().double()
                    gap = float(gap.abs().nan_to_num(0.0, 0.0).max())
                    most[name] = max(most.get(name, 0.0), 10 * gap)
        return most

    def gradients(self, module: nn.Module, x=None) -> Dict[str, Any]:
        """Return the gradients of the parameters by name, and of the "input"."""
        x = (self.x if x is None else x).clone()
        if x.is_floating_point():
            x.requires_grad_()
        module.zero_grad()
        loss = sum(
            (y.double() * torch.arange(1, y.numel() + 1).view(y.shape).cos()).sum()
            for y in self.call(module, x, torch.enable_grad)
        )
        if loss.requires_grad:
            loss.backward()
        return {"input": x.grad, **{n: p.grad for n, p in module.named_parameters()}}


def rounded(module: nn.Module, x: torch.Tensor, eps: float):
    """Yield copies of a module and its input with rounding errors in all values."""

    def moved(t, generator):
        noise = torch.rand(t.shape, generator=generator, dtype=torch.float64)
        return (t.double() * (1 + 2 * eps * (2 * noise - 1))).to(t.dtype)

    other = copy.deepcopy(module)
    pairs = list(zip(other.parameters(), module.parameters()))
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p, original in pairs:
                p.copy_(moved(original, generator))
        yield other, moved(x, generator) if x.is_floating_point() else x


def trial(spec: Spec):
    """Return a trial; None if the module cannot run or is refused."""
    try:
        spec.build().eval()(spec.input())
        module = spec.build()
        if spec.steps:
            module.train()(spec.input())
    except (*REFUSALS, AssertionError):
        return None  # the float layers refuse it, too
    before = [(type(m), list(m._modules)) for m in module.modules()]
    try:
        espnet_gq.prepare(module, copy.deepcopy(spec.conf))
    except espnet_gq.GQConfigError as e:
        assert is_a_sentence(e), e
        assert before == [(type(m), list(m._modules)) for m in module.modules()]
        return None
    try:
        return Trial(spec)
    except espnet_gq.nn.finite.NotFiniteError as e:  # float16 overflows in training
        assert is_a_sentence(e) and spec.steps, e
        return None
    except (RuntimeError, IndexError):
        first = module.get_submodule("blocks.0")
        if type(first) is nn.Embedding and first.sparse:
            return None  # PyTorch does not support it with all options
        raise


@contextlib.contextmanager
def form(name: str):
    """Name the form in the error message of a failure."""
    try:
        yield
    except BaseException as e:
        e.add_note(f"form: {name}")
        raise


def in_threads(t: Trial, module: nn.Module):
    """Return the outputs of concurrent calls in four threads."""
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


def close(t: Trial, a, b, name: str) -> None:
    """Compare a gradient with the reference's."""
    assert (a is None) == (b is None), name
    if a is None or not b.numel():
        return
    a, b = (g.to_dense().double() for g in (a, b))
    if b.isfinite().all() and torch.finfo(DTYPES[t.spec.dtype]).eps < 1e-6:
        gap, size = float((a - b).abs().max()), max(float(b.abs().max()), 0.02)
        if gap > 3e-3 * size:
            most = t.gradient_tolerance[name]
            assert gap <= most, f"gradient of {name}: off by {gap:.3g} of {size:.3g}"


COPIES = {
    "deepcopy": copy.deepcopy,
    "deepcopy of a deepcopy": lambda m: copy.deepcopy(copy.deepcopy(m)),
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "torch.save": saved,
}


def copies(t: Trial) -> Dict[str, Any]:
    """Return the ways to copy a module that PyTorch has for its layers."""
    return {n: c for n, c in COPIES.items() if t.spec.pickles or "deepcopy" in n}


# --- the reference --------------------------------------------------------------------


def check_hardened(t: Trial) -> None:
    """Compare hardened weights with a search for the nearest centroid in float64."""
    new = t.harden(t.prepared)  # an embedding with max_norm changes on its first use
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
    """Gradients after inference mode equal those of the hardened module."""
    t.call(t.prepared, mode=torch.inference_mode)
    try:
        own = t.gradients(t.hardened)
    except (RuntimeError, IndexError):  # mixed with sparse gradients
        return
    got = t.gradients(t.prepared)
    for name in own:
        if not (t.limits and name == "blocks.0.weight"):
            close(t, got[name], own[name], name)


def prepared_attributes(t: Trial) -> None:
    """Weights read through attributes are the weights in use."""
    hardened = dict(t.harden(t.prepared).named_modules(remove_duplicate=False))
    for name, layer in quantized_layers(t.prepared):
        for weight, parameter, _ in layer.quantized():
            read = getattr(layer, weight) * 1
            assert type(read) is torch.Tensor
            torch.testing.assert_close(read, getattr(hardened[name], weight) * 1)
            assert getattr(layer, weight).data_ptr() == parameter.data_ptr()


def prepared_copies(t: Trial) -> None:
    for name, copied in copies(t).items():
        with form(name):
            other = copied(t.prepared)
            t.agree(t.call(other))
            t.agree(t.call(t.harden(other)))
            assert not {id(p) for p in other.parameters()} & {
                id(p) for p in t.prepared.parameters()
            }


def prepared_state(t: Trial) -> None:
    """A state dict is complete."""
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
    """Loading float weights after an evaluation fits a new codebook."""
    late = t.prepare(t.spec.build(seed=77)).eval()
    t.call(late)
    late.load_state_dict(t.spec.build().state_dict(), strict=False)
    want = t.harden(t.prepare(t.spec.build()).eval())
    t.agree(t.call(late), t.call(want), t.tolerance(want))


def prepared_defaults(t: Trial) -> None:
    """PyTorch's default type changes neither quantizers nor results."""
    for _, _, quantizer in quantized_weights(t.prepared):
        for name, value in quantizer.state_dict().items():
            assert value.dtype == torch.float32, name
    other = espnet_gq.prepare(t.spec.build(), copy.deepcopy(t.spec.conf))
    want = t.harden(t.prepare(t.spec.build())).eval()
    t.agree(t.call(espnet_gq.harden(other).eval()), t.call(want))


def prepared_averages(t: Trial) -> None:
    """The average of one model equals that model, whenever the copy was made."""
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
    """Writes to weights take effect."""
    other = copy.deepcopy(t.prepared)
    t.call(other)
    for _, layer in quantized_layers(other):
        for name, _, _ in layer.quantized():
            getattr(layer, name).data.neg_()
    t.agree(t.call(other), t.call(t.harden(other)), t.tolerance(t.harden(other)))
    with torch.no_grad():
        for p in other.parameters():
            p.data = p.data * 0.75  # new memory
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
    """Training uses float weights during a warm-up, and hard weights otherwise."""
    other = t.prepare(t.spec.build())
    step = t.spec.conf["annealing"]["warmup_steps"]
    if step:
        want = t.spec.build().train()
    elif not t.limits and all(
        getattr(q, "mode", HARD) == HARD
        and not isinstance(q, (DKMQuantizer, LloydMaxQuantizer))
        # The fitted scale of a single weight puts it half way between two levels.
        and not (isinstance(q, LSQuantizer) and q.log_scale.numel() == w.numel())
        for _, w, q in quantized_weights(other)
    ):
        for _, weight, quantizer in quantized_weights(other):
            quantizer.fit(weight)
        want = t.harden(other).train()
    else:
        return
    try:
        expected = t.call(want, mode=torch.enable_grad)
    except (RuntimeError, ValueError):
        return  # batch normalization of a single value
    # The reference's tolerance does not cover batch statistics.
    size = max([1.0, *(float(y.abs().max()) for y in expected if y.numel())])
    eps = max(torch.finfo(DTYPES[t.spec.dtype]).eps, 1e-7)
    few = any(b.kind in ("Batched", "LayerNorm", "Transformer") for b in t.spec.blocks)
    most = [eps * size * (20000 if few else 300)] * len(expected)
    t.agree(t.call(other.train(), mode=torch.enable_grad), expected, most)


def prepared_threads(t: Trial) -> None:
    for got in in_threads(t, t.prepared):
        t.agree(got)


def prepared_tracing(t: Trial) -> None:
    if t.seed % 4 or 0 in t.spec.shape or not t.quantized:
        return
    with torch.no_grad():
        refused(lambda: torch.jit.trace(t.prepared, (t.x,)), "harden")
        if t.seed % 8 == 0:
            refused(
                lambda: torch.export.export(t.prepared, (t.x,), strict=False), "harden"
            )


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
    """Operations on copies leave the module unchanged."""
    t.agree(t.call(t.prepared))
    t.agree(t.call(t.harden(t.prepared)))


PREPARED = [
    *(check_hardened, prepared_modes, prepared_gradients, prepared_attributes),
    *(prepared_copies, prepared_state, prepared_float_weights, prepared_averages),
    *(prepared_writes, prepared_casts, prepared_training, prepared_threads),
    *(prepared_tracing, prepared_twice, prepared_defaults),
    *(built_in_inference_mode, unchanged),
]


def check(spec: Spec, forms) -> bool:
    """Check forms of a module; return whether there was anything to check."""
    with torch.random.fork_rng(devices=[]):
        t = trial(spec)
        for number, one in enumerate(forms if t else ()):
            if not MODULES and number and (t.seed // 16 + number) % 3:
                continue
            try:
                with form(one.__name__):
                    one(t)
            except Refused:
                break
    return t is not None


@drawn
@given(specs())
def test_prepared(spec):
    check(spec, PREPARED)


# --- packed modules -------------------------------------------------------------------


def packed_weights(t: Trial) -> None:
    """The file and the layers contain the hardened weights and no others."""
    if not t.quantized:
        refused(lambda: t.pack(t.prepared), "no quantized tensor")
        raise Refused
    packed = t.packed
    hardened = t.harden(t.prepared)
    state = unpack_state_dict(t.file)
    plain = t.spec.build(seed=77)
    plain.load_state_dict({k: v for k, v in state.items() if "_quantizer." not in k})
    parameters = dict(plain.named_parameters(remove_duplicate=False))
    eps = max(torch.finfo(DTYPES[t.spec.dtype]).eps, 1e-7)
    modules = dict(packed.named_modules(remove_duplicate=False))
    names = set()
    for name, layer in t.prepared.named_modules(remove_duplicate=False):
        if isinstance(layer, QuantizedLayer):
            for weight, _, _ in layer.quantized():
                key = f"{name}.{weight}" if name else weight
                names.add(key)
                want = hardened.get_parameter(key)
                found = modules[key]
                assert isinstance(found, PackedWeight)
                for got in (parameters[key], found.dense()):
                    assert got.dtype == want.dtype
                    torch.testing.assert_close(got, want, rtol=2 * eps, atol=1e-7)
    left = dict(hardened.named_parameters(remove_duplicate=False)).keys() - names
    assert set(dict(packed.named_parameters(remove_duplicate=False))) == left
    assert {k for k, m in modules.items() if isinstance(m, PackedWeight)} == names
    # Exactly the layers that share a tensor share the packed one.
    for a in names:
        for b in names:
            shared = hardened.get_parameter(a) is hardened.get_parameter(b)
            assert shared == (modules[a] is modules[b])
    refused(lambda: espnet_gq.pack(packed), "no quantized tensor")


def packed_modes(t: Trial) -> None:
    packed = t.packed
    for name, mode in MODES.items():
        with form(name):
            t.agree(t.call(packed, mode=mode))
    t.agree(t.call(packed))


def packed_loading(t: Trial) -> None:
    with form("into a prepared module"):
        t.agree(t.call(t.load(t.prepare(t.spec.build(seed=78)), t.file)))
    with form("into a skeleton"):
        with skeleton():
            empty = t.spec.build(seed=79)
        t.agree(t.call(t.load(empty.to(DTYPES[t.spec.dtype]), t.file)))
    with form("from a file"), tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "packed.pth")
        save(t.file, path)
        t.agree(t.call(t.load(t.spec.build(seed=80), path)))


def packed_reloading(t: Trial) -> None:
    """The state dict of a packed module loads into another."""
    state = t.packed.state_dict()
    other = t.prepare(t.spec.build(seed=77)).eval()
    other = t.load(t.spec.build(seed=78), t.pack(other))
    t.call(other)
    for assign in (False, True):
        if assign:
            state = saved_state(state)
        other.load_state_dict(state, assign=assign)
        t.agree(t.call(other))
        other = copy.deepcopy(other)


def saved_state(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def packed_copies(t: Trial) -> None:
    for name, copied in copies(t).items():
        with form(name):
            t.agree(t.call(copied(t.packed)))


def packed_gradients(t: Trial) -> None:
    """Gradients of inputs and float parameters equal the reference's."""
    packed = t.packed
    t.call(packed, mode=torch.inference_mode)
    try:
        own = t.gradients(t.hardened)
    except (RuntimeError, IndexError):
        return
    for name, grad in t.gradients(packed).items():
        close(t, grad, own[name], name)


def packed_casts(t: Trial) -> None:
    for name in ("float64", "bfloat16", "float32"):
        with form(name):
            dtype = DTYPES[name]
            x = t.x.to(dtype) if t.x.is_floating_point() else t.x
            hardened = copy.deepcopy(t.hardened).to(dtype)
            try:
                want = t.call(hardened, x)
            except RuntimeError:
                continue
            got = t.call(copy.deepcopy(t.packed).to(dtype), x)
            # Centroids are float32, although the float weights were rounded before.
            most = t.tolerance(hardened, x)
            if t.spec.dtype in ("bfloat16", "float16"):
                most = [max(pair) for pair in zip(most, t.own_tolerance)]
            t.agree(got, want, most)
    with form("and back"):
        there = copy.deepcopy(t.packed).double()
        t.agree(t.call(there.to(DTYPES[t.spec.dtype])))


def packed_writes(t: Trial) -> None:
    """Writes to float parameters take effect."""
    other, hardened = copy.deepcopy(t.packed), copy.deepcopy(t.hardened)
    t.call(other)
    names = dict(other.named_parameters())
    with torch.no_grad():
        for name in names:
            for module in (other, hardened):
                module.get_parameter(name).data.add_(0.25)
                module.get_parameter(name).mul_(1.5)
    t.agree(t.call(other), t.call(hardened), t.tolerance(hardened))
    for name in names:
        for module in (other, hardened):
            parameter = module.get_parameter(name)
            parameter.data = parameter.data - 0.5  # new memory
    t.agree(t.call(other), t.call(hardened), t.tolerance(hardened))


def packed_threads(t: Trial) -> None:
    for got in in_threads(t, t.packed):
        t.agree(got)


def packed_int8(t: Trial) -> None:
    """Layers agree with the reference's int8 product within the error bound."""
    other = set_int8(copy.deepcopy(t.packed))

    def check_product(layer, inputs, output):
        weight, (x,) = layer._modules["weight"], inputs
        bias = layer._parameters["bias"]
        if isinstance(layer, nn.Conv1d):
            x, output = x.transpose(-1, -2), output.transpose(-1, -2)
        if not (isinstance(weight, PackedWeight) and x.isfinite().all() and x.numel()):
            return
        parts = (weight.index(), weight.codebook, weight.scale)
        value = reference.int8_linear(x, *parts, bias).double()
        dense = weight.dense().double().view(weight.rows, weight.cols)
        wide = x.double()
        exact = wide @ dense.t() + (0.0 if bias is None else bias.double())
        unit = wide.abs().amax(-1, keepdim=True) / 127
        code = reference.codes(weight.codebook)[1]
        scale = weight.scale.double().repeat_interleave(
            weight.rows // weight.scale.numel()
        )
        bound = unit / 2 * dense.abs().sum(1) + scale * code / 2 * (
            wide.abs().sum(-1, keepdim=True) + weight.cols * unit / 2
        )
        eps = max(torch.finfo(x.dtype).eps, 1e-6)
        rounding = eps * (1.0 + (wide.abs() @ dense.abs().t()) + exact.abs())
        got = output.detach().double()
        # A value half way between two integers may be rounded to either.
        halves = ((wide / unit).abs().frac() - 0.5).abs() < 1e-3
        either = (halves * unit) @ (dense.abs() + scale[:, None] * code).t()
        assert ((got - value).abs() <= rounding + either).all()
        assert ((got - exact).abs() <= bound * 1.001 + rounding).all()

    handles = []
    for layer in other.modules():
        pointwise = (
            isinstance(layer, nn.Conv1d)
            and layer.kernel_size == (1,)
            and layer.stride == (1,)
            and layer.padding in ((0,), "valid", "same")
            and layer.groups == 1
        )
        if isinstance(layer, nn.Linear) or pointwise:
            if "weight" in layer._modules:
                handles.append(layer.register_forward_hook(check_product))
    got = t.call(other)
    for handle in handles:
        handle.remove()
    assert [(y.dtype, y.shape) for y in got] == [(y.dtype, y.shape) for y in t.expected]
    for a, b in zip(got, t.expected):
        assert not b.isfinite().all() or a.isfinite().all()
    set_mode(other, "exact")
    t.agree(t.call(other))


def set_int8(module: nn.Module) -> nn.Module:
    set_mode(module, "int8")
    return module


def packed_tracing(t: Trial) -> None:
    """Traced and exported modules handle other inputs."""
    if 0 in t.spec.shape or (t.seed % 4 and not MODULES):
        return
    x = t.spec.input(seed=5)
    both = {"hardened": t.hardened, "packed": t.packed}
    for name, module in both.items():
        want = t.call(t.hardened, x)
        most = t.tolerance(x=x)
        with form(f"{name}, traced"):
            with default_dtype(t.spec.default), torch.no_grad():
                traced = torch.jit.trace(module, (t.x,), check_trace=False)
            t.agree(t.call(traced, x), want, most)
    if t.seed % 8:
        return
    if any(b.options.get("lengths") for b in t.spec.blocks):
        return  # PyTorch cannot export the float module and raises a long message
    with default_dtype(t.spec.default), torch.no_grad():
        try:
            torch.export.export(t.hardened, (t.x,), strict=False)
        except Exception:
            return  # PyTorch cannot export the float module
        with form("exported"):
            exported = torch.export.export(t.packed, (t.x,), strict=False)
            t.agree(t.call(exported.module(), x), want, most)


def packed_layers(t: Trial) -> None:
    """Results of layers have the memory layout of PyTorch's."""
    seen: Dict[str, Any] = {}

    def watch(module, results):
        def hook(name):
            def found(layer, inputs, output):
                results[name] = output

            return found

        kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding)
        return [
            layer.register_forward_hook(hook(name))
            for name, layer in module.named_modules()
            if isinstance(layer, kinds)
        ]

    both = {"float": t.hardened, "packed": t.packed}
    for key, module in both.items():
        seen[key] = {}
        handles = watch(module, seen[key])
        t.call(module)
        for handle in handles:
            handle.remove()
    assert seen["float"].keys() == seen["packed"].keys()
    for name, a in seen["float"].items():
        b = seen["packed"][name]
        if not a.is_nested and not b.is_nested:  # a fast path of Transformers
            assert (a.dtype, a.shape) == (b.dtype, b.shape), name
            assert b.is_contiguous() or not a.is_contiguous(), name


def packed_bad_input(t: Trial) -> None:
    """The packed module refuses inputs that the float module refuses."""
    both = {"packed": t.packed, "prepared": t.prepared}
    wrong = [torch.zeros(2, dtype=torch.complex64)]
    if t.spec.looked_up:
        rows = t.spec.blocks[0].options["num_embeddings"]
        wrong += [t.x + rows, t.x - rows, t.x.float(), t.x.bool()]
    else:
        # PyTorch reads out of bounds for packed sequences of another size.
        if not any(b.options.get("lengths") for b in t.spec.blocks):
            wrong += [t.x[..., :-1], torch.cat([t.x, t.x], -1)]
        wrong += [
            t.x.to(torch.float64 if t.spec.dtype != "float64" else torch.float32),
            t.x.long(),
            t.x[None, None, None],
            t.x.reshape(-1)[:0].reshape(0),
        ]
    for x in wrong:
        try:
            want = t.call(t.hardened, x)
        except Exception:
            want = None
        for name, module in both.items():
            with form(f"{name}, input {x.dtype} {tuple(x.shape)}"):
                try:
                    got = t.call(module, x)
                except (*REFUSALS, AssertionError) as e:  # from attention
                    # PyTorch's fast paths ignore inputs without values.
                    assert str(e) and (want is None or not x.numel())
                else:
                    assert want is not None, "not refused"
                    t.agree(got, want, t.tolerance(x=x))


def packed_unchanged(t: Trial) -> None:
    t.agree(t.call(t.packed))
    t.agree(t.call(t.prepared))


PACKED = [
    *(packed_weights, packed_modes, packed_loading, packed_reloading, packed_copies),
    *(packed_gradients, packed_casts, packed_writes, packed_threads, packed_int8),
    *(packed_tracing, packed_layers, packed_bad_input, packed_unchanged),
]


@drawn
@given(specs())
def test_packed(spec):
    check(spec, PACKED)
