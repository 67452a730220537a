"""The table of `vedette evaluate --json`, key by key, with the same conventions: a ratio over nothing is 0, an area
under a curve without both kinds is None, and intervals resample whole sources (percentile bootstrap)."""
from collections.abc import Sequence
from typing import Any

import numpy as np

from .recipe import NORMAL

RESAMPLES = 1000


def roc_auc(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """The Mann-Whitney statistic; ties count half."""
    positive = np.asarray(positive, bool)
    p, n = int(positive.sum()), int((~positive).sum())
    if not p or not n:
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[positive].sum() - p * (p + 1) / 2) / (p * n))


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0


def _rates(matrix: np.ndarray, c: int) -> dict[str, float]:
    precision, recall = _ratio(matrix[c, c], matrix[:, c].sum()), _ratio(matrix[c, c], matrix[c].sum())
    return {"precision": precision, "recall": recall, "f1": _ratio(2 * precision * recall, precision + recall)}


def _average(matrix: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    rows = [_rates(matrix, c) for c in range(len(matrix))]
    return {k: _ratio(sum(w * r[k] for w, r in zip(weights, rows)), weights.sum()) for k in ("precision", "recall", "f1")}


def _confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    matrix = np.zeros((classes, classes), int)
    np.add.at(matrix, (truth, predicted), 1)
    return matrix


def table(classes: Sequence[str], truth: np.ndarray, probabilities: np.ndarray, sources: Sequence[str],
          seed: int = 0) -> dict[str, Any]:
    """`truth` [n] indices of classes, `probabilities` [n,classes] of each clip, `sources` what is resampled as one."""
    truth, probabilities = np.asarray(truth), np.asarray(probabilities)
    normal, predicted = list(classes).index(NORMAL), probabilities.argmax(1)
    matrix = _confusion(truth, predicted, len(classes))
    support = matrix.sum(1)

    def figures(rows: np.ndarray) -> dict[str, float | None]:
        m = _confusion(truth[rows], predicted[rows], len(classes))
        return {"accuracy": _ratio(np.trace(m), m.sum()),
                "roc_auc": roc_auc(1 - probabilities[rows, normal], truth[rows] != normal),
                "specificity": _rates(m, normal)["recall"] if m[normal].sum() else None,
                "macro_f1": _average(m, (m.sum(1) > 0).astype(float))["f1"]}

    own = figures(np.arange(len(truth)))
    return {
        "clips": len(truth), "accuracy": own["accuracy"], "roc_auc": own["roc_auc"], "specificity": own["specificity"],
        "per_class": {name: _rates(matrix, c) | {"support": int(support[c]),
                                                 "roc_auc": roc_auc(probabilities[:, c], truth == c)}
                      for c, name in enumerate(classes)},
        "macro": _average(matrix, (support > 0).astype(float)), "weighted": _average(matrix, support.astype(float)),
        "confusion": {t: {p: int(matrix[i, j]) for j, p in enumerate(classes)} for i, t in enumerate(classes)},
        "interval95": intervals(figures, sources, seed),
    }


def intervals(figures: Any, sources: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """95 % intervals of what `figures(rows)` gives, by resampling sources."""
    groups = [np.flatnonzero(np.asarray(sources) == s) for s in sorted(set(sources))]
    rng = np.random.default_rng(seed)
    drawn: list[dict[str, float | None]] = []
    for _ in range(RESAMPLES if len(groups) > 1 else 0):
        drawn.append(figures(np.concatenate([groups[g] for g in rng.integers(0, len(groups), len(groups))])))
    found: dict[str, Any] = {}
    for key in ("accuracy", "roc_auc", "specificity", "macro_f1"):
        values = [v for d in drawn if (v := d[key]) is not None]
        found[key] = [float(q) for q in np.quantile(values, [0.025, 0.975])] if 2 * len(values) >= RESAMPLES else None
    return found | {"groups": len(groups)}


def text(report: dict[str, Any]) -> str:
    """The table for people."""
    lines = [f"{'class':<16} {'precision':>9} {'recall':>9} {'F1':>9} {'AUC':>9} {'clips':>7}"]
    rows = list(report["per_class"].items()) + [("macro average", report["macro"]), ("weighted average", report["weighted"])]
    for name, r in rows:
        auc = "-" if r.get("roc_auc") is None else f"{r['roc_auc']:.3f}"
        lines.append(f"{name:<16} {r['precision']:>9.3f} {r['recall']:>9.3f} {r['f1']:>9.3f} {auc:>9} {r.get('support', report['clips']):>7}")
    for key, name in (("accuracy", "accuracy"), ("roc_auc", "ROC AUC"), ("specificity", "specificity")):
        value, interval = report[key], report["interval95"][key]
        around = f"   95 % interval {interval[0]:.3f} to {interval[1]:.3f}" if interval else ""
        lines.append(f"{name:<16} {'undefined' if value is None else f'{value:.3f}':>9}{around}")
    return "\n".join(lines)
