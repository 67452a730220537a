"""Curves of loss and accuracy, and the reliability of the probabilities, as PNG (and the numbers as CSV)."""
import csv
from pathlib import Path
from typing import Any

import numpy as np

from .fit import History

COLOURS = {"": "tab:blue", "watched_": "tab:orange"}


def _mean_curve(histories: list[History], key: str) -> np.ndarray:
    """Over heads; where early stopping ended some, over those that went on."""
    of = [h[key] for h in histories if key in h]
    longest = max(map(len, of), default=0)
    padded = np.full((len(of), longest), np.nan)
    for row, values in zip(padded, of):
        row[:len(values)] = values
    return np.nanmean(padded, 0) if longest else np.array([])


def curves(path: Path, histories: list[History], title: str) -> None:
    """Training and held-out accuracy and loss by epoch, each head thin and their mean thick."""
    means = {k: _mean_curve(histories, k) for k in ("loss", "watched_loss", "accuracy", "watched_accuracy")}
    with open(path.with_suffix(".csv"), "w", newline="") as f:
        out = csv.writer(f, lineterminator="\n")
        out.writerow(["epoch", *[k for k in means if len(means[k])]])
        for epoch in range(max(map(len, means.values()))):
            out.writerow([epoch + 1, *[f"{v[epoch]:.6f}" for v in means.values() if len(v)]])
    plt = _pyplot()
    if plt is None:
        return
    figure, axes = plt.subplots(1, 2, figsize=(10, 4))
    for axis, what in zip(axes, ("accuracy", "loss")):
        for prefix, name in (("", "training"), ("watched_", "held-out sources")):
            for h in histories:
                if prefix + what in h:
                    axis.plot(np.arange(1, len(h[prefix + what]) + 1), h[prefix + what], color=COLOURS[prefix], alpha=0.12, linewidth=0.7)
            mean = means[prefix + what]
            if len(mean):
                axis.plot(np.arange(1, len(mean) + 1), mean, color=COLOURS[prefix], linewidth=2, label=name)
        axis.set(xlabel="epoch", ylabel=what)
        axis.legend()
    figure.suptitle(f"{title}: training curves are of mixed and smoothed targets, with dropout")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def reliability(path: Path, calibration: dict[str, Any]) -> None:
    plt = _pyplot()
    if plt is None:
        return
    figure, axis = plt.subplots(figsize=(5, 5))
    axis.plot([0, 1], [0, 1], color="gray", linestyle=":")
    for key, name in (("reliability_before", "before"), ("reliability_after", "after temperature scaling")):
        rows = calibration[key] or []
        axis.plot([r["confidence"] for r in rows], [r["accuracy"] for r in rows], marker="o", label=name)
    axis.set(xlabel="probability of the predicted class", ylabel="part of the clips that are of it", xlim=(0, 1), ylim=(0, 1))
    axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _pyplot() -> Any:
    """None where Matplotlib is not installed: the numbers are in the CSV and the report."""
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("Agg")
    import matplotlib.pyplot
    return matplotlib.pyplot
