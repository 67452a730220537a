"""Who may see what. Clips of one source look alike, so every split is by source: a random one flatters."""
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from .clips import Clip
from .errors import KitError, LeakError

Split = tuple[list[int], list[int]]                      # indices of the clips to train with and to judge by


def refuse_leak(train: Sequence[Clip], test: Sequence[Clip]) -> None:
    """Raises if a source, or a file, is on both sides. Whatever trains or judges calls it."""
    for what, of in (("source", lambda c: c.source), ("file", lambda c: str(c.path.resolve()))):
        both = sorted({of(c) for c in train} & {of(c) for c in test})
        if both:
            more = f" and {len(both) - 1} more" if len(both) > 1 else ""
            raise LeakError(f"{what} {both[0]}{more} would be both trained with and judged by; "
                            "figures of such a split mean nothing. Split by source_video")


def folds(clips: Sequence[Clip], count: int, seed: int) -> list[Split]:
    """`count` folds by source, each with about the same share of every class."""
    labels = sorted({c.label for c in clips})
    by_source: dict[str, list[int]] = defaultdict(list)
    for i, c in enumerate(clips):
        by_source[c.source].append(i)
    if len(by_source) < count:
        raise KitError(f"{count} folds need {count} sources and there are {len(by_source)}; use fewer folds or more videos")
    totals = Counter(c.label for c in clips)
    tables = {s: np.array([sum(clips[i].label == l for i in of) / totals[l] for l in labels]) for s, of in by_source.items()}
    order = sorted(by_source)
    np.random.default_rng(seed).shuffle(order)
    # The largest first, each to the fold that it leaves least uneven: the greedy rule of stratified group k-fold.
    order.sort(key=lambda s: -len(by_source[s]))
    load, sizes = np.zeros((count, len(labels))), np.zeros(count)
    members: list[list[int]] = [[] for _ in range(count)]
    for source in order:
        def uneven(f: int) -> tuple[float, float]:
            after = load.copy()
            after[f] += tables[source]
            return round(float(after.std(0).sum()), 9), sizes[f]
        best = min(range(count), key=uneven)
        load[best] += tables[source]
        sizes[best] += len(by_source[source])
        members[best] += by_source[source]
    made = []
    for test in members:
        inside = set(test)
        train = [i for i in range(len(clips)) if i not in inside]
        refuse_leak([clips[i] for i in train], [clips[i] for i in test])
        made.append((train, sorted(test)))
    return made


def holdout(clips: Sequence[Clip], share: float, seed: int) -> Split:
    """About `share` of the clips to judge by (0.2: the usual 80/20), by source and alike in classes."""
    return folds(clips, max(2, round(1 / share)), seed)[0]


def own(clips: Sequence[Clip]) -> Split:
    """The split that the data set came with."""
    train = [i for i, c in enumerate(clips) if c.split == "train"]
    test = [i for i, c in enumerate(clips) if c.split == "test"]
    if not train or not test:
        raise KitError("this data set has no split of its own; use folds or a hold-out")
    refuse_leak([clips[i] for i in train], [clips[i] for i in test])
    return train, test
