"""What training leaves: heads, how features are standardised, and the temperature. Plain arrays, so that a model can be
exported and judged where there is no PyTorch."""
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import logistic
from . import recipe as recipes
from .errors import KitError
from .files import read_arrays, write_arrays, write_text
from .recipe import Recipe


@dataclass(frozen=True)
class Trained:
    recipe: Recipe
    heads: list[dict[str, np.ndarray]]                   # one for each seed
    mean: np.ndarray                                     # [F], of the training part's plain features
    std: np.ndarray
    temperature: float = 1.0

    def standardised(self, windows: np.ndarray) -> np.ndarray:
        clip = self.recipe.head.feature_clip
        return ((windows - self.mean) / self.std).clip(-clip, clip).astype(np.float32)

    def logits(self, windows: np.ndarray) -> np.ndarray:
        """[k,window,F] -> [k,classes], the mean over heads, divided by the temperature."""
        x = self.standardised(windows)
        if self.recipe.head.kind == "logistic":
            found = [logistic.logits(h, x) for h in self.heads]
        else:
            import torch

            from . import heads
            with torch.inference_mode():
                found = [heads.of_arrays(self.recipe.head, h)(torch.from_numpy(x)).numpy() for h in self.heads]
        return np.mean(found, 0) / self.temperature

    def probabilities(self, windows: np.ndarray) -> np.ndarray:
        return softmax(self.logits(windows))

    def calibrated(self, temperature: float) -> "Trained":
        return dataclasses.replace(self, temperature=temperature)

    def parameters(self) -> int:
        return sum(int(a.size) for h in self.heads for a in h.values())

    def save(self, run: Path) -> None:
        arrays = {f"head{k}.{name}": a for k, h in enumerate(self.heads) for name, a in h.items()}
        write_arrays(run / "trained.npz", arrays | {"mean": self.mean, "std": self.std, "temperature": np.array(self.temperature)})
        write_text(run / "recipe.toml", self.recipe.text())


def load(run: Path) -> Trained:
    file = run / "trained.npz"
    if not file.is_file():
        raise KitError(f"{run}: nothing was trained here; run `fit --run {run}` first")
    found: dict[str, Any] = read_arrays(file)
    count = 1 + max(int(k.split(".")[0][4:]) for k in found if k.startswith("head"))
    heads = [{k.split(".", 1)[1]: a for k, a in found.items() if k.startswith(f"head{n}.")} for n in range(count)]
    return Trained(recipes.read(run / "recipe.toml"), heads, found["mean"], found["std"], float(found["temperature"]))


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)
