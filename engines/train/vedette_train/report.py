"""The figures of a recipe: every clip judged by a model that has not seen its source, several times with other splits."""
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from . import calibration, crossval, finetune, metrics, quiet
from .clips import Clip
from .crossval import Judged
from .features import FeatureStore
from .files import write_arrays
from .fit import History
from .recipe import Recipe
from .workspace import Workspace

LEVELS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
HEADLINES = ("accuracy", "roc_auc", "specificity", "macro_f1")


def repetitions(ws: Workspace, recipe: Recipe, store: FeatureStore, always: list[Clip], title: str = "folds",
                judged_with: FeatureStore | None = None) -> tuple[list[list[Judged]], list[History]]:
    """One list of judged clips for each fold seed."""
    runs, histories = [], []
    for seed in recipe.evaluation.fold_seeds:
        judged, more = crossval.run(recipe, ws.clips, always, finetune.stores(ws, store), ws.splits(seed), seed, ws.work,
                                    f"{title}, seed {seed}", judged_with)
        runs.append(judged)
        histories += more
    return runs, histories


def figures(runs: list[list[Judged]], recipe: Recipe) -> dict[str, Any]:
    """Tables of the repetitions, their mean and their spread."""
    tables = []
    for judged in runs:
        truth, p = crossval.clip_probabilities(judged, recipe)
        table = metrics.table(recipe.classes, truth, p, [j.clip.source for j in judged])
        tables.append(table | {"macro_f1": table["macro"]["f1"]})
    return {"repetitions": tables, "mean": _over(tables, np.mean), "spread": _over(tables, np.std)}


def at_thresholds(runs: list[list[Judged]], recipe: Recipe, temperature: float) -> dict[str, dict[str, float | None]]:
    """What thresholds would have given, mean over repetitions, with the temperature that thresholds are applied after."""
    levels = []
    for judged in runs:
        truth, p = crossval.clip_probabilities(judged, recipe, temperature)
        alarm, is_alarm = 1 - p[:, recipe.normal], truth != recipe.normal
        levels.append({f"{l:g}": {"sensitivity": _share(alarm[is_alarm] >= l), "specificity": _share(alarm[~is_alarm] < l)} for l in LEVELS})
    return {l: {k: _mean([r[l][k] for r in levels]) for k in ("sensitivity", "specificity")} for l in levels[0]}


def by_group(runs: list[list[Judged]], recipe: Recipe, groups: dict[str, str]) -> dict[str, dict[str, float | None]]:
    """The figures within each group of clips, mean over repetitions."""
    found: dict[str, dict[str, float | None]] = {}
    for group in sorted(set(groups.values())):
        tables = []
        for judged in runs:
            inside = [j for j in judged if groups[j.clip.name] == group]
            if not inside:                               # a group of clips that this split does not judge
                continue
            truth, p = crossval.clip_probabilities(inside, recipe)
            alarm, said = truth != recipe.normal, p.argmax(1) != recipe.normal
            tables.append({"roc_auc": metrics.roc_auc(1 - p[:, recipe.normal], alarm), "sensitivity": _share(said[alarm]),
                           "specificity": _share(~said[~alarm])})
        if tables:
            own = [j.clip for j in runs[0] if groups[j.clip.name] == group]
            found[group] = {"clips": float(len(own)), "sources": float(len({c.source for c in own}))} | {
                k: _mean([t[k] for t in tables]) for k in tables[0]}
    return found


def prepare(ws: Workspace, store: FeatureStore) -> None:
    """Features of all clips, changed variants only of those that something is trained on."""
    trained_on = {i for seed in ws.recipe.evaluation.fold_seeds for train, _ in ws.splits(seed) for i in train}
    store.prepare([ws.clips[i] for i in sorted(trained_on)], augment=True)
    store.prepare(ws.clips, augment=False)


def evaluate(ws: Workspace, run: Path) -> tuple[dict[str, Any], list[History]]:
    """The whole report, written to the run's directory by the caller."""
    began = time.monotonic()
    store, recipe, groups = ws.frozen_store, ws.recipe, ws.groups
    prepare(ws, store)
    runs, histories = repetitions(ws, recipe, store, ws.hard_negatives(store))
    save_out_of_fold(run, runs, recipe)
    report: dict[str, Any] = {"recipe": asdict(recipe), "encoder": store.encoder.digest, "protocol": ws.protocol, "split": ws.split}
    report |= figures(runs, recipe)
    report["calibration"] = calibration.report(runs, recipe)
    report["at_threshold"] = at_thresholds(runs, recipe, report["calibration"]["temperature"])
    report["groups"] = by_group(runs, recipe, groups)
    report["detection"] = quiet.detection(runs[0], recipe, report["calibration"]["temperature"])
    report["seconds"] = time.monotonic() - began
    return report, histories


def save_out_of_fold(run: Path, runs: list[list[Judged]], recipe: Recipe) -> None:
    """Each clip's own logits, repetition by repetition, for whoever wants to look closer."""
    every = [(n, j) for n, judged in enumerate(runs) for j in judged]
    write_arrays(run / "out-of-fold.npz", {
        "repetition": np.array([n for n, _ in every]), "fold": np.array([j.fold for _, j in every]),
        "name": np.array([j.clip.name for _, j in every]), "label": np.array([j.clip.label for _, j in every]),
        "source": np.array([j.clip.source for _, j in every]), "logits": np.stack([j.best(recipe.normal) for _, j in every])})


def _share(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _mean(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _over(tables: list[dict[str, Any]], how: Any) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for key in HEADLINES:
        known = [t[key] for t in tables if t[key] is not None]
        found[key] = float(how(known)) if known else None
    return found


def text(report: dict[str, Any]) -> str:
    lines = [report["protocol"], "", metrics.text(report["repetitions"][0]), "", f"over {len(report['repetitions'])} repetitions:"]
    for key in HEADLINES:
        if report["mean"][key] is not None:
            lines.append(f"  {key:<12} {report['mean'][key]:.3f} ± {report['spread'][key]:.3f}")
    c = report["calibration"]
    after = "not known after it: one split" if c["ece_after"] is None else f"{c['ece_after']:.3f} after"
    lines.append(f"temperature {c['temperature']:.3f}; calibration error {c['ece_before']:.3f} before, {after}")
    if d := report["detection"]:
        lines.append(f"events seen {d['seen']} of {d['events']}; delay {d['delay_s']}")
    return "\n".join(lines)
