#!/usr/bin/env python3
"""Puts the model directory together: networks, golden vectors, card, manifest.

    package.py --trained DIR --golden DIR --weights mobilenet_v2-b0353104.pth --version 0.1.0 --out MODEL

--out: a directory that has the model's CARD.md; everything else in it is written anew.
--trained: what train.py wrote. --golden: golden.mp4, and what `vedette frames golden.mp4 --view` makes of it: frames as
00000.png and so on, times.json (milliseconds), views.npy. The features and probabilities are PyTorch's, so that they
prove the graphs as well as the engine.
"""
import argparse
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import torch

from data import CLASSES, WINDOW
from networks import CLIP, Encoder, Head

THRESHOLD = 0.75
MANIFEST = """\
# Format: DESIGN section 4 and src/agent/infer/manifest.rs. Written by engines/interim-tools/package.py.
name = "interim"
version = "{version}"
kind = "cnn-lstm"
minimum_agent = "0.1.0"
classes = {classes}
sample_fps = 8.0
window = 16
stride = 4
licence = "MIT OR Apache-2.0 (head); encoder: torchvision's MobileNetV2 ImageNet weights, BSD-3-Clause"
data = "surv-fight (Akti, Tataroglu, Ekenel: Vision-based Fight Detection from Surveillance Cameras, IPTA 2019; MIT): 232 clips, 32 sources; see CARD.md"

[pixels]
frame_width = 480
scale = "bilinear-antialiased"
gray = "bt601"

[view]
width = 224
height = 224
frames = "pair"
box = "motion"

[view.motion]
grid = [64, 36]
keep_percent = 70
noise_floor = 6
size_percent = 50
centre_pull_percent = 10

[features]
size = 320
map = [7, 7]

[thresholds]
Fighting = {threshold}

# Largest absolute difference from golden/. FP32 engines were seen to differ by less than a tenth of it.
[tolerances]
fp32 = {{ features = 1e-3, probabilities = 1e-3 }}
"""


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("trained", "golden", "weights", "out"):
        args.add_argument("--" + name, required=True, type=Path)
    args.add_argument("--version", required=True)
    args = args.parse_args()
    (args.out / "manifest.toml").unlink(missing_ok=True)
    golden = args.out / "golden"
    shutil.rmtree(golden, ignore_errors=True)
    golden.mkdir()
    for name in ("encoder.fp32.onnx", "head.fp32.onnx"):
        shutil.copyfile(args.trained / name, args.out / name)
    shutil.copyfile(args.golden / "golden.mp4", golden / "clip.mp4")

    views = np.load(args.golden / "views.npy")
    times = json.loads((args.golden / "times.json").read_text())
    windows = [0, len(views) - WINDOW]
    trained = torch.load(args.trained / "head.pt", weights_only=True)
    heads = [Head(len(CLASSES)).eval() for _ in trained["heads"]]
    for head, state in zip(heads, trained["heads"]):
        head.load_state_dict(state)
    with torch.inference_mode():
        features = Encoder(args.weights)(torch.from_numpy(views))[0]
        x = torch.stack([features[w:w + WINDOW] for w in windows])
        x = ((x - trained["mean"]) / trained["std"]).clamp(-CLIP, CLIP)
        probabilities = (sum(h(x) for h in heads) / len(heads)).softmax(1)
    features.numpy().astype("<f4").tofile(golden / "features.f32")
    probabilities.numpy().astype("<f4").tofile(golden / "probabilities.f32")
    print("golden probabilities", probabilities.tolist())

    listing = ['clip = "golden/clip.mp4"', 'features = "golden/features.f32"',
               'probabilities = "golden/probabilities.f32"', f"windows = {windows}"]
    for n, (at_ms, view) in enumerate(zip(map(round, times), views)):
        shutil.copyfile(args.golden / f"{n:05}.png", golden / f"frame-{n:02}.png")
        digest = hashlib.sha256(view.tobytes()).hexdigest()
        listing.append(f'\n[[frame]]\nfile = "golden/frame-{n:02}.png"\nat_ms = {at_ms}\nview_sha256 = "{digest}"')
    (golden / "golden.toml").write_text("\n".join(listing) + "\n")

    text = MANIFEST.format(version=args.version, classes=json.dumps(CLASSES), threshold=THRESHOLD)
    for file in sorted(p for p in args.out.rglob("*") if p.is_file()):
        data = file.read_bytes()
        text += f'\n[[file]]\npath = "{file.relative_to(args.out)}"\nsha256 = "{hashlib.sha256(data).hexdigest()}"\nsize_bytes = {len(data)}\n'
    (args.out / "manifest.toml").write_text(text)


if __name__ == "__main__":
    main()
