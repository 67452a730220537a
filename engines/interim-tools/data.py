"""Clips, their views as `vedette frames --view` writes them, and the frozen encoder's features of them."""
import csv
import zlib
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
import torch.nn.functional as F

CLASSES = ["Fighting", "Normal"]
AUGMENTED = 6                               # views of each clip beside the plain one
WINDOW = 16


def clips(table):
    """[(clip path relative to the table, index of its class, source video)]"""
    with open(table, newline="") as f:
        return [(r["clip"], CLASSES.index(r["label"]), r["source_video"]) for r in csv.DictReader(f)]


def augment(views, rng):
    """One random flip, crop (.7 to 1), gamma, contrast and brightness for all views [n,h,w,6] of a clip."""
    n, h, w, _ = views.shape
    x = torch.from_numpy(np.ascontiguousarray(views)).permute(0, 3, 1, 2).float()
    side = rng.uniform(0.7, 1.0)
    ch, cw = int(h * side), int(w * side)
    top, left = rng.integers(0, h - ch + 1), rng.integers(0, w - cw + 1)
    x = F.interpolate(x[:, :, top:top + ch, left:left + cw], (h, w), mode="bilinear", antialias=True)
    if rng.random() < 0.5:
        x = x.flip(3)
    x = 255 * (x / 255).clamp(0, 1) ** np.exp(rng.uniform(-0.35, 0.35))
    x = (x - 128) * rng.uniform(0.7, 1.3) + 128 + rng.uniform(-25, 25)
    return x.clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def encoder_of(path):
    """The exported encoder on ONNX Runtime: uint8 [n,h,w,6] -> float32 [n,320]. Three times as fast as PyTorch here."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda views: np.concatenate(
        [session.run(["features"], {"view": np.array(views[i:i + 16])})[0] for i in range(0, len(views), 16)])


def features(encode, views_dir, cache, table):
    """{clip: float32 [1 + AUGMENTED, n, 320]}, computed once."""
    cache = Path(cache)
    if cache.exists():
        return dict(np.load(cache))
    found = {}
    for clip, _, _ in clips(table):
        views = np.load(Path(views_dir) / (Path(clip).stem + ".npy"))
        rng = np.random.default_rng(zlib.crc32(clip.encode()))
        found[clip] = np.stack([encode(s) for s in [views] + [augment(views, rng) for _ in range(AUGMENTED)]])
    np.savez(cache, **found)
    return found


def windows(sequence, stride):
    """Every window [k,16,320] of a sequence [n,320]; a short one is padded with its last frame, as the agent does."""
    n = len(sequence)
    if n < WINDOW:
        sequence = np.concatenate([sequence, np.repeat(sequence[-1:], WINDOW - n, 0)])
        n = WINDOW
    return np.stack([sequence[i:i + WINDOW] for i in range(0, n - WINDOW + 1, stride)])
