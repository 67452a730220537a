"""False alarms on ordinary footage, and how long after its beginning an event is seen."""
from collections.abc import Sequence as Many
from pathlib import Path
from typing import Any

import numpy as np

from .clips import Clip
from .crossval import Judged, StoreFor
from .examples import judged_windows
from .errors import KitError
from .features import FeatureStore
from .fit import fit
from .model import Trained, softmax
from .recipe import NORMAL, Recipe
from .splits import refuse_leak
from .ucf import VIDEOS

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)


def videos(directory: Path) -> list[Path]:
    if not directory.is_dir():
        raise KitError(f"{directory}: is no directory; name one that holds ordinary videos with --normal")
    return sorted(p for p in directory.iterdir() if p.suffix.lower() in VIDEOS)


def whole(video: Path) -> Clip:
    """A normal video as one clip, for scoring."""
    return Clip(video, f"normal:{video.name}", NORMAL, f"normal:{video.name}")


def pieces(video: Path, store: FeatureStore, recipe: Recipe) -> list[Clip]:
    """A normal video cut into pieces as long as the labelled clips, each labelled Normal: hard negatives."""
    at, length = store.plain(video).at_ms, 1000 * recipe.hard_negatives.piece_seconds
    starts = np.arange(at[0], max(at[-1] - length, at[0]) + 1, length)
    return [Clip(video, f"normal:{video.name}@{start:.0f}", NORMAL, f"normal:{video.name}", span_ms=(float(start), float(start + length)))
            for start in starts]


def episodes(times_ms: np.ndarray, above: np.ndarray, merge_ms: float) -> int:
    """Runs of windows above the threshold; those nearer to each other than `merge_ms` are one alarm to an operator."""
    last, count = -np.inf, 0
    for start, end in times_ms[above]:
        count += int(start - last > merge_ms)
        last = max(last, end)
    return count


def alarming(probabilities: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Windows in which any class reaches its threshold."""
    at = np.array([np.inf if c == NORMAL else recipe.threshold(c) for c in recipe.classes])
    return np.any(probabilities >= at, axis=1)


def false_alarms(trained: Trained, video: Path, store: FeatureStore, stride: int) -> dict[str, Any]:
    recipe = trained.recipe
    windows, times = judged_windows(whole(video), store.plain(video), recipe, stride)
    p = trained.probabilities(windows)
    score, merge = 1 - p[:, recipe.normal], 1000 * recipe.evaluation.merge_seconds
    hours = float(times[-1, 1] - times[0, 0]) / 3.6e6
    alarms = {f"{level:g}": episodes(times, score >= level, merge) for level in LEVELS}
    return {"windows": len(score), "hours": hours, "highest": float(score.max()),
            "quantiles": {str(q): float(np.quantile(score, q)) for q in (0.5, 0.9, 0.99)},
            "alarms_at": alarms, "alarms": episodes(times, alarming(p, recipe), merge)}


def report(trained: Trained, clips: Many[Clip], normal: Many[Path], store: FeatureStore, store_for: StoreFor, work: Path,
           stride: int) -> dict[str, Any]:
    """Each video scored by a model that was not trained on it: where it is a hard negative, one fitted without it.
    `store` is of `trained`'s encoder, `store_for` as in cross-validation."""
    recipe = trained.recipe
    used = set(recipe.hard_negatives.videos)
    cut = {v: pieces(v, store, recipe) for v in normal if v.name in used}
    found: dict[str, Any] = {}
    for video in normal:
        model, own = trained, store
        if video.name in used:
            part = list(clips) + [p for v, of in cut.items() if v != video for p in of]
            refuse_leak(part, [whole(video)])
            own = store_for(part)
            own.prepare([whole(video)], augment=False)
            model = fit(recipe, part, own, recipe.training.seed, work).trained.calibrated(trained.temperature)
        else:
            refuse_leak(clips, [whole(video)])
        found[video.name] = false_alarms(model, video, own, stride) | {"left_out": video.name in used}
    hours = sum(f["hours"] for f in found.values())
    total = {level: sum(f["alarms_at"][level] for f in found.values()) for level in (f"{l:g}" for l in LEVELS)}
    return {"thresholds": {c: recipe.threshold(c) for c in recipe.classes if c != NORMAL}, "temperature": trained.temperature, "videos": found, "hours": hours, "stride": stride, "alarms_a_camera_hour": sum(f["alarms"] for f in found.values()) / hours,
            "alarms_a_camera_hour_at": {k: v / hours for k, v in total.items()}}


def detection(judged: Many[Judged], recipe: Recipe, temperature: float) -> dict[str, Any] | None:
    """Of clips whose events' times are known: the part that is seen, and the seconds from an event's beginning to the end
    of the first window above the threshold that reaches into it. None where no times are known."""
    delays, missed = [], 0
    for j in judged:
        above = alarming(softmax(j.logits / temperature), recipe)
        for start, end in j.clip.events_ms:
            hits = j.times_ms[above & (j.times_ms[:, 1] >= start) & (j.times_ms[:, 0] <= end), 1]
            if len(hits):
                delays.append((hits.min() - start) / 1000)
            else:
                missed += 1
    if not delays and not missed:
        return None
    return {"events": len(delays) + missed, "seen": len(delays),
            "delay_s": {"median": float(np.median(delays)), "90%": float(np.quantile(delays, 0.9))} if delays else None}
