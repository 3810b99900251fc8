"""What a process that decodes does not load."""

import subprocess
import sys

HEAVY = ("torch._dynamo", "triton", "sympy", "espnet", "espnet2")


def loaded_after(code):
    """Return which of HEAVY a new process has loaded after running some code."""
    report = f"import sys; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip().splitlines()[-1]


def test_pytorch_without_its_compiler():
    """Building a model without memory, and packed inference in it."""
    code = """
import torch, espnet_gq
from torch import nn
from espnet_gq.packing import load_packed
from espnet_gq.runtime import skeleton

def make():
    return nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 8), nn.LSTM(8, 8))

torch.manual_seed(0)
packed = espnet_gq.pack(espnet_gq.prepare(make(), {"bits": 3}).eval())
with skeleton():
    model = make()
load_packed(model, packed)
with torch.no_grad():
    model(torch.arange(5))
"""
    assert loaded_after(code) == "[]"


def test_quantizers_are_excluded_from_compilation():
    """Also where the compiler is loaded after this package."""
    code = """
import torch, espnet_gq
module = espnet_gq.prepare(torch.nn.Sequential(torch.nn.Linear(6, 6)), {"bits": 2})
graphs = []

def backend(graph, inputs):
    graphs.append(graph)
    return graph

compiled = torch.compile(module, backend=backend)
x = torch.randn(3, 6)
with torch.no_grad():
    torch.testing.assert_close(compiled(x), module(x))
assert all("quantizer" not in graph.code for graph in graphs)
from espnet_gq.quantizer import Quantizer
assert Quantizer.forward.__wrapped__ is not None
"""
    assert "torch._dynamo" in loaded_after(code)
