"""Changed frames, so that what is learnt is not one camera's place, light and compression. All frames of one
sequence are changed alike (but for noise and shake, which differ from frame to frame as they do in a camera), and
`vedette views` then makes the views of them."""
from dataclasses import dataclass

import numpy as np

from .agent import Frames
from .recipe import Augmentation

DENSE = 2                                                # frames are decoded so many times as densely, for `speed`


@dataclass(frozen=True)
class Change:
    """One draw of everything random that a whole clip shares."""
    flip: bool
    side: float
    left: float                                          # where the crop lies in what is free, 0 to 1
    top: float
    curve: np.ndarray                                    # uint8 [256]: gamma, contrast and brightness as one table
    speed: float
    noise: float
    blocks: float
    shake: float


def draw(a: Augmentation, rng: np.random.Generator) -> Change:
    low, high = np.log(a.gamma)
    levels = 255 * (np.arange(256) / 255) ** np.exp(rng.uniform(low, high))
    levels = (levels - 128) * rng.uniform(*a.contrast) + 128 + rng.uniform(*a.brightness)
    return Change(flip=rng.random() < a.flip, side=rng.uniform(*a.crop), left=rng.random(), top=rng.random(),
                  curve=levels.round().clip(0, 255).astype(np.uint8), speed=rng.uniform(*a.speed),
                  noise=rng.uniform(*a.noise), blocks=rng.uniform(*a.blocks), shake=rng.uniform(*a.shake))


def retimed(at_ms: np.ndarray, start_ms: float, end_ms: float, speed: float, period_ms: float) -> tuple[np.ndarray, np.ndarray]:
    """Which of the frames at `at_ms` a camera would have taken between two times if all went `speed` times as fast,
    and the times that they then have."""
    wanted = np.arange(start_ms, end_ms + 1e-6, period_ms * speed)
    right = np.searchsorted(at_ms, wanted).clip(1, len(at_ms) - 1) if len(at_ms) > 1 else np.zeros(len(wanted), int)
    nearest = np.where(wanted - at_ms[right - 1] <= at_ms[right] - wanted, right - 1, right) if len(at_ms) > 1 else right
    keep = np.concatenate([[True], np.diff(nearest) > 0])            # each picture once, as in a tap
    return nearest[keep], (wanted[keep] - start_ms) / speed


def changed(rgb: np.ndarray, change: Change, rng: np.random.Generator) -> np.ndarray:
    """uint8 [n,h,w,3] of the same size."""
    n, h, w, _ = rgb.shape
    ch, cw = max(1, int(h * change.side)), max(1, int(w * change.side))
    top, left = change.top * (h - ch), change.left * (w - cw)
    jumps = rng.normal(0, change.shake, (n, 2)) if change.shake > 0 else np.zeros((n, 2))
    out = np.empty((n, h, w, 3), np.uint8)
    for i, frame in enumerate(rgb):
        y = top + jumps[i, 0] + (np.arange(h) + 0.5) * ch / h - 0.5
        x = left + jumps[i, 1] + (np.arange(w) + 0.5) * cw / w - 0.5
        picture = _stretched(frame, y, x)
        if change.blocks > 0:
            picture = _blocky(picture, change.blocks)
        if change.noise > 0:
            picture += rng.normal(0, change.noise, (h, w, 1))
        out[i] = change.curve[picture.round().clip(0, 255).astype(np.uint8)]
    return out[:, :, ::-1] if change.flip else out


def _stretched(frame: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Bilinear samples at rows `y` and columns `x`; a crop is only ever enlarged, so nothing aliases."""
    h, w, _ = frame.shape
    y, x = y.clip(0, h - 1), x.clip(0, w - 1)
    y0, x0 = np.floor(y).astype(int), np.floor(x).astype(int)
    fy, fx = (y - y0)[:, None, None].astype(np.float32), (x - x0)[None, :, None].astype(np.float32)
    y1, x1 = np.minimum(y0 + 1, h - 1), np.minimum(x0 + 1, w - 1)
    rows = frame[y0] * (1 - fy) + frame[y1] * fy
    return rows[:, x0] * (1 - fx) + rows[:, x1] * fx


def _blocky(picture: np.ndarray, strength: float, size: int = 8) -> np.ndarray:
    """As a coder short of bits leaves it: each block nearer to its mean."""
    h, w, _ = picture.shape
    inner = picture[:h - h % size, :w - w % size]
    blocks = inner.reshape(h // size, size, w // size, size, 3)
    mean = blocks.mean((1, 3), keepdims=True)
    picture[:h - h % size, :w - w % size] = (blocks + strength * (mean - blocks)).reshape(inner.shape)
    return picture


def sequence(frames: Frames, segments: list[tuple[float, float]], period_ms: float, warm_up: int, a: Augmentation,
             seed: list[int]) -> tuple[Frames, np.ndarray]:
    """One changed variant of the segments (first and last time, ms) of a video that was decoded DENSE times as densely.

    Each segment is preceded by up to `warm_up` frames, so that the motion box has found its place; the second result
    says which frames are the segment's own.
    """
    rng = np.random.default_rng(seed)
    change = draw(a, rng)
    pictures, times, own, starts = [], [], [], []
    clock = 0.0
    for start, end in segments:
        lead = max(frames.at_ms[0], start - warm_up * period_ms * change.speed)
        rows, at = retimed(frames.at_ms, lead, min(end, frames.at_ms[-1]), change.speed, period_ms)
        pictures.append(frames.rgb[rows])
        own.append(frames.at_ms[rows] >= start - period_ms / 2)
        starts.append(np.arange(len(rows)) == 0)
        times.append(clock + at)
        clock += at[-1] + 100 * period_ms                # a gap, so that segments do not touch
    rgb = changed(np.concatenate(pictures), change, rng)
    return Frames(rgb, np.concatenate(times), np.concatenate(starts)), np.concatenate(own)
