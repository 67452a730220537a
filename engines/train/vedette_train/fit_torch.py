"""One network head, from a seed: AdamW on a one-cycle schedule, smoothed labels, mixup, weighted classes."""
import copy

import numpy as np
import torch
from torch import nn

from .examples import Examples
from .heads import Head
from .recipe import Recipe


def fit_head(recipe: Recipe, data: Examples, watched: Examples | None, mean: np.ndarray, std: np.ndarray, weights: np.ndarray,
             seed: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The head's arrays and its history. With `patience` the head is the one of the epoch with the least watched loss."""
    t = recipe.training
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    count = len(recipe.classes)
    rows = ((torch.from_numpy(data.rows) - torch.from_numpy(mean)) / torch.from_numpy(std)).clamp(
        -recipe.head.feature_clip, recipe.head.feature_clip)
    index, label = torch.from_numpy(data.index), torch.from_numpy(data.label[data.clip])
    target = nn.functional.one_hot(label, count).float() * (1 - t.label_smoothing) + t.label_smoothing / count
    weight = torch.from_numpy(weights)[label]
    head = Head(recipe.head, data.rows.shape[1], count)
    # The steps of an epoch in which every clip is seen about once; what is left over waits for the next draw.
    batch = min(t.batch, len(data.label))
    steps = max(1, len(data.label) // batch)
    optimiser = torch.optim.AdamW(head.parameters(), t.learning_rate, weight_decay=t.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, t.learning_rate, total_steps=t.epochs * steps)
    history: dict[str, list[float]] = {"loss": [], "accuracy": []}
    best, best_loss, best_epoch = None, np.inf, 0
    for epoch in range(t.epochs):
        head.train()
        losses, right, seen = [], 0, 0
        drawn = torch.from_numpy(data.draw_epoch(rng, t.source_balanced)[:steps * batch])
        for part in drawn.split(batch):
            x = rows[index[part]]
            if t.feature_noise > 0:
                x = x + t.feature_noise * torch.randn_like(x)
            share = float(rng.beta(t.mixup, t.mixup)) if t.mixup > 0 else 1.0
            other = torch.from_numpy(rng.permutation(len(part)))
            mixed = share * target[part] + (1 - share) * target[part][other]
            mixed_weight = share * weight[part] + (1 - share) * weight[part][other]
            logits = head(share * x + (1 - share) * x[other])
            loss = -(mixed_weight * (mixed * logits.log_softmax(1)).sum(1)).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
            right += int((logits.argmax(1) == mixed.argmax(1)).sum())
            seen += len(part)
        history["loss"].append(float(np.mean(losses)))
        history["accuracy"].append(right / seen)
        if watched is not None:
            loss_now, accuracy_now = _look(head, recipe, watched, mean, std)
            history.setdefault("watched_loss", []).append(loss_now)
            history.setdefault("watched_accuracy", []).append(accuracy_now)
            if t.patience > 0:
                if loss_now < best_loss:
                    best, best_loss, best_epoch = copy.deepcopy(head.state_dict()), loss_now, epoch
                elif epoch - best_epoch >= t.patience:
                    break
    if best is not None:
        head.load_state_dict(best)
    return head.arrays(), {k: np.array(v) for k, v in history.items()}


@torch.inference_mode()
def _look(head: Head, recipe: Recipe, watched: Examples, mean: np.ndarray, std: np.ndarray) -> tuple[float, float]:
    """Loss and accuracy over windows, every clip counting the same."""
    head.eval()
    clip = recipe.head.feature_clip
    label = torch.from_numpy(watched.label[watched.clip])
    share = torch.from_numpy(1 / np.bincount(watched.clip)[watched.clip]).float()
    loss = right = torch.zeros(())
    for part in torch.arange(len(label)).split(1024):
        x = torch.from_numpy(((watched.windows(part.numpy()) - mean) / std).clip(-clip, clip).astype(np.float32))
        logits = head(x)
        loss = loss + (share[part] * nn.functional.cross_entropy(logits, label[part], reduction="none")).sum()
        right = right + (share[part] * (logits.argmax(1) == label[part])).sum()
    return float(loss / share.sum()), float(right / share.sum())
