"""The slope of memory over time, with its interval."""

import math

# A daemon that has just started is still filling its rings and caches.
WARM_UP_S = 180


def slope(samples):
    """MB an hour by least squares over all daemons' lives, each with a level of its own and its first minutes left out:
    {"slope", "low", "high", "samples"}, the interval being two standard errors (with neighbouring samples taken to hold
    the information of a tenth as many); none where no daemon lived long enough."""
    lives = {}
    for start, at_s, mb in samples:
        lives.setdefault(start, []).append((at_s / 3600, mb))
    points = []
    for life in lives.values():
        kept = [(t, mb) for t, mb in life if t - life[0][0] >= WARM_UP_S / 3600]
        if len(kept) >= 3:
            mean_t, mean_mb = (sum(column) / len(kept) for column in zip(*kept))
            points += [(t - mean_t, mb - mean_mb) for t, mb in kept]
    spread = sum(t * t for t, _ in points)
    if len(points) < 30 or spread == 0:
        return None
    found = sum(t * mb for t, mb in points) / spread
    rest = sum((mb - found * t) ** 2 for t, mb in points) / max(1, len(points) / 10 - 2)
    error = 2 * math.sqrt(rest / spread)
    return {"slope": round(found, 3), "low": round(found - error, 3), "high": round(found + error, 3), "samples": len(points)}
