"""Fits heads on cached features. Every head is kept as soon as it is done, so that an interrupted run goes on there."""
from collections.abc import Sequence as Many
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from . import examples, logistic
from .clips import Clip
from .errors import KitError
from .examples import Examples
from .features import FeatureStore
from .files import digest_of, read_arrays, write_arrays
from .model import Trained
from .recipe import Recipe
from .splits import holdout, refuse_leak

History = dict[str, np.ndarray]                          # loss, accuracy, watched_loss, watched_accuracy: one value an epoch


@dataclass(frozen=True)
class Fitted:
    trained: Trained
    histories: list[History]                             # one for each head


def fit(recipe: Recipe, clips: Many[Clip], store: FeatureStore, seed: int, work: Path, watch: Many[Clip] = ()) -> Fitted:
    """Trains `recipe.head.heads` heads on `clips`. `watch` is only looked at, for the curves; nothing depends on it.

    With early stopping (`patience` above 0) a part of the sources is held out of the training and decides when each
    head was best; it is then also what the curves show.
    """
    refuse_leak(clips, watch)
    train = list(clips)
    if missing := [c for c in recipe.classes if not any(k.label == c for k in train)]:
        raise KitError(f"nothing to learn {missing[0]} from: no training clip has this label")
    t = recipe.training
    if t.patience > 0:
        inner, held = holdout(train, t.validation_share, seed)
        train, watch = [train[i] for i in inner], [train[i] for i in held]
        refuse_leak(train, watch)
    data: Examples | None = None
    watched: Examples | None = None
    heads, histories = [], []
    statistics: tuple[np.ndarray, np.ndarray] | None = None
    for k in range(recipe.head.heads if recipe.head.kind != "logistic" else 1):
        file = work / f"head-{_key(recipe, train, watch, store, seed + k)}.npz"
        if not file.is_file():
            if data is None:
                data = examples.of_clips(train, store, recipe, augmented=True)
                watched = examples.of_clips(watch, store, recipe, augmented=False) if watch else None
                statistics = data.statistics()
            assert statistics is not None
            head, history = _one(recipe, data, watched, *statistics, seed + k)
            write_arrays(file, {f"head.{n}": a for n, a in head.items()} | {f"history.{n}": a for n, a in history.items()}
                         | {"mean": statistics[0], "std": statistics[1]})
        found = read_arrays(file)
        statistics = statistics or (found["mean"], found["std"])
        heads.append({n.removeprefix("head."): a for n, a in found.items() if n.startswith("head.")})
        histories.append({n.removeprefix("history."): a for n, a in found.items() if n.startswith("history.")})
    assert statistics is not None
    return Fitted(Trained(recipe, heads, *statistics), histories)


def _key(recipe: Recipe, train: Many[Clip], watch: Many[Clip], store: FeatureStore, seed: int) -> str:
    parts = {k: v for k, v in asdict(recipe).items() if k in ("classes", "sample_fps", "window", "stride", "head", "training", "augmentation")}
    parts["head"] = parts["head"] | {"heads": None}
    clips = [[[c.name, c.label, c.source, c.span_ms, store.videos.of(c.path), *c.events_ms] for c in of] for of in (train, watch)]
    return digest_of([parts, clips, store.rule, seed])[:24]


def _one(recipe: Recipe, data: Examples, watched: Examples | None, mean: np.ndarray, std: np.ndarray,
         seed: int) -> tuple[dict[str, np.ndarray], History]:
    weights = examples.class_weights(recipe, data.label, data.source)
    if recipe.head.kind == "logistic":
        return _logistic(recipe, data, mean, std, weights)
    from .fit_torch import fit_head
    return fit_head(recipe, data, watched, mean, std, weights, seed)


def _logistic(recipe: Recipe, data: Examples, mean: np.ndarray, std: np.ndarray, weights: np.ndarray) -> tuple[dict[str, np.ndarray], History]:
    clip, count, smoothing = recipe.head.feature_clip, len(recipe.classes), recipe.training.label_smoothing
    x = ((data.rows[data.index] - mean) / std).clip(-clip, clip)
    labels = data.label[data.clip]
    targets = np.eye(count)[labels] * (1 - smoothing) + smoothing / count
    windows_of_clip = np.bincount(data.clip)
    head, losses = logistic.fit(x, targets, weights[labels] / windows_of_clip[data.clip], recipe.head.l2, 8 * recipe.training.epochs)
    return head, {"loss": np.array(losses[::8])}
