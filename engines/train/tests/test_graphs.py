"""The graphs compute what PyTorch computes, in both precisions, and hold only what TensorRT 8.5 parses."""
import dataclasses

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from vedette_train import graph_head, logistic, operators
from vedette_train.checks import session
from vedette_train.errors import KitError
from vedette_train.model import Trained, load
from vedette_train.recipe import Encoder as Spec
from vedette_train.recipe import Head as HeadSpec
from vedette_train.recipe import View

FEATURES, WINDOW = 24, 16


def trained(activity, kind: str, heads: int = 2) -> Trained:
    rng = np.random.default_rng(3)
    spec = HeadSpec(kind, project=16, state=8, heads=heads)              # type: ignore[arg-type]
    recipe = dataclasses.replace(activity, head=spec)
    if kind == "logistic":
        made = [{"weight": rng.normal(0, 0.3, (2, 2 * FEATURES)).astype(np.float32), "bias": rng.normal(size=2).astype(np.float32)}]
    else:
        torch = pytest.importorskip("torch")
        from vedette_train.heads import Head
        torch.manual_seed(0)
        made = [Head(spec, FEATURES, 2).arrays() for _ in range(heads)]
    return Trained(recipe, made, rng.normal(size=FEATURES).astype(np.float32), rng.uniform(0.5, 2, FEATURES).astype(np.float32), temperature=1.7)


@pytest.mark.parametrize("kind", ["lstm", "bilstm", "gru", "attention", "lstm_attention", "logistic"])
def test_a_head_is_the_same_as_a_graph(activity, kind, tmp_path):
    model = trained(activity, kind)
    windows = np.random.default_rng(4).normal(0, 2, (5, WINDOW, FEATURES)).astype(np.float32)
    expected = model.probabilities(windows)
    for half, within in ((False, 1e-5), (True, 2e-2)):
        path = tmp_path / f"{kind}-{half}.onnx"
        graph_head.write(model, path, half)
        found = session(path)(windows)
        assert np.abs(found - expected).max() < within and np.abs(found.sum(1) - 1).max() < 1e-5
        assert np.abs(session(path)(windows[:1]) - expected[:1]).max() < within, "any number of windows"
        graph = onnx.load(path)
        assert operators.problems(graph) == []
        assert {i.type.tensor_type.elem_type for i in [*graph.graph.input, *graph.graph.output]} == {TensorProto.FLOAT}
        assert graph.metadata_props[0].value == "Fighting,Normal"
        halves = {w.data_type for w in graph.graph.initializer if w.name.startswith("out")}
        assert halves == {TensorProto.FLOAT16 if half and kind != "logistic" else TensorProto.FLOAT}


def test_what_was_trained_is_kept(activity, tmp_path):
    model = trained(activity, "gru")
    model.save(tmp_path)
    again = load(tmp_path)
    windows = np.ones((1, WINDOW, FEATURES), np.float32)
    assert again.recipe == model.recipe and (again.probabilities(windows) == model.probabilities(windows)).all()
    with pytest.raises(KitError, match="nothing was trained here"):
        load(tmp_path / "elsewhere")


ENCODERS = [
    Spec("mobilenet_v2", ("17",), "difference", 4.0),
    Spec("mobilenet_v2", ("13", "17"), "difference", 2.0, noise_floor=3.0, curve=0.5, moments=2),
    Spec("mobilenet_v2", ("14.expand",), "difference", curve=0.7),
    Spec("efficientnet_lite0", ("16",), "rgb"),
]


@pytest.mark.parametrize("spec", ENCODERS, ids=lambda s: f"{s.kind}-{'-'.join(s.cuts)}")
def test_an_encoder_is_the_same_as_a_graph(spec, tmp_path):
    torch = pytest.importorskip("torch")
    from vedette_train.encoder import Encoder, write
    pair = spec.input == "difference"
    encoder = Encoder(spec, View(96, 64, "pair" if pair else "single", "full"))
    views = np.random.default_rng(5).integers(0, 256, (3, 64, 96, 6 if pair else 3), np.uint8)
    if pair:
        views[0, :, :, 3:] = views[0, :, :, :3]            # nothing moved
    with torch.inference_mode():
        features, cells = (x.numpy() for x in encoder(torch.from_numpy(views)))
    assert features.shape == (3, encoder.size) and np.allclose(features, cells.mean((2, 3)), atol=1e-5)
    for half in (False, True):
        path = tmp_path / f"{half}.onnx"
        write(encoder, path, half)
        run = session(path)
        found = run(views, "features")
        scale = np.abs(features).max()
        assert np.abs(found - features).max() < (2e-2 * scale if half else 1e-4), "the same function"
        assert np.allclose(run(views, "map").mean((2, 3)), found, atol=1e-4), "features are the mean of the map"
        assert np.abs(run(views[:1], "features") - found[:1]).max() < 1e-2 * scale
        graph = onnx.load(path)
        assert operators.problems(graph) == [] and graph.graph.node[0].op_type == "Cast"
        convolutions = {w.data_type for w in graph.graph.initializer if w.name.startswith("w")and w.name[1].isdigit()}
        assert convolutions == {TensorProto.FLOAT16 if half else TensorProto.FLOAT}


def test_the_backbone_is_torchvisions():
    torch, models = pytest.importorskip("torch"), pytest.importorskip("torchvision.models")
    from vedette_train.backbone import blocks
    row = blocks("mobilenet_v2")
    theirs = models.mobilenet_v2()
    stored = [v for b in row for v in b.state_dict().values()]
    theirs.features.load_state_dict(dict(zip(theirs.features.state_dict(), stored)))
    from vedette_train.encoder import Encoder
    encoder = Encoder(Spec("mobilenet_v2", ("17",), "rgb"), View(64, 64, "single", "full"))
    view = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    x = (view.float() / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    with torch.inference_mode():
        assert torch.allclose(theirs.features[:18].eval()(x.permute(0, 3, 1, 2)), encoder(view)[1], atol=1e-4)


def test_a_cut_that_is_none_is_refused():
    pytest.importorskip("torch")
    from vedette_train.encoder import Encoder
    for cut in ("19", "x", "3.middle"):
        with pytest.raises(KitError, match="is no cut"):
            Encoder(Spec("mobilenet_v2", (cut,), "rgb"), View(64, 64, "single", "full"))


def test_an_operator_that_tensorrt_does_not_parse_is_refused(tmp_path):
    value = helper.make_tensor_value_info
    graph = helper.make_graph([helper.make_node("LayerNormalization", ["x", "x"], ["y"])], "g",
                              [value("x", TensorProto.FLOAT, ["N", 4])], [value("y", TensorProto.FLOAT, [2, 4])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    assert operators.problems(model) == ["opset 18; 13 to 17 are parsed", "operator LayerNormalization", "y: its first dimension alone has to be open"]
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(KitError, match="TensorRT 8.5 would not parse"):
        operators.check(tmp_path / "m.onnx")


def test_logistic_regression_separates_and_is_scikit_learns():
    rng = np.random.default_rng(6)
    x = rng.normal(size=(200, WINDOW, 4)).astype(np.float32)
    labels = (x.mean(1)[:, 0] + 0.1 * rng.normal(size=200) > 0).astype(int)
    head, losses = logistic.fit(x, np.eye(2)[labels], np.ones(200), l2=8 / 200, steps=3000)
    assert losses[-1] < losses[0] and (logistic.logits(head, x).argmax(1) == labels).mean() > 0.85
    linear = pytest.importorskip("sklearn.linear_model")
    # Two weight vectors w and -w: sklearn's single one is their difference, and its penalty that of half of it twice.
    decay = 8 / 200 / 9
    theirs = linear.LogisticRegression(C=1 / (200 * decay / 2), tol=1e-9, max_iter=5000).fit(logistic.pooled(x), labels)
    assert np.abs((head["weight"][1] - head["weight"][0]) - theirs.coef_[0]).max() < 0.02
