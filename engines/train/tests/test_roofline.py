"""The arithmetic of engines/roofline.py, against numbers counted by hand."""
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

ENGINES = Path(__file__).resolve().parents[2]
FIXTURES = ENGINES.parent / "tests/fixtures/models"
sys.path.insert(0, str(ENGINES))

import roofline                                            # noqa: E402
from roofline import Device, Layer, Network, limit, network  # noqa: E402

DEVICE = Device("one operation and one byte in a nanosecond", 1, 1, 1000, 1)


def fixture(name: str) -> onnx.ModelProto:
    return onnx.load(FIXTURES / f"{name}.onnx")


def default(name: str) -> onnx.ModelProto:
    return onnx.load(ENGINES / "activity-v1" / f"{name}.onnx")


def made(nodes, values, weights=()) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13), helper.make_opsetid("nobody", 1)])


@pytest.mark.parametrize("batch", [1, 4, 8])
def test_an_encoder_counted_by_hand(batch):
    before, conv = network(fixture("encoder"), batch).layers
    # Cast, Div and Transpose: 8 x 8 x 6 bytes in, the same in FP16 out; one weight, the scale.
    assert (before.kind, before.macs, before.weight_bytes, before.activation_bytes) == ("input", 0, 2, batch * 384 * (1 + 2))
    # 4 x 2 x 2 outputs of 6 x 4 x 4 products; reads what was prepared; the map and its means go out as float32.
    assert (conv.kind, conv.macs, conv.weight_bytes) == ("conv", batch * 16 * 96, 4 * 96 * 2)
    assert conv.activation_bytes == batch * (384 * 2 + (16 + 4) * 4)


@pytest.mark.parametrize("batch", [1, 4])
def test_a_head_counted_by_hand(batch):
    before, lstm, full = network(fixture("head"), batch).layers
    assert (before.kind, before.weight_bytes, before.activation_bytes) == ("input", 0, batch * 16 * 4 * (4 + 2))
    # 16 steps, 4 gates of 3, from 4 inputs and 3 states; only the last state goes on.
    assert (lstm.kind, lstm.macs, lstm.weight_bytes) == ("recurrent", batch * 16 * 12 * (4 + 3), 12 * (4 + 3) * 2)
    assert lstm.activation_bytes == batch * (16 * 4 + 3) * 2
    assert (full.kind, full.macs, full.weight_bytes, full.activation_bytes) == ("full", batch * 6, 12, batch * (3 * 2 + 2 * 4))


def test_depthwise_is_told_apart_and_an_addition_reads_its_other_side():
    nodes = [
        helper.make_node("Conv", ["picture", "w0"], ["wide"], pads=[1] * 4),
        helper.make_node("Relu", ["wide"], ["wide_r"]),
        helper.make_node("Conv", ["wide_r", "w1"], ["depth"], pads=[1] * 4, group=8),
        helper.make_node("Add", ["depth", "wide_r"], ["sum"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, ["N", channels, 5, 5]) for name, channels in (("picture", 2), ("sum", 8))]
    weights = [helper.make_tensor(name, TensorProto.FLOAT16, dims, [0] * roofline.elements(dims))
               for name, dims in (("w0", [8, 2, 3, 3]), ("w1", [8, 1, 3, 3]))]
    model = made(nodes, values, weights)
    wide, depth = network(model, 1).layers
    assert (wide.kind, wide.macs) == ("conv", 200 * 18) and (depth.kind, depth.macs) == ("depthwise", 200 * 9)
    assert wide.activation_bytes == (50 + 200) * 2
    assert depth.activation_bytes == (200 + 200) * 2, "its input is what is added; the sum is written once"


def test_both_precisions_of_the_default_model_cost_the_same():
    for name in ("encoder", "head"):
        single, half = (network(default(f"{name}.{precision}"), 1) for precision in ("fp32", "fp16"))
        assert [(layer.kind, layer.macs) for layer in single.layers] == [(layer.kind, layer.macs) for layer in half.layers]
        assert single.input_output_bytes == half.input_output_bytes
        assert half.weight_bytes == pytest.approx(single.weight_bytes, rel=1e-3)


def test_the_networks_are_of_the_size_that_is_known_of_them():
    # The paper says 300 M multiplications and 3.4 M parameters; counted exactly they are 300.8 and 3.5, batch normalisation folded.
    whole = network(roofline.mobilenet_v2(224, 1000), 1)
    assert whole.macs() == 300_774_272 and whole.weight_bytes == 2 * 3_487_816
    # The default encoder is MobileNetV2 without its classifier, at 160 x 160.
    ours, known = network(default("encoder.fp32"), 1), network(roofline.mobilenet_v2(160, 0), 1)
    for kind in ("conv", "depthwise"):
        assert ours.macs(kind) == known.macs(kind)


def test_the_limit_is_the_longer_of_both_for_each_layer():
    net = Network((Layer("a", "conv", 500, 10, 90), Layer("b", "depthwise", 5, 100, 900)), 70)
    found = limit(net, DEVICE)
    assert found.compute == pytest.approx(1010e-9) and found.memory == pytest.approx(1100e-9)
    assert found.whole == pytest.approx(1100e-9)
    assert found.layers == pytest.approx((1000 + 1000) * 1e-9)
    assert found.cached == pytest.approx(1010e-9), "110 bytes of weights and 70 in and out take less than the arithmetic"
    assert [layer.name for layer in roofline.memory_bound(net, DEVICE)] == ["b"]


def test_a_frame_takes_its_share_of_a_batch_and_of_a_stride():
    encoder, head = Network((Layer("e", "conv", 0, 0, 8000),), 0), Network((Layer("h", "full", 0, 0, 6400),), 0)
    parts = roofline.frame(encoder, head, DEVICE, batch=8, stride=4)
    assert [part.layers for part in parts] == pytest.approx([1000e-9, 200e-9])


def test_peaks_round_to_what_nvidia_prints():
    printed = {"Orin Nano 8 GB": (10, 68), "Orin Nano 8 GB, Super": (17, 102), "Orin NX 16 GB": (15, 102), "Orin NX 16 GB, Super": (19, 102)}
    for device in roofline.DEVICES:
        if device.name in printed:
            assert (round(device.flop_per_s / 1e12), round(device.memory_gb_per_s)) == printed[device.name]
    assert 2 * roofline.DEVICES[-1].flop_per_s / 1e12 == pytest.approx(85, abs=0.5), "AGX Orin's 85 TFLOPS are sparse"


def test_a_shape_that_is_not_known_is_an_error():
    values = [helper.make_tensor_value_info("a", TensorProto.FLOAT, ["N", 2]), helper.make_tensor_value_info("b", TensorProto.FLOAT, None)]
    nodes = [helper.make_node("Unknown", ["a"], ["x"], domain="nobody"), helper.make_node("MatMul", ["x", "x"], ["b"])]
    model = made(nodes, values)
    with pytest.raises(SystemExit, match="cannot be worked out"):
        network(model, 1)


def test_the_readme_has_what_the_command_prints():
    printed = subprocess.run([sys.executable, ENGINES / "roofline.py"], check=True, capture_output=True, text=True).stdout
    readme = (ENGINES / "README.md").read_text()
    assert [line for line in printed.splitlines() if line.startswith("|") and line not in readme.splitlines()] == []
