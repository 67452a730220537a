#!/usr/bin/env python3
"""Trains the interim head on cached features, and says by source video how good it is.

    train.py --table clips.csv --views DIR --weights mobilenet_v2-b0353104.pth --out DIR [--quiet-views DIR]

DIR of --views holds one NAME.npy (uint8 [n,224,224,6]) for each clip. --quiet-views: the same for videos in which
nothing happens; never trained on, only scored, with the window stepped every frame.
"""
import argparse
import json
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from torch import nn

from data import CLASSES, clips, encoder_of, features, windows
from networks import CLIP, Encoder, Head, write_encoder, write_head

EPOCHS, BATCH, SEEDS, FOLD_SEEDS = 25, 32, 5, 3
NORMAL = CLASSES.index("Normal")


def standardise(found, names):
    rows = np.concatenate([found[n][0] for n in names])
    return torch.from_numpy(rows.mean(0)), torch.from_numpy(rows.std(0) + 1e-3)


def fit(found, labelled, mean, std, seed):
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    x, y = [], []
    for clip, label, _ in labelled:
        for s in found[clip]:
            w = windows(s, 4)
            x.append(w)
            y += [label] * len(w)
    x, y = torch.from_numpy(np.concatenate(x)), torch.tensor(y)
    x = ((x - mean) / std).clamp(-CLIP, CLIP)
    target = nn.functional.one_hot(y, len(CLASSES)).float() * 0.9 + 0.1 / len(CLASSES)
    # An epoch sees each clip about once, in one of its views.
    steps = max(1, len(labelled) // BATCH)
    head = Head(len(CLASSES))
    optimiser = torch.optim.AdamW(head.parameters(), 2e-3, weight_decay=5e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=EPOCHS * steps)
    head.train()
    for _ in range(EPOCHS):
        order = torch.from_numpy(rng.permutation(len(x))[:steps * BATCH])
        for batch in order.split(BATCH):
            other = batch[torch.from_numpy(rng.permutation(len(batch)))]
            mix = float(rng.beta(0.4, 0.4))
            logits = head(mix * x[batch] + (1 - mix) * x[other])
            loss = -((mix * target[batch] + (1 - mix) * target[other]) * logits.log_softmax(1)).sum(1).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return head.eval()


@torch.inference_mode()
def score(heads, mean, std, sequence, stride=4):
    """1 - P(Normal) of every window."""
    x = ((torch.from_numpy(windows(sequence, stride)) - mean) / std).clamp(-CLIP, CLIP)
    return 1 - (sum(h(x) for h in heads) / len(heads)).softmax(1)[:, NORMAL].numpy()


def table(truth, p, threshold=0.5):
    fighting, said = truth != NORMAL, p >= threshold
    return {
        "accuracy": float((said == fighting).mean()), "roc_auc": float(roc_auc_score(fighting, p)),
        "recall": float(said[fighting].mean()), "specificity": float((~said[~fighting]).mean()),
    }


def cross_validate(found, labelled):
    truth, sources = np.array([l for _, l, _ in labelled]), [s for _, _, s in labelled]
    results, scores = [], []
    for seed in range(FOLD_SEEDS):
        p = np.zeros(len(labelled))
        for train, test in GroupKFold(5, shuffle=True, random_state=seed).split(truth, groups=sources):
            part = [labelled[i] for i in train]
            mean, std = standardise(found, [c for c, _, _ in part])
            heads = [fit(found, part, mean, std, 100 * seed + k) for k in range(SEEDS)]
            for i in test:
                p[i] = score(heads, mean, std, found[labelled[i][0]][0]).max()
        results.append(table(truth, p))
        scores.append(p)
        print("folds", seed, {k: round(v, 3) for k, v in results[-1].items()}, flush=True)
    mean = {k: float(np.mean([r[k] for r in results])) for k in results[0]}
    spread = {k: float(np.std([r[k] for r in results])) for k in results[0]}
    high = {t: {k: float(np.mean([table(truth, p, t)[k] for p in scores])) for k in ("recall", "specificity")}
            for t in (0.6, 0.7, 0.75, 0.8, 0.85, 0.9)}
    return {"mean": mean, "spread": spread, "at_threshold": high}


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("table", "views", "weights", "out"):
        args.add_argument("--" + name, required=True, type=Path)
    args.add_argument("--quiet-views", type=Path)
    args = args.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    write_encoder(Encoder(args.weights), args.out / "encoder.fp32.onnx", 224)
    encode, labelled = encoder_of(args.out / "encoder.fp32.onnx"), clips(args.table)
    found = features(encode, args.views, args.out / "features.npz", args.table)
    report = {"clips": len(labelled), "sources": len({s for _, _, s in labelled}),
              "cross_validation": cross_validate(found, labelled)}

    mean, std = standardise(found, list(found))
    heads = [fit(found, labelled, mean, std, 1000 + k) for k in range(SEEDS)]
    report["quiet"] = {}
    for file in sorted(args.quiet_views.glob("*.npy")) if args.quiet_views else []:
        p = score(heads, mean, std, encode(np.load(file, mmap_mode="r")), stride=1)
        report["quiet"][file.stem] = {"windows": len(p), "highest": float(p.max()),
                                      "quantiles": np.quantile(p, [0.5, 0.9, 0.99]).tolist(),
                                      "above": {t: float((p >= t).mean()) for t in (0.5, 0.6, 0.7, 0.8, 0.9)}}
    write_head(heads, mean, std, CLASSES, args.out / "head.fp32.onnx")
    torch.save({"heads": [h.state_dict() for h in heads], "mean": mean, "std": std}, args.out / "head.pt")
    (args.out / "report.json").write_text(json.dumps(report, indent=1))
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
