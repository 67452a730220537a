"""What a graph may hold so that TensorRT 8.5, the oldest on a supported device, parses it (its parser's list of
operators: onnx-tensorrt, release/8.5-GA, docs/operators.md)."""
from pathlib import Path

import onnx
from onnx import TensorProto

from .errors import KitError

OPSETS = range(13, 18)
ALLOWED = frozenset("""
    Abs Add AveragePool Cast Clip Concat Conv DequantizeLinear Div Gemm GRU LSTM MatMul Max Min Mul Pow QuantizeLinear
    ReduceMean Relu Reshape Softmax Split Sqrt Squeeze Sub Sum Transpose
""".split())
WEIGHTS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32}


def problems(model: onnx.ModelProto) -> list[str]:
    """What in a graph is not allowed; empty if all is well."""
    found = []
    for opset in model.opset_import:
        if opset.domain not in ("", "ai.onnx"):
            found.append(f"operators of {opset.domain}")
        elif opset.version not in OPSETS:
            found.append(f"opset {opset.version}; {OPSETS.start} to {OPSETS.stop - 1} are parsed")
    found += sorted({f"operator {n.op_type}" for n in model.graph.node if n.op_type not in ALLOWED})
    found += [f"weights {w.name} of type {TensorProto.DataType.Name(w.data_type)}" for w in model.graph.initializer
              if w.data_type not in WEIGHTS]
    for value in list(model.graph.input) + list(model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if not dims or not dims[0].dim_param or any(d.dim_param for d in dims[1:]):
            found.append(f"{value.name}: its first dimension alone has to be open")
    return found


def check(path: Path) -> None:
    if found := problems(onnx.load(path)):
        raise KitError(f"{path}: TensorRT 8.5 would not parse {'; '.join(found)}")
