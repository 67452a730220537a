"""The golden clip: shapes that walk, then struggle, over a quiet ground. No real footage."""
from pathlib import Path

import numpy as np

from .video import encode

WIDTH, HEIGHT, FPS, PICTURES = 640, 360, 16, 40


def picture(n: int) -> np.ndarray:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    ground = np.stack([90 + x / 16 + 8 * np.sin(y / 23), 100 + y / 12, 110 + 6 * np.cos(x / 31)], -1)
    wild = max(0, n - 16)                                # from here on they struggle
    for k, colour in enumerate([(200, 60, 50), (40, 70, 190)]):
        side = 1 - 2 * k
        cx = 320 - side * max(14, 150 - 9 * n) + side * 9 * np.sin(2.1 * wild + k)
        cy = 200 + 11 * np.sin(1.7 * wild + 2 * k)
        ground[((x - cx) / 22) ** 2 + ((y - cy) / 58) ** 2 < 1] = colour
        ground[((x - cx) / 13) ** 2 + ((y - cy + 72) / 15) ** 2 < 1] = (225, 180, 150)
        arm = wild * 1.3 + 3 * k
        ax, ay = cx + side * (30 + 14 * np.cos(arm)), cy - 25 + 26 * np.sin(arm)
        ground[((x - ax) / 16) ** 2 + ((y - ay) / 8) ** 2 < 1] = colour
    return ground.clip(0, 255).astype(np.uint8)


def render(path: Path) -> None:
    encode(path, (picture(n) for n in range(PICTURES)), FPS)
