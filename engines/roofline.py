#!/usr/bin/env python3
"""What a Jetson could do with a model: arithmetic, no measurement.

    python3 engines/roofline.py [MODEL_DIR]        # default: engines/activity-v1, beside this file

Python 3.9 or later with PyPI's onnx and numpy. Reads `encoder.fp32.onnx`, `head.fp32.onnx` and the manifest's `sample_fps` and `stride`, and
prints Markdown: multiplications and bytes of both networks, the time that a frame cannot be below on three Jetsons, and how near to the same
limit a published figure for MobileNetV2 came. engines/README.md has the result, what it means, and the sources of the devices' figures.

The model, as simple as it can be:

- A **layer** is a node that multiplies matrices (Conv, Gemm, MatMul, LSTM, GRU) with everything behind it up to the next one: activations,
  additions, means, changes of shape cost nothing of their own. What comes before the first such node is one more layer, which prepares the input.
- A layer reads its weights once, each tensor that other layers made once, and writes once each tensor that other layers need. All of
  it goes through memory: caches keep nothing from one layer to the next.
- Numbers take two bytes (FP16), and the graph's inputs and outputs what the file says. A multiplication and its addition are two operations.
- A layer takes the longer of its arithmetic (at the tensor cores' dense FP16 peak) and its traffic (at the memory's peak). Layers run one after
  another; starting one costs nothing.

So a real device is slower, except where caches, or kernels that do two layers at once, save traffic: for that the table has a time in which
all activations are saved.
"""
from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

KINDS = ("input", "conv", "depthwise", "full", "recurrent")
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
HALF = 2
BATCHES = (1, 4, 8)


@dataclass(frozen=True)
class Layer:
    name: str
    kind: str
    macs: int
    weight_bytes: int
    activation_bytes: int


@dataclass(frozen=True)
class Network:
    layers: Tuple[Layer, ...]
    input_output_bytes: int

    def macs(self, *kinds: str) -> int:
        return sum(layer.macs for layer in self.layers if layer.kind in (kinds or KINDS))

    @property
    def weight_bytes(self) -> int:
        return sum(layer.weight_bytes for layer in self.layers)

    @property
    def activation_bytes(self) -> int:
        return sum(layer.activation_bytes for layer in self.layers)


@dataclass(frozen=True)
class Device:
    """`flop_per_core_clock`: dense FP16, of one tensor core in one cycle; 512 in Orin's Ampere, 128 in Xavier's Volta."""
    name: str
    tensor_cores: int
    flop_per_core_clock: int
    gpu_mhz: float
    memory_gb_per_s: float

    @property
    def flop_per_s(self) -> float:
        return self.tensor_cores * self.flop_per_core_clock * self.gpu_mhz * 1e6

    @property
    def bytes_per_s(self) -> float:
        return self.memory_gb_per_s * 1e9


# Sources: engines/README.md, "What a Jetson could do". Bandwidth is bus width x clock x 2, which NVIDIA prints rounded.
DEVICES = (
    Device("Orin Nano 8 GB", 32, 512, 625, 68.3),
    Device("Orin Nano 8 GB, Super", 32, 512, 1020, 102.4),
    Device("Orin NX 16 GB", 32, 512, 918, 102.4),
    Device("Orin NX 16 GB, Super", 32, 512, 1173, 102.4),
    Device("AGX Orin 64 GB", 64, 512, 1300, 204.8),
)
# NVIDIA's own figure for torchvision's MobileNetV2, 224 x 224, one picture at a time, FP16 (source: engines/README.md).
PUBLISHED_ON = Device("AGX Xavier", 64, 128, 1377, 136.5)
PUBLISHED_PER_S = 723.0
PUBLISHED_LATENCY_MS = 1.67


# --- What a network costs ---

def network(model: onnx.ModelProto, batch: int) -> Network:
    """The layers of a graph whose open dimensions are `batch`."""
    graph = fixed(model, batch).graph
    weights = {w.name: w for w in graph.initializer}
    tensors = {v.name: v.type.tensor_type for v in [*graph.input, *graph.value_info, *graph.output]}
    ends = {v.name for v in [*graph.input, *graph.output]}
    layer_of: Dict[str, int] = {}           # the layer that makes a tensor
    nodes: List[List[onnx.NodeProto]] = []  # of each layer; the first of them gives its kind
    kinds: List[Tuple[str, int]] = []

    def shape(name: str) -> List[int]:
        if name in weights:
            return list(weights[name].dims)
        if name not in tensors or any(not d.HasField("dim_value") for d in tensors[name].shape.dim):
            raise SystemExit(f"the shape of {name!r} cannot be worked out")
        return [d.dim_value for d in tensors[name].shape.dim]

    def size(name: str) -> int:
        kind = tensors[name].elem_type
        bytes_each = HALF if kind in FLOATS and name not in ends else np.dtype(helper.tensor_dtype_to_np_dtype(kind)).itemsize
        return elements(shape(name)) * bytes_each

    for node in graph.node:
        kind, macs = cost(node, shape)
        if kind != "input" or not nodes:
            nodes.append([])
            kinds.append((kind, macs))
            at = len(nodes) - 1
        else:
            at = max([layer_of[name] for name in node.input if name in layer_of], default=0)
        nodes[at].append(node)
        layer_of.update((name, at) for name in node.output if name)

    layers = []
    for at, (members, (kind, macs)) in enumerate(zip(nodes, kinds)):
        reads = {name for node in members for name in node.input if name}
        came_in = {name for name in reads - set(weights) if layer_of.get(name) != at}
        needed = {name for other, group in enumerate(nodes) if other != at for node in group for name in node.input}
        goes_out = {name for node in members for name in node.output if name and name in needed | ends}
        layers.append(Layer(
            name=members[0].name or members[0].output[0] or members[0].output[-1], kind=kind, macs=macs,
            weight_bytes=sum(HALF * elements(weights[name].dims) for name in reads & set(weights) if weights[name].data_type in FLOATS),
            activation_bytes=sum(size(name) for name in came_in | goes_out),
        ))
    return Network(tuple(layers), sum(size(name) for name in ends))


def fixed(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """A copy with every open dimension set, and with the shapes of all tensors between."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    for value in [*copy.graph.input, *copy.graph.output]:
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.dim_value = batch
    return shape_inference.infer_shapes(copy, strict_mode=True, data_prop=True)


def cost(node: onnx.NodeProto, shape) -> Tuple[str, int]:
    """The kind of layer that a node begins, and its multiplications; ("input", 0) for a node that begins none."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Conv":
        weight = shape(node.input[1])
        groups = attributes.get("group", 1)
        depthwise = groups > 1 and groups == shape(node.input[0])[1]
        return ("depthwise" if depthwise else "conv"), elements(shape(node.output[0])) * elements(weight[1:])
    if node.op_type == "Gemm":
        return "full", elements(shape(node.output[0])) * shape(node.input[0])[0 if attributes.get("transA") else 1]
    if node.op_type == "MatMul":
        return "full", elements(shape(node.output[0])) * shape(node.input[0])[-1]
    if node.op_type in ("LSTM", "GRU"):
        steps, batch, _ = shape(node.input[0])
        return "recurrent", steps * batch * (elements(shape(node.input[1])) + elements(shape(node.input[2])))
    return "input", 0


def elements(dims: Sequence[int]) -> int:
    return int(np.prod(list(dims), dtype=np.int64))


# --- What a device allows ---

@dataclass(frozen=True)
class Limit:
    """Seconds for one run of a network. `layers` is the limit; `whole` would be it if layers overlapped; `cached` if caches held all activations."""
    compute: float
    memory: float
    layers: float
    cached: float

    @property
    def whole(self) -> float:
        return max(self.compute, self.memory)

    def times(self, factor: float) -> "Limit":
        return Limit(self.compute * factor, self.memory * factor, self.layers * factor, self.cached * factor)


def seconds(layer: Layer, device: Device) -> Tuple[float, float]:
    """Of its arithmetic, and of its traffic."""
    return 2 * layer.macs / device.flop_per_s, (layer.weight_bytes + layer.activation_bytes) / device.bytes_per_s


def limit(net: Network, device: Device) -> Limit:
    each = [seconds(layer, device) for layer in net.layers]
    compute, memory = sum(c for c, _ in each), sum(m for _, m in each)
    least = (net.weight_bytes + net.input_output_bytes) / device.bytes_per_s
    return Limit(compute, memory, sum(max(pair) for pair in each), max(compute, least))


def frame(encoder: Network, head: Network, device: Device, batch: int, stride: int) -> List[Limit]:
    """One frame of one camera: its share of a batch of the encoder, and of a batch of the head every `stride` frames."""
    return [limit(encoder, device).times(1 / batch), limit(head, device).times(1 / (batch * stride))]


def memory_bound(net: Network, device: Device) -> List[Layer]:
    return [layer for layer in net.layers if seconds(layer, device)[1] >= seconds(layer, device)[0]]


# --- The network of the published figure ---

def mobilenet_v2(size: int, classes: int) -> onnx.ModelProto:
    """MobileNetV2 at width 1 (Sandler et al. 2018, table 2), batch normalisation folded, weights zero; `classes` 0: without classifier."""
    nodes: List[onnx.NodeProto] = []
    weights: List[onnx.TensorProto] = []

    def conv(tensor: str, out: int, cin: int, kernel: int, stride: int, groups: int = 1, clip: bool = True) -> str:
        name = f"c{len(nodes)}"
        weights.append(numpy_helper.from_array(np.zeros((out, cin // groups, kernel, kernel), np.float16), name + "_w"))
        weights.append(numpy_helper.from_array(np.zeros(out, np.float16), name + "_b"))
        inputs = [tensor, name + "_w", name + "_b"]
        nodes.append(helper.make_node("Conv", inputs, [name], group=groups, strides=[stride] * 2, pads=[kernel // 2] * 4))
        if clip:
            nodes.append(helper.make_node("Relu", [name], [name + "_r"]))
        return name + "_r" if clip else name

    tensor, channels = conv("picture", 32, 3, 3, 2), 32
    for expand, out, repeats, stride in ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)):
        for repeat in range(repeats):
            start, wide = tensor, channels * expand
            if expand > 1:
                tensor = conv(tensor, wide, channels, 1, 1)
            tensor = conv(tensor, wide, wide, 3, stride if repeat == 0 else 1, groups=wide)
            tensor = conv(tensor, out, wide, 1, 1, clip=False)
            if repeat:
                nodes.append(helper.make_node("Add", [tensor, start], [tensor + "_s"]))
                tensor += "_s"
            channels = out
    tensor = conv(tensor, 1280, channels, 1, 1)
    nodes.append(helper.make_node("ReduceMean", [tensor], ["features"], axes=[2, 3], keepdims=0))
    outputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT16, ["N", 1280])]
    if classes:
        weights.append(numpy_helper.from_array(np.zeros((1280, classes), np.float16), "full_w"))
        weights.append(numpy_helper.from_array(np.zeros(classes, np.float16), "full_b"))
        nodes.append(helper.make_node("Gemm", ["features", "full_w", "full_b"], ["logits"]))
        outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT16, ["N", classes])]
    picture = helper.make_tensor_value_info("picture", TensorProto.FLOAT16, ["N", 3, size, size])
    return helper.make_model(helper.make_graph(nodes, "mobilenet_v2", [picture], outputs, weights), opset_imports=[helper.make_opsetid("", 13)])


# --- Tables ---

def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def costs(name: str, model: onnx.ModelProto) -> List[List[str]]:
    rows = []
    for batch in BATCHES:
        net = network(model, batch)
        moved = net.weight_bytes + net.activation_bytes
        rows.append([name, str(batch), *(f"{net.macs(kind) / 1e6:.2f}" for kind in KINDS[1:]), f"{net.macs() / 1e6:.2f}",
                     f"{net.weight_bytes / 1e6:.2f}", f"{net.activation_bytes / 1e6:.2f}", f"{2 * net.macs() / moved:.0f}"])
    return rows


def limits(encoder: onnx.ModelProto, head: onnx.ModelProto, fps: float, stride: int) -> List[List[str]]:
    rows = []
    for device in DEVICES:
        for batch in (1, 8):
            nets = network(encoder, batch), network(head, batch)
            parts = frame(*nets, device, batch, stride)
            time = sum(part.layers for part in parts)
            rows.append([
                device.name, str(batch), *(f"{sum(getattr(part, key) for part in parts) * 1e6:.0f}" for key in ("compute", "memory", "whole", "layers")),
                f"{parts[1].layers / time:.0%}", f"{1 / time:.0f}", f"{1 / time / fps:.0f}", f"{sum(part.cached for part in parts) * 1e6:.0f}",
                " + ".join(f"{len(memory_bound(net, device))} of {len(net.layers)}" for net in nets),
            ])
    return rows


def compute_bound(encoder: onnx.ModelProto, head: onnx.ModelProto) -> List[str]:
    """The exceptions, by name, where there are any."""
    found = []
    for device in DEVICES:
        for batch in (1, 8):
            nets = network(encoder, batch), network(head, batch)
            names = [layer.name for net in nets for layer in net.layers if layer not in memory_bound(net, device)]
            if names:
                found.append(f"{device.name}, batch {batch}: {', '.join(names)}")
    return found


def main(arguments: Sequence[str]) -> None:
    if len(arguments) > 1 or "--help" in arguments or "-h" in arguments:
        raise SystemExit(__doc__)
    directory = Path(arguments[0]) if arguments else Path(__file__).resolve().parent / "activity-v1"
    encoder, head = (onnx.load(directory / f"{name}.fp32.onnx") for name in ("encoder", "head"))
    manifest = (directory / "manifest.toml").read_text()
    fps, stride = (float(re.findall(rf"^{key} = ([\d.]+)$", manifest, re.MULTILINE)[0]) for key in ("sample_fps", "stride"))

    print(table(["network", "batch", "conv, M MACs", "depthwise", "fully connected", "LSTM", "all", "weights, MB", "activations, MB", "FLOP a byte"],
                costs("encoder", encoder) + costs("head", head)))
    print("\n" + table(["device", "FP16 dense, TFLOPS", "memory, GB/s", "FLOP a byte"],
                       [[d.name, f"{d.flop_per_s / 1e12:.1f}", f"{d.memory_gb_per_s}", f"{d.flop_per_s / d.bytes_per_s:.0f}"]
                        for d in (*DEVICES, PUBLISHED_ON)]))
    print("\n" + table(["device", "batch", "compute, µs", "memory, µs", "the longer", "layer by layer", "head's part", "frames/s",
                        f"cameras at {fps:g}/s", "if caches held all, µs", "memory bound: encoder + head"],
                       limits(encoder, head, fps, int(stride))))
    print("\nNot memory bound: " + ("; ".join(compute_bound(encoder, head)) or "no layer on any of them."))

    reference = network(mobilenet_v2(224, 1000), 1)
    bound = limit(reference, PUBLISHED_ON)
    print(f"\nMobileNetV2, 224 x 224, batch 1: {reference.macs() / 1e6:.1f} M MACs, {reference.weight_bytes / 1e6:.2f} MB of weights, "
          f"{reference.activation_bytes / 1e6:.2f} MB of activations. Limit on {PUBLISHED_ON.name}: compute {bound.compute * 1e6:.0f} µs, "
          f"memory {bound.memory * 1e6:.0f} µs, layer by layer {bound.layers * 1e6:.0f} µs = {1 / bound.layers:.0f} a second.\n"
          f"Published: {PUBLISHED_PER_S:.0f} a second = {PUBLISHED_PER_S * bound.layers:.0%} of the limit; "
          f"latency {PUBLISHED_LATENCY_MS} ms = {bound.layers / PUBLISHED_LATENCY_MS * 1e3:.0%}.")


if __name__ == "__main__":
    main(sys.argv[1:])
