"""What the commands share: recipe, data, encoder, cache, and the directory of a run."""
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from . import classmap, clips, encoders, quiet, splits, ucf
from . import recipe as recipes
from .agent import Agent
from .clips import Clip
from .errors import KitError
from .features import EncoderSession, FeatureStore
from .recipe import Recipe
from .splits import Split


@dataclass(frozen=True)
class Workspace:
    recipe: Recipe
    data: Path
    classmap: str | None
    split: str
    cache: Path
    run: Path
    vedette: str
    threads: int
    normal: Path | None                                  # directory of ordinary videos

    @property
    def work(self) -> Path:
        return self.cache / "heads"

    @cached_property
    def agent(self) -> Agent:
        return Agent(self.vedette, self.recipe, self.cache)

    @cached_property
    def frozen_store(self) -> FeatureStore:
        return self.store_of(encoders.frozen(self.recipe, self.cache))

    def store_of(self, encoder_dir: Path) -> FeatureStore:
        session = EncoderSession(encoder_dir / encoders.SINGLE, self.threads)
        return FeatureStore(self.recipe, self.agent, session, self.cache)

    @cached_property
    def clips(self) -> list[Clip]:
        return read_data(self.data, self.recipe, self.classmap, self.split if self.split in ucf.SPLITS else None)

    @cached_property
    def normal_videos(self) -> list[Path]:
        found = quiet.videos(self.normal) if self.normal else []
        if missing := set(self.recipe.hard_negatives.videos) - {v.name for v in found}:
            raise KitError(f"hard_negatives.videos names {', '.join(sorted(missing))}; give the directory that holds them with --normal")
        return found

    def hard_negatives(self, store: FeatureStore) -> list[Clip]:
        """Pieces of the ordinary videos that the recipe trains on. Their features are there afterwards."""
        chosen = [v for v in self.normal_videos if v.name in self.recipe.hard_negatives.videos]
        store.prepare([quiet.whole(v) for v in chosen], augment=False)
        made = [p for v in chosen for p in quiet.pieces(v, store, self.recipe)]
        store.prepare(made, augment=True)
        return made

    @property
    def training_clips(self) -> list[Clip]:
        """What the final model is fitted on: everything, but for the test part of a split that the data set came with."""
        return [c for c in self.clips if c.split != "test"]

    def splits(self, seed: int) -> list[Split]:
        if self.split == "folds":
            return splits.folds(self.clips, self.recipe.evaluation.folds, seed)
        if self.split == "holdout":
            return [splits.holdout(self.clips, 0.2, seed)]
        return [splits.own(self.clips)]

    @property
    def protocol(self) -> str:
        """What the split is, in words."""
        e, sources = self.recipe.evaluation, len({c.source for c in self.clips})
        what = {"folds": f"{e.folds} folds by source video", "holdout": "80/20 by source video"}.get(self.split, f"UCF-Crime's split {self.split}")
        times = len(e.fold_seeds)
        repeated = "once" if times == 1 else f"{times} times with other seeds" + (" and other splits" if self.split in ("folds", "holdout") else "")
        return (f"{what}, {repeated}; {len(self.clips)} clips of {sources} sources. A clip's probabilities are those of its window with the highest "
                "1 - P(Normal).")


def read_data(data: Path, recipe: Recipe, name: str | None, split: str | None) -> list[Clip]:
    """A `clips.csv`, or a folder of UCF-Crime."""
    if data.is_dir():
        if (data / "clips.csv").is_file():
            data = data / "clips.csv"
        elif not ucf.is_ucf(data):
            raise KitError(f"{data}: neither a clips.csv in it nor UCF-Crime's folders (Abuse, Arrest, ...); see engines/train/README.md, Data")
    if data.is_dir():
        mapping = classmap.read(name) if name else _map_of(recipe)
        found = ucf.read(data, mapping, split)
    else:
        if split is not None:
            raise KitError(f"--split {split} is UCF-Crime's own; with a clips.csv use folds or holdout")
        mapping = classmap.read(name) if name else classmap.identity(recipe.classes)
        found = clips.read_csv(data, mapping)
    if mapping.classes != recipe.classes:
        raise KitError(f"class map {mapping.name} has the classes {', '.join(mapping.classes)}; recipe {recipe.name} has {', '.join(recipe.classes)}")
    return [replace(c, path=c.path.resolve()) for c in found]


def _map_of(recipe: Recipe) -> classmap.ClassMap:
    shipped = [classmap.read(p.stem) for p in sorted(classmap.SHIPPED.glob("*.toml"))]
    for found in shipped:
        if found.classes == recipe.classes:
            return found
    raise KitError(f"no class map of the kit has the classes of recipe {recipe.name}; write one (see engines/train/classmaps) and name it with --classmap")


def open_run(run: Path) -> Recipe:
    return recipes.read(run / "recipe.toml")
