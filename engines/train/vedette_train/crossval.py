"""Every clip judged by a model that has never seen its source."""
from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .clips import Clip
from .errors import KitError
from .examples import judged_windows
from .features import FeatureStore
from .fit import History, fit
from .model import Trained, softmax
from .progress import Progress
from .recipe import Recipe
from .splits import Split, refuse_leak


StoreFor = Callable[[Many[Clip]], FeatureStore]


@dataclass(frozen=True)
class Judged:
    """A clip, and what a model that was trained without its source makes of it."""
    clip: Clip
    fold: int
    logits: np.ndarray                                   # [k,classes] of every window, temperature 1
    times_ms: np.ndarray                                 # [k,2] first and last frame

    def best(self, normal: int, temperature: float = 1.0) -> np.ndarray:
        """Logits of the window with the highest 1 - P(Normal), the first of equals: the clip's own, as in `vedette evaluate`."""
        return self.logits[softmax(self.logits / temperature)[:, normal].argmin()]


def judge(trained: Trained, clips: Many[Clip], store: FeatureStore, fold: int = 0) -> list[Judged]:
    made = []
    for clip in clips:
        windows, times = judged_windows(clip, store.plain(clip.path), trained.recipe)
        made.append(Judged(clip, fold, trained.logits(windows), times))
    return made


def run(recipe: Recipe, clips: Many[Clip], always: Many[Clip], store_for: StoreFor, splits: Many[Split], seed: int,
        work: Path, title: str = "folds", judged_with: FeatureStore | None = None) -> tuple[list[Judged], list[History]]:
    """Trains on each split's first part (and on `always`: hard negatives, of other sources) and judges the second.

    `store_for` gives the features for a training part: always the same ones where the encoder is frozen; where it is
    fine-tuned, those of an encoder that has seen this part alone. `judged_with`: another encoder, which stands in for the
    trained one where clips are judged.
    """
    progress = Progress(title, len(splits))
    judged, histories = [], []
    for fold, (train, test) in enumerate(splits):
        part, held = [clips[i] for i in train] + list(always), [clips[i] for i in test]
        refuse_leak(part, held)
        store = store_for(part)
        for of in (store, judged_with or store):
            of.prepare(held, augment=False)
        # With early stopping the held-out part is cut from the training part; otherwise the curves show the fold's own.
        fitted = fit(recipe, part, store, recipe.training.seed + 100 * (seed + 1), work, watch=held)
        judged += judge(fitted.trained, held, judged_with or store, fold)
        histories += fitted.histories
        progress.step()
    if not judged:
        raise KitError("nothing was judged: no split has clips to judge by")
    return judged, histories


def clip_probabilities(judged: Many[Judged], recipe: Recipe, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Truth [n] and probabilities [n,classes]."""
    names = list(recipe.classes)
    logits = np.stack([j.best(recipe.normal, temperature) for j in judged])
    return np.array([names.index(j.clip.label) for j in judged]), softmax(logits / temperature)
