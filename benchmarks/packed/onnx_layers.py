"""Layers that ONNX Runtime computes, as contestants (extra `benchmarks`).

Weights are random: only time is compared. Inputs and results stay in the memory of
PyTorch's tensors, and a session takes as many threads as PyTorch.
"""

import importlib.util
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import nn

PACKAGES = ("onnx", "onnxruntime")
BLOCK = 32
"""Columns that share a scale in MatMulNBits."""
_DOMAIN = "com.microsoft"


def missing() -> Optional[str]:
    """Return a sentence that says why nothing is compared, None if it can be."""
    lacking = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if not lacking:
        return None
    return (
        f"ONNX Runtime is left out: {' and '.join(lacking)} not installed "
        "(pip install onnx onnxruntime)"
    )


class OnnxLayer(nn.Module):
    """A graph in ONNX Runtime that takes and returns tensors.

    Args:
        nodes: Operator, its inputs, outputs and attributes, in turn.
        constants: Weights by name.
        inputs: Shapes of the inputs by name.
        outputs: Shapes of the results by name.
    """

    def __init__(
        self,
        nodes: Sequence[Tuple[str, List[str], List[str], Dict[str, Any]]],
        constants: Dict[str, np.ndarray],
        inputs: Dict[str, Sequence[int]],
        outputs: Dict[str, Sequence[int]],
    ):
        super().__init__()
        import onnx
        import onnxruntime
        from onnx import helper, numpy_helper

        def described(shapes: Dict[str, Sequence[int]]) -> List[Any]:
            kind = onnx.TensorProto.FLOAT
            return [
                helper.make_tensor_value_info(n, kind, s) for n, s in shapes.items()
            ]

        graph = helper.make_graph(
            [
                helper.make_node(
                    *(name, given, made),
                    domain="" if name in ("Add", "Squeeze") else _DOMAIN,
                    **attributes,
                )
                for name, given, made, attributes in nodes
            ],
            "layer",
            described(inputs),
            described(outputs),
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        versions = [helper.make_opsetid("", 17), helper.make_opsetid(_DOMAIN, 1)]
        model = helper.make_model(graph, opset_imports=versions, ir_version=8)
        chosen = onnxruntime.SessionOptions()
        chosen.intra_op_num_threads = torch.get_num_threads()
        chosen.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            model.SerializeToString(), chosen, providers=["CPUExecutionProvider"]
        )
        self.binding = self.session.io_binding()
        self.outputs = outputs
        self.bound: Tuple[int, ...] = ()
        self.made: List[torch.Tensor] = []

    def forward(self, *given: torch.Tensor) -> List[torch.Tensor]:
        """Return the results; their memory is that of the last call of these inputs."""
        addresses = tuple(t.data_ptr() for t in given)
        if addresses != self.bound:
            self.bound, self.made = addresses, []
            for node, t in zip(self.session.get_inputs(), given):
                self.binding.bind_input(
                    *(node.name, "cpu", 0, np.float32, tuple(t.shape), t.data_ptr())
                )
            rows = given[0].shape[0]
            for name, shape in self.outputs.items():
                out = torch.empty([rows if n is None else n for n in shape])
                self.made.append(out)
                self.binding.bind_output(
                    *(name, "cpu", 0, np.float32, tuple(out.shape), out.data_ptr())
                )
        self.session.run_with_iobinding(self.binding)
        return self.made


def _bytes(shape: Sequence[int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _unit(name: str, *shape: int) -> Dict[str, np.ndarray]:
    """Return a scale and a zero point."""
    zero = np.full(shape, 128, dtype=np.uint8)
    return {f"{name}_s": np.full(shape, 0.01, np.float32), f"{name}_z": zero}


def int8_product(rows: int, cols: int) -> OnnxLayer:
    """Return DynamicQuantizeMatMul: 8-bit weights, activations rounded to 8 bits."""
    constants = {"w": _bytes((cols, rows)), "b": np.zeros(rows, np.float32)}
    return OnnxLayer(
        [("DynamicQuantizeMatMul", ["x", "w", "w_s", "w_z", "b"], ["y"], {})],
        {**constants, **_unit("w")},
        {"x": (None, cols)},  # type: ignore[dict-item]
        {"y": (None, rows)},  # type: ignore[dict-item]
    )


def n_bit_product(rows: int, cols: int, bits: int) -> OnnxLayer:
    """Return MatMulNBits with 8-bit activations (accuracy_level 4)."""
    blocks = -(-cols // BLOCK)
    constants = {
        "w": _bytes((rows, blocks, BLOCK * bits // 8)),
        "s": np.full((rows, blocks), 0.01, np.float32),
        "b": np.zeros(rows, np.float32),
    }
    sizes = dict(K=cols, N=rows, bits=bits, block_size=BLOCK, accuracy_level=4)
    return OnnxLayer(
        [("MatMulNBits", ["x", "w", "s", "", "", "b"], ["y"], sizes)],
        constants,
        {"x": (None, cols)},  # type: ignore[dict-item]
        {"y": (None, rows)},  # type: ignore[dict-item]
    )


def lstm_stack(layers: int, inputs: int, units: int) -> OnnxLayer:
    """Return DynamicQuantizeLSTM layers, each followed by a projection to `inputs`.

    It takes x (1, 1, inputs), the states h and c of each layer (1, 1, units) in turn,
    and returns the result and the new states.
    """
    nodes: List[Any] = []
    constants: Dict[str, np.ndarray] = {}
    given: Dict[str, Sequence[int]] = {"x": (1, 1, inputs)}
    made: Dict[str, Sequence[int]] = {"y": (1, 1, inputs)}
    constants["axis"] = np.array([1], np.int64)
    at = "x"
    for i in range(layers):
        name, last = f"l{i}", i == layers - 1
        state = (1, 1, units)
        given.update({f"{name}_h": state, f"{name}_c": state})
        made.update({f"{name}_h1": state, f"{name}_c1": state})
        constants.update(
            {
                f"{name}_w": _bytes((1, inputs, 4 * units)),
                f"{name}_r": _bytes((1, units, 4 * units)),
                f"{name}_b": np.zeros((1, 8 * units), np.float32),
                f"{name}_p": _bytes((units, inputs)),
                **_unit(f"{name}_w", 1),
                **_unit(f"{name}_r", 1),
                **_unit(f"{name}_p"),
            }
        )
        parts = ["w", "r", "b", None, "h", "c", None, "w_s", "w_z", "r_s", "r_z"]
        nodes += [
            (
                "DynamicQuantizeLSTM",
                [at, *(f"{name}_{part}" if part else "" for part in parts)],
                [f"{name}_out", f"{name}_h1", f"{name}_c1"],
                dict(hidden_size=units),
            ),
            ("Squeeze", [f"{name}_out", "axis"], [f"{name}_flat"], {}),
            (
                "DynamicQuantizeMatMul",
                [f"{name}_flat", *(f"{name}_{part}" for part in ("p", "p_s", "p_z"))],
                ["y" if last else f"{name}_y"],
                {},
            ),
        ]
        at = f"{name}_y"
    return OnnxLayer(nodes, constants, given, made)
