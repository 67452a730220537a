"""The frozen encoder's features of clips, computed once and kept.

What is kept is found by a digest of everything that decides it: the video's bytes, the pixel part of the recipe, the
encoder, and for a changed variant the augmentation. Each clip is written whole or not at all, so that an interrupted
run goes on where it stopped. Frames are never kept: at 480 pixels they take some 4 MB for each second of video, in a
temporary directory, while one video is worked on.
"""
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnxruntime as ort

from .agent import Agent, write_frames
from .augment import DENSE, sequence as augmented_sequence
from .clips import Clip
from .errors import KitError
from .files import VideoDigests, digest_of, read_arrays, sha256_of, write_arrays
from .progress import Progress
from .recipe import Recipe
from .windows import Sequence, segments

WARM_UP = 8                                              # frames after which the box has forgotten its start (0.7^8 = 6 %)


class EncoderSession:
    """An exported encoder on ONNX Runtime: three times as fast as PyTorch on a CPU, and what serves."""

    def __init__(self, path: Path, threads: int = 1):
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self.path, self.digest = path, sha256_of(path.read_bytes())
        self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0]
        self.size = self.session.get_outputs()[[o.name for o in self.session.get_outputs()].index("features")].shape[1]

    def __call__(self, views: np.ndarray, batch: int = 16) -> np.ndarray:
        if list(views.shape[1:]) != list(self.input.shape[1:]):
            raise KitError(f"{self.path}: takes views of {self.input.shape[1:]}, the recipe makes {list(views.shape[1:])}")
        return np.concatenate([self.session.run(["features"], {self.input.name: np.ascontiguousarray(views[i:i + batch])})[0]
                               for i in range(0, len(views), batch)])


class FeatureStore:
    def __init__(self, recipe: Recipe, agent: Agent, encoder: EncoderSession, cache: Path):
        self.recipe, self.agent, self.encoder, self.cache = recipe, agent, encoder, cache
        self.videos = VideoDigests(cache)
        self.period_ms = 1000 / recipe.sample_fps
        pixels = recipe.pixel_part()
        self.rule = {k: pixels[k] for k in ("sample_fps", "pixels", "view")} | {"encoder": encoder.digest}

    def plain(self, video: Path) -> Sequence:
        """Of the whole video, as it is served."""
        return self._load(self._plain_file(video))

    def variants(self, clip: Clip) -> list[Sequence]:
        """The clip's changed variants: its segments alone, each starting anew."""
        return [self._load(self._variant_file(clip, k)) for k in range(self.recipe.augmentation.variants)]

    def prepare(self, clips: Iterable[Clip], augment: bool) -> None:
        """Computes what is missing. Later calls of `plain` and `variants` only read."""
        by_video: dict[Path, list[Clip]] = defaultdict(list)
        for clip in clips:
            by_video[clip.path].append(clip)
        count = self.recipe.augmentation.variants if augment else 0
        work = []
        for video, of in by_video.items():
            missing = [(c, k) for c in of for k in range(count) if not self._variant_file(c, k).is_file()]
            if missing or not self._plain_file(video).is_file():
                work.append((video, missing))
        self.videos.save()
        progress, failed = Progress("features", len(work)), []
        for video, missing in work:
            try:
                self._compute(video, missing)
            except KitError as e:
                failed.append(str(e))
            progress.step(video.name)
        if failed:
            raise KitError(f"{len(failed)} videos could not be read; the others are done. Repair them or take them out:\n"
                           + "\n".join(failed[:20]))

    def _compute(self, video: Path, missing: list[tuple[Clip, int]]) -> None:
        with tempfile.TemporaryDirectory(prefix="vedette-train-") as name:
            scratch = Path(name)
            if not self._plain_file(video).is_file():
                frames = self.agent.frames(video, scratch / "plain", view=True)
                features = self.encoder(np.load(scratch / "plain" / "view.npy", mmap_mode="r"))
                self._save(self._plain_file(video), Sequence(features, frames.at_ms, frames.restarted))
            if not missing:
                return
            dense = self.agent.frames(video, scratch / "dense", sample_fps=DENSE * self.recipe.sample_fps)
            for n, (clip, variant) in enumerate(missing):
                # The seed is the clip's and the variant's own, so that the order of work does not matter.
                seed = [self.recipe.training.seed, variant, int(sha256_of(clip.name.encode())[:8], 16)]
                frames, mine = augmented_sequence(dense, self.segments(clip, dense.at_ms), self.period_ms, WARM_UP,
                                                  self.recipe.augmentation, seed)
                write_frames(scratch / f"v{n}", frames)
                views = self.agent.views([scratch / f"v{n}"])[0]
                whole = Sequence(self.encoder(views), frames.at_ms, frames.restarted)
                self._save(self._variant_file(clip, variant), whole.part(mine))
                for file in (scratch / f"v{n}").iterdir():
                    file.unlink()

    def segments(self, clip: Clip, at_ms: np.ndarray) -> list[tuple[float, float]]:
        r = self.recipe
        return segments(at_ms, self.period_ms, r.window, r.training.windows_per_video, clip.span_ms, clip.events_ms)

    def _plain_file(self, video: Path) -> Path:
        return self._file({"video": self.videos.of(video)})

    def _variant_file(self, clip: Clip, variant: int) -> Path:
        r = self.recipe
        return self._file({"video": self.videos.of(clip.path), "clip": clip.name, "span": clip.span_ms, "events": clip.events_ms,
                           "augmentation": asdict(r.augmentation) | {"variants": None}, "seed": r.training.seed, "variant": variant,
                           "segments": [r.window, r.training.windows_per_video, WARM_UP, DENSE]})

    def _file(self, what: dict) -> Path:
        digest = digest_of(what | {"rule": self.rule})
        return self.cache / "features" / digest[:2] / f"{digest}.npz"

    @staticmethod
    def _save(file: Path, s: Sequence) -> None:
        write_arrays(file, {"features": s.features, "at_ms": s.at_ms, "restarted": s.restarted})

    @staticmethod
    def _load(file: Path) -> Sequence:
        found = read_arrays(file)
        return Sequence(found["features"], found["at_ms"], found["restarted"])
