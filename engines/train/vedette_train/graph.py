"""ONNX graphs written node by node, and not by an exporter, so that they hold only what TensorRT 8.5's parser knows
and do not change with the exporter's version.

A graph of half precision is strongly typed: weights and arithmetic are float16, and what would overflow or lose
precision (pixels, variance, softmax, sums over seeds) stays float32 between explicit casts. Nothing is left for an
engine to decide. Inputs and outputs are the same in both precisions.
"""
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from . import operators

OPSET, IR = 13, 8


class Graph:
    """Collects nodes and weights."""

    def __init__(self, half: bool):
        self.half = half
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.known: set[str] = set()

    def const(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        """A weight in single precision, or of another type; one name is one value."""
        if name not in self.known:
            self.known.add(name)
            self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype), name))
        return name

    def weight(self, name: str, value: Any) -> str:
        """A weight in the graph's own precision."""
        return self.const(name, value, np.float16 if self.half else np.float32)

    def add(self, op: str, inputs: Sequence[str], output: str | list[str], **attributes: Any) -> str:
        outputs = output if isinstance(output, list) else [output]
        self.nodes.append(helper.make_node(op, list(inputs), outputs, **attributes))
        return outputs[0]

    def to_half(self, x: str) -> str:
        """`x` of single precision in the graph's own."""
        return self.add("Cast", [x], f"{x}_half", to=TensorProto.FLOAT16) if self.half else x

    def to_single(self, x: str, name: str | None = None) -> str:
        """`x` of the graph's own precision in single."""
        return self.add("Cast", [x], name or f"{x}_single", to=TensorProto.FLOAT) if self.half else x

    def save(self, path: Path, name: str, inputs: dict[str, tuple[int, list[int]]], outputs: dict[str, list[int]],
             metadata: dict[str, str] | None = None) -> None:
        """Inputs as (type, shape after N), outputs as shape after N; checked before it is written."""
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes, name, [value(k, t, ["N", *shape]) for k, (t, shape) in inputs.items()],
            [value(k, TensorProto.FLOAT, ["N", *shape]) for k, shape in outputs.items()], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR, producer_name="vedette")
        if metadata:
            helper.set_model_props(model, metadata)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, path)
        operators.check(path)
