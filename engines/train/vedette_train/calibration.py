"""Temperature scaling (Guo et al., On Calibration of Modern Neural Networks, ICML 2017), fitted on out-of-fold logits."""
from collections.abc import Sequence as Many
from typing import Any

import numpy as np

from .crossval import Judged
from .model import softmax
from .recipe import Recipe


def negative_log_likelihood(logits: np.ndarray, truth: np.ndarray, temperature: float) -> float:
    p = softmax(logits / temperature)[np.arange(len(truth)), truth]
    return float(-np.log(np.maximum(p, 1e-12)).mean())


def fit_temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """The temperature, 0.05 to 20, under which the truth is likeliest: golden-section search over its logarithm, in
    whose inverse the likelihood has one peak."""
    low, high = np.log(0.05), np.log(20.0)
    ratio = (np.sqrt(5) - 1) / 2
    for _ in range(60):
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        if negative_log_likelihood(logits, truth, np.exp(a)) < negative_log_likelihood(logits, truth, np.exp(b)):
            high = b
        else:
            low = a
    return float(np.exp((low + high) / 2))


def reliability(probabilities: np.ndarray, truth: np.ndarray, bins: int = 10) -> list[dict[str, float]]:
    """How often the most probable class is the true one, by how probable it is said to be."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == truth
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    return [{"confidence": float(confidence[place == b].mean()), "accuracy": float(right[place == b].mean()), "clips": int((place == b).sum())}
            for b in range(bins) if (place == b).any()]


def expected_calibration_error(probabilities: np.ndarray, truth: np.ndarray, bins: int = 10) -> float:
    rows = reliability(probabilities, truth, bins)
    return float(sum(r["clips"] * abs(r["confidence"] - r["accuracy"]) for r in rows) / sum(r["clips"] for r in rows))


def report(runs: Many[Many[Judged]], recipe: Recipe) -> dict[str, Any]:
    """Of repeated folds. The temperature is one number for all; for the error after scaling, each fold's clips are
    scaled by a temperature fitted on the clips of the others."""
    names = list(recipe.classes)
    logits = [np.stack([j.best(recipe.normal) for j in judged]) for judged in runs]
    truth = [np.array([names.index(j.clip.label) for j in judged]) for judged in runs]
    all_z, all_y = np.concatenate(logits), np.concatenate(truth)
    before = [expected_calibration_error(softmax(z), y) for z, y in zip(logits, truth)]
    found = {"temperature": fit_temperature(all_z, all_y), "ece_before": float(np.mean(before)), "ece_after": None,
             "reliability_before": reliability(softmax(all_z), all_y), "reliability_after": None}
    folds = [np.array([j.fold for j in judged]) for judged in runs]
    if all(len(np.unique(f)) > 1 for f in folds):        # a single split has no other fold to fit on
        scaled = [_by_others(z, y, f) for z, y, f in zip(logits, truth, folds)]
        found["ece_after"] = float(np.mean([expected_calibration_error(p, y) for p, y in zip(scaled, truth)]))
        found["reliability_after"] = reliability(np.concatenate(scaled), all_y)
    return found


def _by_others(logits: np.ndarray, truth: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Probabilities, each fold's by the temperature of the others."""
    scaled = np.empty_like(logits)
    for f in np.unique(fold):
        scaled[fold == f] = softmax(logits[fold == f] / fit_temperature(logits[fold != f], truth[fold != f]))
    return scaled
