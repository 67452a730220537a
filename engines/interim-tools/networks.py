"""The interim model's two networks, in PyTorch and as ONNX graphs written node by node.

The graphs are written by hand, and not by an exporter, so that they hold only what TensorRT 8.5's parser knows
(opset 13, LayerNorm from primitives, batch norm folded) and do not change with the exporter's version.
"""
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper as h, numpy_helper
from torch import nn
from torchvision.models import mobilenet_v2

OPSET, IR = 13, 8
GAIN = 4.0                                  # a difference is shown amplified, and cut at 255
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]   # of ImageNet
FEATURES, WINDOW, HIDDEN, STATE, CLIP = 320, 16, 128, 64, 4.0


class Encoder(nn.Module):
    """uint8 [N,h,w,6] (this frame, the one before) -> features [N,320], map [N,320,h/32,w/32]. Frozen."""

    def __init__(self, weights):
        super().__init__()
        net = mobilenet_v2()
        net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self.body = net.features[:18].eval().requires_grad_(False)   # all but the last 1x1 convolution

    def forward(self, view):
        x = view.to(torch.float32)
        x = (GAIN * (x[..., :3] - x[..., 3:]).abs()).clamp(max=255)
        x = (x / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
        m = self.body(x.permute(0, 3, 1, 2).contiguous())
        return m.mean((2, 3)), m


class Head(nn.Module):
    """Standardised, clipped features [N,16,320] -> logits [N,classes]."""

    def __init__(self, classes, dropout=0.5):
        super().__init__()
        self.project = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.LayerNorm(HIDDEN), nn.ReLU(), nn.Dropout(dropout))
        self.lstm = nn.LSTM(HIDDEN, STATE, batch_first=True)
        self.attention = nn.Linear(STATE, 1)
        self.out = nn.Sequential(nn.Dropout(dropout), nn.Linear(STATE, classes))

    def forward(self, x):
        states, _ = self.lstm(self.project(x))
        weights = self.attention(states).softmax(1)
        return self.out((weights * states).sum(1))


class Graph:
    """Collects nodes and weights of an ONNX graph."""

    def __init__(self):
        self.nodes, self.weights, self.known = [], [], set()

    def const(self, name, value, dtype=np.float32):
        if name not in self.known:
            self.known.add(name)
            value = value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
            self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype), name))
        return name

    def add(self, op, inputs, output, **attributes):
        outputs = output if isinstance(output, list) else [output]
        self.nodes.append(h.make_node(op, inputs, outputs, **attributes))
        return output

    def save(self, path, name, inputs, outputs, metadata=None):
        graph = h.make_graph(self.nodes, name, inputs, outputs, self.weights)
        model = h.make_model(graph, opset_imports=[h.make_opsetid("", OPSET)], ir_version=IR, producer_name="vedette")
        if metadata:
            h.set_model_props(model, metadata)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, path)


def write_encoder(encoder, path, size):
    g = Graph()
    g.add("Cast", ["view"], "pixels", to=TensorProto.FLOAT)
    g.add("Split", ["pixels", g.const("three", [3, 3], np.int64)], ["now", "before"], axis=3)
    g.add("Abs", [g.add("Sub", ["now", "before"], "moved")], "difference")
    g.add("Mul", ["difference", g.const("gain", GAIN)], "amplified")
    g.add("Min", ["amplified", g.const("white", 255.0)], "shown")
    g.add("Mul", ["shown", g.const("scale", 1 / (255 * np.array(STD)))], "scaled")
    g.add("Sub", ["scaled", g.const("shift", np.array(MEAN) / np.array(STD))], "normal")
    x = g.add("Transpose", ["normal"], "image", perm=[0, 3, 1, 2])
    n = 0

    def conv(x, conv, bn, clip):
        nonlocal n
        n += 1
        scale = bn.weight / torch.sqrt(bn.running_var + bn.eps)
        weight = conv.weight * scale[:, None, None, None]
        bias = bn.bias - bn.running_mean * scale
        p = conv.padding[0]
        y = g.add("Conv", [x, g.const(f"w{n}", weight), g.const(f"b{n}", bias)], f"conv{n}",
                  strides=list(conv.stride), pads=[p] * 4, group=conv.groups, kernel_shape=list(conv.kernel_size))
        return g.add("Clip", [y, g.const("zero", 0.0), g.const("six", 6.0)], f"relu{n}") if clip else y

    for block in encoder.body:
        if not hasattr(block, "conv"):                    # the first layer: Conv, BN, ReLU6
            x = conv(x, block[0], block[1], True)
            continue
        *hidden, last, bn = block.conv
        y = x
        for layer in hidden:
            y = conv(y, layer[0], layer[1], True)
        y = conv(y, last, bn, False)
        x = g.add("Add", [x, y], f"sum{n}") if block.use_res_connect else y
    g.nodes[-1].output[0] = "map"
    g.add("ReduceMean", ["map"], "features", axes=[2, 3], keepdims=0)
    cells = size // 32
    g.save(path, "encoder", [h.make_tensor_value_info("view", TensorProto.UINT8, ["N", size, size, 6])],
           [h.make_tensor_value_info("features", TensorProto.FLOAT, ["N", FEATURES]),
            h.make_tensor_value_info("map", TensorProto.FLOAT, ["N", FEATURES, cells, cells])])


def write_head(heads, mean, std, classes, path):
    """The mean of the logits of `heads` (one for each seed) in one graph."""
    g = Graph()
    g.add("Sub", ["features", g.const("mean", mean)], "centred")
    g.add("Div", ["centred", g.const("std", std)], "standard")
    g.add("Clip", ["standard", g.const("low", -CLIP), g.const("high", CLIP)], "clipped")

    def gates(w):                                         # PyTorch: i f g o; ONNX: i o f c
        i, f, c, o = w.detach().chunk(4)
        return torch.cat([i, o, f, c])

    for k, head in enumerate(heads):
        linear, norm = head.project[0], head.project[1]
        c = lambda name, value: g.const(f"{name}{k}", value)
        t = lambda name: f"{name}_{k}"
        g.add("MatMul", ["clipped", c("project", linear.weight.T)], t("mm"))
        g.add("Add", [t("mm"), c("project_bias", linear.bias)], t("x"))
        g.add("ReduceMean", [t("x")], t("mu"), axes=[2])
        g.add("Sub", [t("x"), t("mu")], t("d"))
        g.add("Mul", [t("d"), t("d")], t("dd"))
        g.add("ReduceMean", [t("dd")], t("var"), axes=[2])
        g.add("Add", [t("var"), c("eps", norm.eps)], t("var_eps"))
        g.add("Sqrt", [t("var_eps")], t("sigma"))
        g.add("Div", [t("d"), t("sigma")], t("unit"))
        g.add("Mul", [t("unit"), c("gamma", norm.weight)], t("scaled"))
        g.add("Add", [t("scaled"), c("beta", norm.bias)], t("normed"))
        g.add("Relu", [t("normed")], t("relu"))
        g.add("Transpose", [t("relu")], t("time_first"), perm=[1, 0, 2])
        lstm = head.lstm
        bias = torch.cat([gates(lstm.bias_ih_l0), gates(lstm.bias_hh_l0)])
        g.add("LSTM", [t("time_first"), c("lstm_w", gates(lstm.weight_ih_l0)[None]),
                       c("lstm_r", gates(lstm.weight_hh_l0)[None]), c("lstm_b", bias[None])], t("y"), hidden_size=STATE)
        g.add("Squeeze", [t("y"), g.const("axis1", [1], np.int64)], t("y1"))
        g.add("Transpose", [t("y1")], t("states"), perm=[1, 0, 2])
        g.add("MatMul", [t("states"), c("attention", head.attention.weight.T)], t("att"))
        g.add("Add", [t("att"), c("attention_bias", head.attention.bias)], t("att_b"))
        g.add("Softmax", [t("att_b")], t("weights"), axis=1)
        g.add("Transpose", [t("weights")], t("weights_t"), perm=[0, 2, 1])
        g.add("MatMul", [t("weights_t"), t("states")], t("pooled"))
        g.add("Squeeze", [t("pooled"), "axis1"], t("state"))
        out = head.out[1]
        g.add("Gemm", [t("state"), c("out", out.weight), c("out_bias", out.bias)], t("logits"), transB=1)
    total = g.add("Sum", [f"logits_{k}" for k in range(len(heads))], "total") if len(heads) > 1 else "logits_0"
    g.add("Div", [total, g.const("heads", float(len(heads)))], "logits")
    g.add("Softmax", ["logits"], "probabilities", axis=1)
    g.save(path, "head", [h.make_tensor_value_info("features", TensorProto.FLOAT, ["N", WINDOW, FEATURES])],
           [h.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", len(classes)])],
           {"vedette.classes": ",".join(classes)})
