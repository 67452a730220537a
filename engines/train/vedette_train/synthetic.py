"""A tiny data set in UCF-Crime's layout: moving shapes, a way of moving for each class. To try the kit with, not to learn from."""
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from . import ucf
from .video import encode

WIDTH, HEIGHT, FPS = 240, 136, 16
PICTURES = (24, 34)                                      # in turn: 12 frames at 8 a second, which is padded, and 17, one window
NORMAL_FOLDERS = ("Normal_Videos_event", "Training-Normal-Videos-Part-1", "Testing_Normal_Videos_Anomaly")


def pictures(kind: int, number: int) -> Iterator[np.ndarray]:
    """Video `number` of class `kind`: two shapes on a ground of its own, faster and wilder from class to class."""
    rng = np.random.default_rng([kind, number])
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    ground = rng.uniform(60, 160) + 20 * np.sin(x[..., None] / rng.uniform(15, 40) + np.arange(3)) + y[..., None] / 8
    colours, phase = rng.uniform(0, 255, (2, 3)), rng.uniform(0, 6, 2)
    for n in range(PICTURES[number % 2]):
        picture = ground.copy()
        for k in range(2):
            angle = phase[k] + n * (0.05 + 0.05 * kind)
            cx, cy = WIDTH / 2 + (30 + 8 * kind) * np.cos(angle), HEIGHT / 2 + (5 + 4 * kind) * np.sin((1 + k) * angle)
            picture[((x - cx) / (8 + kind)) ** 2 + ((y - cy) / 14) ** 2 < 1] = colours[k]
        yield picture.clip(0, 255).astype(np.uint8)


def write(root: Path, classes: tuple[str, ...], each: int = 2) -> None:
    """`each` videos (2 or 3) of each folder that is not dropped by anybody, split files, an annotation, and a folder that
    the seed's class map drops."""
    train: list[str] = []
    test: list[str] = []
    annotation: list[str] = []
    for kind, folder in enumerate([f for f in ucf.FOLDERS if f.replace("RoadAccidents", "Road Accidents") in classes] + ["Stealing", "Normal"]):
        for number in range(1, each + 1 if folder != "Stealing" else 2):
            if folder == "Normal":
                inside, name = NORMAL_FOLDERS[number - 1], f"Normal_Videos_{number:03}_x264.mp4"
            else:
                inside, name = f"Anomaly-Videos-Part-{1 + kind % 4}/{folder}", f"{folder}{number:03}_x264.mp4"
            (root / inside).mkdir(parents=True, exist_ok=True)
            encode(root / inside / name, pictures(0 if folder == "Normal" else kind + 1, number), FPS)
            last = number == each
            (test if last else train).append(f"{Path(inside).name}/{name}")
            if last and folder != "Normal":
                annotation.append(f"{name}  {folder}  15  60  -1  -1")
    (root / "Anomaly_Train.txt").write_text("\n".join(train) + "\n")
    (root / "Anomaly_Test.txt").write_text("\n".join(test) + "\n")
    (root / ucf.ANNOTATION).write_text("\n".join(annotation) + "\n")
