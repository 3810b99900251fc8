"""The kernels beside the libraries that use the processor's matrix units (AMX).

They share threads and registers with them; the kernels themselves use no AMX.
"""

import io
import threading

import numpy as np
import pytest
import torch
from torch import nn

from espnet_gq.quantizer.mulaw import codebook
from espnet_gq.runtime import PackedWeight, available
from espnet_gq.runtime.layout import planes_size

pytestmark = pytest.mark.skipif(not available(), reason="the kernels were not built")


def work_of_kernels():
    planes = torch.randint(256, (planes_size(512, 512, 5),), dtype=torch.uint8)
    c, _ = codebook(torch.tensor(2.0), 5)
    weight = PackedWeight(planes, (512, 512), c, torch.ones(1))
    x = torch.randn(40, 512)

    def run():
        results = []
        for mode in ("exact", "int8"):
            weight.mode = mode
            results += [weight.linear(x), weight.linear(x[:1])]
        return results

    return run


def work_of_onednn():
    linear = nn.Linear(512, 512)
    int8 = torch.ao.quantization.quantize_dynamic(nn.Sequential(linear), {nn.Linear})
    half, x = linear.bfloat16(), torch.randn(64, 512)

    def run():
        return [int8(x), half(x.bfloat16())]

    return run


def work_of_onnxruntime():
    onnxruntime = pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    draw = np.random.default_rng(0)
    weight = draw.integers(-127, 127, (512, 512), dtype=np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "int8",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [64, 512])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [64, 512])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    buffer = io.BytesIO()
    onnx.save(model, buffer)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(
        buffer.getvalue(), options, providers=["CPUExecutionProvider"]
    )
    x = draw.integers(0, 255, (64, 512), dtype=np.uint8)

    def run():
        return [torch.from_numpy(session.run(None, {"x": x})[0])]

    return run


@pytest.mark.parametrize(
    "others",
    [[work_of_onednn], [work_of_onnxruntime], [work_of_onednn, work_of_onnxruntime]],
    ids=["oneDNN", "ONNX Runtime", "both"],
)
def test_results_do_not_change(others):
    works = [make() for make in (work_of_kernels, *others)]
    failures = []
    with torch.no_grad():
        expected = [work() for work in works]

    def repeat(work, results):
        with torch.no_grad():
            for _ in range(50):
                for a, b in zip(work(), results):
                    if not torch.equal(a, b):
                        failures.append(work)

    with torch.no_grad():  # in turn, then at the same time
        for _ in range(10):
            for work, results in zip(works, expected):
                assert all(torch.equal(a, b) for a, b in zip(work(), results))
    threads = [
        threading.Thread(target=repeat, args=job) for job in zip(works, expected)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
