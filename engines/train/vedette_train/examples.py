"""Training clips as arrays: every frame's features once, and the windows as rows of them."""
from collections import Counter
from collections.abc import Sequence as Many
from dataclasses import dataclass

import numpy as np

from .clips import Clip
from .features import FeatureStore
from .recipe import Recipe
from .windows import Sequence, indices


@dataclass(frozen=True)
class Examples:
    rows: np.ndarray                                     # float32 [R,F], of all sequences
    index: np.ndarray                                    # int [W,window]: rows of each window
    clip: np.ndarray                                     # int [W]: whose window it is
    plain: np.ndarray                                    # bool [W]: not augmented
    label: np.ndarray                                    # int [clips]
    source: list[str]                                    # [clips]

    def windows(self, which: np.ndarray) -> np.ndarray:
        return self.rows[self.index[which]]

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation of the plain frames."""
        rows = self.rows[np.unique(self.index[self.plain])]
        return rows.mean(0, dtype=np.float64).astype(np.float32), (rows.std(0, dtype=np.float64) + 1e-3).astype(np.float32)

    def draw_epoch(self, rng: np.random.Generator, source_balanced: bool) -> np.ndarray:
        """One window of each clip, of any variant: a long clip does not count more than a short one. With
        `source_balanced` as many draws, but every source equally often."""
        clips = np.arange(len(self.label))
        if source_balanced:
            per_source = Counter(self.source)
            share = np.array([1 / per_source[s] for s in self.source])
            clips = rng.choice(clips, len(clips), p=share / share.sum())
        order = np.argsort(self.clip, kind="stable")
        first = np.searchsorted(self.clip[order], np.arange(len(self.label) + 1))
        chosen = first[clips] + (rng.random(len(clips)) * (first[clips + 1] - first[clips])).astype(int)
        return rng.permutation(order[chosen])


def of_clips(clips: Many[Clip], store: FeatureStore, recipe: Recipe, augmented: bool) -> Examples:
    rows, index, owner, plain, at = [], [], [], [], 0
    for n, clip in enumerate(clips):
        whole = store.plain(clip.path)
        parts = [(whole.during(s), True) for s in store.segments(clip, whole.at_ms)]
        if augmented:
            parts += [(v, False) for v in store.variants(clip)]
        for part, is_plain in parts:
            found = indices(part.restarted, recipe.window, recipe.stride)
            rows.append(part.features)
            index.append(found + at)
            owner.append(np.full(len(found), n))
            plain.append(np.full(len(found), is_plain))
            at += len(part.features)
    names = list(recipe.classes)
    return Examples(np.concatenate(rows), np.concatenate(index), np.concatenate(owner), np.concatenate(plain),
                    np.array([names.index(c.label) for c in clips]), [c.source for c in clips])


def class_weights(recipe: Recipe, labels: np.ndarray, sources: Many[str]) -> np.ndarray:
    """Inverse frequency, 1 on average over the clips; by clips, or by sources, since a hundred clips of one camera do
    not teach a hundred times what one does. A class that is not there weighs nothing."""
    count = len(recipe.classes)
    if recipe.training.class_weights == "none":
        return np.ones(count, np.float32)
    if recipe.training.class_weights == "clips":
        seen = np.bincount(labels, minlength=count)
    else:
        seen = np.array([len({s for s, l in zip(sources, labels) if l == c}) for c in range(count)])
    weights = np.where(seen > 0, 1 / np.maximum(seen, 1), 0)
    return (weights / weights[labels].mean()).astype(np.float32)


def judged_windows(clip: Clip, whole: Sequence, recipe: Recipe, stride: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """All windows of a clip as they are served, [k,window,F], and their first and last times [k,2]."""
    part = whole.during(clip.span_ms)
    found = indices(part.restarted, recipe.window, stride or recipe.stride)
    return part.features[found], part.at_ms[found[:, [0, -1]]]
