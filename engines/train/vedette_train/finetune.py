"""Fine-tuning: the encoder's last blocks and a head trained end to end on views; the encoder is then frozen again and the
heads are fitted on its features as always. Batch norm keeps ImageNet's statistics: a batch holds few videos.

Slow on a CPU. In cross-validation every fold tunes its own encoder, because one that saw a clip is no judge of it.
"""
from collections.abc import Sequence as Many
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import encoders
from .clips import Clip
from .features import FeatureStore
from .files import digest_of
from .progress import Progress
from .recipe import Recipe
from .windows import indices

if TYPE_CHECKING:
    from .crossval import StoreFor
    from .workspace import Workspace

BATCH = 8                                                # windows; each is 16 views


class Views:
    """In the place of an encoder: keeps the views themselves."""

    digest = "views"

    def __call__(self, views: np.ndarray) -> np.ndarray:
        return np.array(views).reshape(len(views), -1)


def stores(ws: "Workspace", frozen: FeatureStore) -> "StoreFor":
    """For each training part the store of the encoder that its heads are fitted on: the frozen one, or one tuned on it."""
    if ws.recipe.encoder.fine_tune_blocks == 0:
        return lambda _: frozen
    return lambda train: _tuned(ws, train, frozen)


def _tuned(ws: "Workspace", train: Many[Clip], store: FeatureStore) -> FeatureStore:
    recipe = ws.recipe
    key = digest_of([[c.name, c.label, c.span_ms, store.videos.of(c.path), *c.events_ms] for c in train] + [
        asdict(recipe.training), asdict(recipe.augmentation), asdict(recipe.head), recipe.pixel_part()])
    directory = encoders.tuned(recipe, ws.cache, key)
    if not (directory / encoders.HALF).is_file():
        views = FeatureStore(recipe, ws.agent, Views(), ws.cache)                # type: ignore[arg-type]
        views.prepare(train, augment=True)
        tune(recipe, train, views, directory)
    made = ws.store_of(directory)
    made.prepare(train, augment=True)
    return made


def tune(recipe: Recipe, train: Many[Clip], views: FeatureStore, directory: Path) -> None:
    import torch
    from torch import nn

    from .heads import Head
    spec, t = recipe.encoder, recipe.training
    torch.manual_seed(t.seed)
    rng = np.random.default_rng(t.seed)
    encoder = encoders.module(recipe, encoders.frozen(recipe, views.cache))
    head_kind = recipe.head if recipe.head.kind != "logistic" else type(recipe.head)("attention")
    head = Head(head_kind, encoder.size, len(recipe.classes))
    tuned = [p for block in encoder.blocks[-spec.fine_tune_blocks:] for p in block.parameters()]
    for parameter in tuned:
        parameter.requires_grad_(True)
    steps = max(1, len(train) // BATCH)
    groups: list[dict[str, Any]] = [{"params": tuned, "lr": spec.fine_tune_rate}, {"params": list(head.parameters())}]
    optimiser = torch.optim.AdamW(groups, t.learning_rate, weight_decay=t.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, [spec.fine_tune_rate, t.learning_rate], total_steps=spec.fine_tune_epochs * steps)
    shape = (recipe.view.height, recipe.view.width, recipe.view.channels)
    names = list(recipe.classes)
    norm = nn.BatchNorm1d(encoder.size, affine=False)    # standardises while the features change; the heads do it themselves later
    progress = Progress("fine-tuning", spec.fine_tune_epochs * steps)
    for _ in range(spec.fine_tune_epochs):
        for batch in np.array_split(rng.permutation(len(train))[:steps * BATCH], steps):
            windows = []
            for n in batch:
                variant = int(rng.integers(0, recipe.augmentation.variants + 1))
                clip = train[n]
                if variant == 0:
                    whole = views.plain(clip.path)
                    segments = views.segments(clip, whole.at_ms)
                    part = whole.during(segments[rng.integers(len(segments))])
                else:
                    part = views.variants(clip)[variant - 1]
                rows = indices(part.restarted, recipe.window, recipe.stride)
                windows.append(part.features[rows[rng.integers(len(rows))]].reshape(-1, *shape))
            x = torch.from_numpy(np.concatenate(windows))
            features, _ = encoder(x)
            logits = head(norm(features).clamp(-recipe.head.feature_clip, recipe.head.feature_clip).unflatten(0, (len(batch), recipe.window)))
            label = torch.tensor([names.index(train[n].label) for n in batch])
            loss = nn.functional.cross_entropy(logits, label, label_smoothing=t.label_smoothing)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            progress.step(f"loss {loss.item():.3f}")
    encoders.write_both(encoder.eval().requires_grad_(False), directory, with_weights=True)
