"""The agent's program: the only maker of pixels. Neither decoding, scaling nor the motion box is written again in Python."""
import csv
import importlib.util
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import KitError
from .files import write_text
from .recipe import Recipe


@dataclass(frozen=True)
class Frames:
    """What `vedette frames` wrote: RGB frames 480 wide, their times, and whether each follows a gap."""
    rgb: np.ndarray                                      # uint8 [n,h,480,3], mapped from the disk
    at_ms: np.ndarray
    restarted: np.ndarray


class Agent:
    def __init__(self, binary: str, recipe: Recipe, cache: Path):
        found = shutil.which(binary)
        if found is None:
            raise KitError(f"no program {binary}; build it with `make build` and name it with --vedette target/release/vedette")
        self.binary = str(Path(found).resolve())
        self.recipe_file = cache / "recipes" / f"{recipe.name}-{recipe.digest()[:12]}.toml"
        write_text(self.recipe_file, recipe.pixel_toml())

    def run(self, *arguments: str | Path) -> str:
        done = subprocess.run([self.binary, *map(str, arguments)], capture_output=True, text=True, env=_environment())
        if done.returncode != 0:
            raise KitError(f"`{self.binary} {' '.join(map(str, arguments))}` failed: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def frames(self, video: Path, out: Path, sample_fps: float | None = None, view: bool = False) -> Frames:
        rate = [] if sample_fps is None else ["--sample-fps", str(sample_fps)]
        self.run("frames", video, "--out", out, "--format", "npy", "--recipe", self.recipe_file, *rate, *["--view"] * view)
        with open(out / "frames.csv", newline="") as f:
            rows = list(csv.DictReader(f))
        return Frames(np.load(out / "frame.npy", mmap_mode="r"), np.array([float(r["pts_ms"]) for r in rows]),
                      np.array([r["gap"] == "true" for r in rows]))

    def views(self, directories: list[Path]) -> list[np.ndarray]:
        """The views of frames that were changed: each directory as `write_frames` leaves it."""
        self.run("views", *directories, "--recipe", self.recipe_file)
        return [np.load(d / "view.npy", mmap_mode="r") for d in directories]

    def evaluate(self, data: Path, model: Path) -> dict[str, Any]:
        return json.loads(self.run("evaluate", "--data", data, "--model", model, "--json"))


def _environment() -> dict[str, str]:
    """Unless another is named, the agent runs networks with the same ONNX Runtime as the kit."""
    spec = importlib.util.find_spec("onnxruntime")
    found = sorted(Path(spec.submodule_search_locations[0]).glob("capi/libonnxruntime.so*")) if spec and spec.submodule_search_locations else []
    return ({"ORT_DYLIB_PATH": str(found[0])} if found else {}) | dict(os.environ)


def write_frames(out: Path, frames: Frames) -> None:
    """In the form of `vedette frames`, for `vedette views`."""
    out.mkdir(parents=True)
    np.save(out / "frame.npy", np.ascontiguousarray(frames.rgb))
    with open(out / "frames.csv", "w", newline="") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(["index", "pts_ms", "gap"])
        writer.writerows((i, f"{t:.3f}", str(bool(g)).lower()) for i, (t, g) in enumerate(zip(frames.at_ms, frames.restarted)))
