"""The encoder: the arithmetic on pixels, a backbone up to its cuts, and the features as the mean of the map. In
PyTorch, and as a graph."""
from pathlib import Path

import numpy as np
import torch
from onnx import TensorProto
from torch import nn

from .backbone import KINDS, blocks
from .errors import KitError
from .graph import Graph
from .recipe import Encoder as Spec
from .recipe import View

WHITE = 255.0


class Encoder(nn.Module):
    """uint8 [N,h,w,3 or 6] -> features [N,F], map [N,F,rows,columns]."""

    def __init__(self, spec: Spec, view: View):
        super().__init__()
        self.spec, self.view, self.kind = spec, view, KINDS[spec.kind]
        row = blocks(spec.kind)
        self.cuts = [_cut(c, len(row)) for c in spec.cuts]
        self.row = row[:max(n for n, _ in self.cuts) + 1]
        self.blocks = nn.ModuleList(self.row)            # the same blocks, for PyTorch to find their weights
        if spec.fine_tune_blocks > len(self.blocks):
            raise KitError(f"encoder.fine_tune_blocks is {spec.fine_tune_blocks}; up to its cut the encoder has {len(self.blocks)} blocks")
        with torch.inference_mode():
            _, cells = self(torch.zeros(1, view.height, view.width, view.channels, dtype=torch.uint8))
        self.size, self.cells = int(cells.shape[1]), [int(n) for n in cells.shape[2:]]

    def forward(self, view: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        s, x = self.spec, view.to(torch.float32)
        if s.input == "difference":
            x = (x[..., :3] - x[..., 3:]).abs()
            if s.gray != "none":
                x = x.amax(-1, keepdim=True) if s.gray == "max" else x.mean(-1, keepdim=True)
            x = (torch.tensor(s.gain) * (x - s.noise_floor).clamp(min=0)).clamp(max=WHITE)
            if s.curve != 1:
                x = WHITE * (x / WHITE) ** s.curve
        x = (x - torch.tensor(self.kind.mean)) / torch.tensor(self.kind.std)
        x = x.permute(0, 3, 1, 2).contiguous()
        found: dict[tuple[int, str], torch.Tensor] = {}
        for n, block in enumerate(self.row):
            y = x
            for name, conv in block.steps():
                y = conv(y)
                found[n, name] = y
            x = x + y if block.shortcut else y
            found[n, ""] = x
        maps = [found[c] for c in self.cuts]
        rows = min(m.shape[2] for m in maps)
        maps = [nn.functional.avg_pool2d(m, m.shape[2] // rows) if m.shape[2] > rows else m for m in maps]
        m = torch.cat(maps, 1)
        if s.moments == 2:
            m = torch.cat([m, m * m], 1)
        return m.mean((2, 3)), m


def _cut(text: str, count: int) -> tuple[int, str]:
    number, _, inside = text.partition(".")
    if not number.isdigit() or int(number) >= count or inside not in ("", "expand", "depthwise"):
        raise KitError(f"encoder.cuts: {text!r} is no cut; use a block, 0 to {count - 1}, or \"N.expand\" or \"N.depthwise\" inside one")
    return int(number), inside


def write(encoder: Encoder, path: Path, half: bool) -> None:
    """The graph. Pixels, map and features are single precision in both."""
    s, kind, g = encoder.spec, encoder.kind, Graph(half)
    x = g.add("Cast", ["view"], "pixels", to=TensorProto.FLOAT)
    # Channels first from here on: arithmetic with one number a channel is several times as fast over whole planes.
    x = g.add("Transpose", [x], "planes", perm=[0, 3, 1, 2])
    if s.input == "difference":
        g.add("Split", [x, g.const("three", [3, 3], np.int64)], ["now", "before"], axis=1)
        x = g.add("Abs", [g.add("Sub", ["now", "before"], "moved")], "difference")
        if s.gray != "none":
            x = g.add("ReduceMax" if s.gray == "max" else "ReduceMean", [x], "gray", axes=[1], keepdims=1)
        if s.noise_floor > 0:
            x = g.add("Relu", [g.add("Sub", [x, g.const("noise_floor", s.noise_floor)], "above_noise")], "signal")
        x = g.add("Mul", [x, g.const("gain", planes(s.gain))], "amplified")
        x = g.add("Min", [x, g.const("white", WHITE)], "shown")
        if s.curve != 1:
            x = g.add("Div", [x, "white"], "share")
            # Pow of 0 is computed by logarithm on some engines.
            x = g.add("Sqrt", [x], "bent") if s.curve == 0.5 else g.add("Pow", [x, g.const("curve", s.curve)], "bent")
            x = g.add("Mul", [x, "white"], "curved")
    x = g.add("Sub", [x, g.const("mean", planes(kind.mean))], "centred")
    x = g.to_half(g.add("Div", [x, g.const("std", planes(kind.std))], "normal"))
    size = (encoder.view.height, encoder.view.width)
    found: dict[tuple[int, str], tuple[str, tuple[int, int]]] = {}
    for n, block in enumerate(encoder.row):
        y, y_size = x, size
        for name, conv in block.steps():
            weight, bias = conv.folded()
            pads, stride, kernel = conv.pads(*y_size), conv.conv.stride[0], conv.conv.kernel_size[0]
            y_size = ((y_size[0] + pads[0] + pads[2] - kernel) // stride + 1, (y_size[1] + pads[1] + pads[3] - kernel) // stride + 1)
            at = f"{n}_{name}"
            y = g.add("Conv", [y, g.weight(f"w{at}", weight), g.weight(f"b{at}", bias)], f"conv{at}", strides=[stride] * 2,
                      pads=list(pads), group=conv.conv.groups, kernel_shape=[kernel] * 2)
            if conv.clips:
                y = g.add("Clip", [y, g.weight("zero", 0.0), g.weight("six", 6.0)], f"relu{at}")
            found[n, name] = (y, y_size)
        x = g.add("Add", [x, y], f"sum{n}") if block.shortcut else y
        size = y_size
        found[n, ""] = (x, size)
    parts = []
    for k, cut in enumerate(encoder.cuts):
        name, (rows, _) = found[cut]
        name = g.to_single(name)
        if rows > encoder.cells[0]:
            step = rows // encoder.cells[0]
            name = g.add("AveragePool", [name], f"pooled{k}", kernel_shape=[step] * 2, strides=[step] * 2)
        parts.append(name)
    m = g.add("Concat", parts, "joined", axis=1) if len(parts) > 1 else parts[0]
    if s.moments == 2:
        m = g.add("Concat", [m, g.add("Mul", [m, m], "squares")], "both", axis=1)
    _rename(g, m, "map")
    g.add("ReduceMean", ["map"], "features", axes=[2, 3], keepdims=0)
    g.save(path, "encoder", {"view": (TensorProto.UINT8, [encoder.view.height, encoder.view.width, encoder.view.channels])},
           {"features": [encoder.size], "map": [encoder.size, *encoder.cells]})


def planes(each: tuple[float, ...]) -> np.ndarray:
    """One number for each channel, to be used over whole planes."""
    return np.reshape(each, (-1, 1, 1))


def _rename(g: Graph, old: str, new: str) -> None:
    for node in g.nodes:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = new
