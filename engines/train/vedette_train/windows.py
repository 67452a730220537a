"""Features in time, and the windows of them that the head looks at, by the agent's rule (`infer/window.rs`): a gap
starts anew; a video too short for any window gets one with its last frame repeated."""
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sequence:
    features: np.ndarray                                 # float32 [n,F]
    at_ms: np.ndarray                                    # [n]
    restarted: np.ndarray                                # bool [n]: does not follow the frame before

    def part(self, keep: np.ndarray) -> "Sequence":
        """The frames marked in `keep`; a frame whose predecessor is left out starts anew."""
        follows = np.concatenate([[False], keep[:-1]]) & ~self.restarted
        return Sequence(self.features[keep], self.at_ms[keep], ~follows[keep])

    def during(self, span_ms: tuple[float, float] | None) -> "Sequence":
        if span_ms is None:
            return self
        inside = (self.at_ms >= span_ms[0]) & (self.at_ms <= span_ms[1])
        if not inside.any():                             # a span shorter than a sampling period: the frame next to it
            inside[np.abs(self.at_ms - sum(span_ms) / 2).argmin()] = True
        return self.part(inside)


def indices(restarted: np.ndarray, window: int, stride: int) -> np.ndarray:
    """Rows of each window, [k,window], in order."""
    starts = np.flatnonzero(restarted) if len(restarted) and restarted[0] else np.concatenate([[0], np.flatnonzero(restarted)])
    ends = np.append(starts[1:], len(restarted))
    made = [np.arange(first, first + window) for s, e in zip(starts, ends) for first in range(s, e - window + 1, stride)]
    if not made:                                         # what the agent has in hand at the end, padded
        made = [np.minimum(np.arange(starts[-1], starts[-1] + window), len(restarted) - 1)]
    return np.stack(made).astype(np.int64)


def segments(at_ms: np.ndarray, period_ms: float, window: int, count: int, span_ms: tuple[float, float] | None,
             events_ms: tuple[tuple[float, float], ...]) -> list[tuple[float, float]]:
    """Which parts of a video are trained on, as first and last time.

    A clip of up to two windows is taken whole. Of a longer one `count` windows are taken, evenly spread: over its
    events where these are known, otherwise over all of it. The latter is weak supervision: the video's label is
    given to windows in which perhaps nothing happens yet.
    """
    first, last = (at_ms[0], at_ms[-1]) if span_ms is None else (max(span_ms[0], at_ms[0]), min(span_ms[1], at_ms[-1]))
    length = window * period_ms                          # one more than it has intervals: times jitter
    areas = [(max(s, first), min(e, last)) for s, e in events_ms] or [(first, last)]
    areas = [(s, e) for s, e in areas if e >= s] or [(first, last)]
    total = sum(e - s for s, e in areas)
    if not events_ms and total <= 2 * length:
        return [(first, last)]
    made = []
    for s, e in areas:
        wanted = max(1, round(count * (e - s) / total)) if total > 0 else 1
        wanted = min(wanted, max(1, int((e - s) // length)))
        for k in range(wanted):
            # An event shorter than a window is taken with what surrounds it.
            start = s + (e - s - length) * ((k + 0.5) / wanted if e - s > length else 0.5)
            start = min(max(start, at_ms[0]), max(at_ms[0], at_ms[-1] - length))
            made.append((float(start), float(min(start + length, at_ms[-1]))))
    return made
