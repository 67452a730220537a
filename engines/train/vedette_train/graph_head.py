"""Heads as one graph: the mean of the logits of every seed, divided by the temperature, as probabilities."""
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto

from .graph import Graph
from .model import Trained

EPSILON = 1e-5                                           # PyTorch's LayerNorm


def write(trained: Trained, path: Path, half: bool) -> None:
    """Single precision at both ends; standardising, variance, softmax and the sum over seeds are single in both."""
    g = Graph(half)
    g.add("Sub", ["features", g.const("mean", trained.mean)], "centred")
    g.add("Div", ["centred", g.const("std", trained.std)], "standard")
    clip = trained.recipe.head.feature_clip
    g.add("Clip", ["standard", g.const("low", -clip), g.const("high", clip)], "clipped")
    kind = trained.recipe.head.kind
    if kind != "logistic":
        g.to_half("clipped")
    for k, head in enumerate(trained.heads):
        (_logistic if kind == "logistic" else _network)(g, kind, k, head)
    total = g.add("Sum", [f"logits_{k}" for k in range(len(trained.heads))], "total") if len(trained.heads) > 1 else "logits_0"
    g.add("Div", [total, g.const("divisor", len(trained.heads) * trained.temperature)], "logits")
    g.add("Softmax", ["logits"], "probabilities", axis=1)
    recipe = trained.recipe
    g.save(path, "head", {"features": (TensorProto.FLOAT, [recipe.window, len(trained.mean)])},
           {"probabilities": [len(recipe.classes)]}, {"vedette.classes": ",".join(recipe.classes)})


def _logistic(g: Graph, _: str, k: int, head: dict[str, np.ndarray]) -> None:
    """All in single precision: it is one small product."""
    g.add("ReduceMean", ["clipped"], "over_time", axes=[1])
    g.add("Sub", ["clipped", "over_time"], "apart")
    g.add("ReduceMean", [g.add("Mul", ["apart", "apart"], "apart2")], "spread2", axes=[1])
    g.add("Sqrt", [g.add("Add", ["spread2", g.const("tiny", 1e-8)], "spread2_tiny")], "spread")
    g.add("Concat", ["over_time", "spread"], "pooled3", axis=2)
    g.add("Squeeze", ["pooled3", g.const("axis1", [1], np.int64)], "pooled")
    g.add("Gemm", ["pooled", g.const("out", head["weight"]), g.const("out_bias", head["bias"])], f"logits_{k}", transB=1)


def _gates(w: np.ndarray, kind: str) -> np.ndarray:
    """PyTorch's LSTM has i f g o, ONNX i o f c; PyTorch's GRU r z n, ONNX z r h."""
    parts = np.split(w, 3 if kind == "gru" else 4)
    order = [1, 0, 2] if kind == "gru" else [0, 3, 1, 2]
    return np.concatenate([parts[i] for i in order])


def _network(g: Graph, kind: str, k: int, head: dict[str, np.ndarray]) -> None:
    def t(name: str) -> str:
        return f"{name}_{k}"

    x = "clipped_half" if g.half else "clipped"
    g.add("MatMul", [x, g.weight(t("project_w"), head["project.0.weight"].T)], t("mm"))
    x = g.to_single(g.add("Add", [t("mm"), g.weight(t("project_b"), head["project.0.bias"])], t("x")))
    g.add("Sub", [x, g.add("ReduceMean", [x], t("mu"), axes=[2])], t("d"))
    g.add("ReduceMean", [g.add("Mul", [t("d"), t("d")], t("dd"))], t("var"), axes=[2])
    g.add("Sqrt", [g.add("Add", [t("var"), g.const("epsilon", EPSILON)], t("var_eps"))], t("sigma"))
    unit = g.to_half(g.add("Div", [t("d"), t("sigma")], t("unit")))
    g.add("Mul", [unit, g.weight(t("gamma"), head["project.1.weight"])], t("scaled"))
    g.add("Add", [t("scaled"), g.weight(t("beta"), head["project.1.bias"])], t("normed"))
    states = g.add("Relu", [t("normed")], t("relu"))
    if kind != "attention":
        states = _recurrence(g, kind, k, head, states)
    one = _attention(g, k, head, states) if kind in ("attention", "lstm_attention") else states
    own = t("own_logits") if g.half else t("logits")
    g.add("Gemm", [one, g.weight(t("out"), head["out.1.weight"]), g.weight(t("out_b"), head["out.1.bias"])], own, transB=1)
    g.to_single(own, t("logits"))


def _recurrence(g: Graph, kind: str, k: int, head: dict[str, np.ndarray], x: str) -> str:
    """All states [N,window,state] where attention follows, otherwise the last [N,state]."""
    def t(name: str) -> str:
        return f"{name}_{k}"

    def stacked(name: str) -> np.ndarray:
        return np.stack([_gates(head[f"recurrent.{name}_l0{way}"], kind) for way in ways])

    ways = ["", "_reverse"] if kind == "bilstm" else [""]
    state = head["recurrent.weight_hh_l0"].shape[1]
    bias = np.concatenate([stacked("bias_ih"), stacked("bias_hh")], 1)
    attributes: dict[str, Any] = {"direction": "bidirectional"} if kind == "bilstm" else {}
    if kind == "gru":
        attributes["linear_before_reset"] = 1            # PyTorch's form
    g.add("Transpose", [x], t("time_first"), perm=[1, 0, 2])
    g.add("GRU" if kind == "gru" else "LSTM",
          [t("time_first"), g.weight(t("w"), stacked("weight_ih")), g.weight(t("r"), stacked("weight_hh")), g.weight(t("b"), bias)],
          [t("y"), t("y_last")], hidden_size=state, **attributes)
    if kind == "lstm_attention":
        g.add("Squeeze", [t("y"), g.const("axis1", [1], np.int64)], t("y1"))
        return g.add("Transpose", [t("y1")], t("states"), perm=[1, 0, 2])
    g.add("Transpose", [t("y_last")], t("last"), perm=[1, 0, 2])
    return g.add("Reshape", [t("last"), g.const("flat", [-1, state * len(ways)], np.int64)], t("state"))


def _attention(g: Graph, k: int, head: dict[str, np.ndarray], states: str) -> str:
    def t(name: str) -> str:
        return f"{name}_{k}"

    g.add("MatMul", [states, g.weight(t("att_w"), head["attention.weight"].T)], t("att"))
    x = g.to_single(g.add("Add", [t("att"), g.weight(t("att_b"), head["attention.bias"])], t("attb")))
    weights = g.to_half(g.add("Softmax", [x], t("attention"), axis=1))
    g.add("MatMul", [g.add("Transpose", [weights], t("attention_t"), perm=[0, 2, 1]), states], t("pooled"))
    return g.add("Squeeze", [t("pooled"), g.const("axis1", [1], np.int64)], t("one"))
