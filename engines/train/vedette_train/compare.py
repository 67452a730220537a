"""Heads side by side: same features, same splits, same seeds."""
import time
from dataclasses import replace
from typing import Any, cast, get_args, get_type_hints

from . import report
from .errors import KitError
from .fit import fit
from .recipe import Head
from .workspace import Workspace

KINDS: tuple[str, ...] = get_args(get_type_hints(Head)["kind"])


def run(ws: Workspace, kinds: list[str], heads: int | None) -> list[dict[str, Any]]:
    """One row for each kind. `heads` averaged, the recipe's number if None."""
    if strange := set(kinds) - set(KINDS):
        raise KitError(f"no head {strange.pop()!r}; there are {', '.join(KINDS)}")
    store = ws.frozen_store
    store.prepare(ws.clips, augment=True)
    always = ws.hard_negatives(store)
    rows = []
    for kind in kinds or KINDS:
        recipe = replace(ws.recipe, head=replace(ws.recipe.head, kind=cast(Any, kind), heads=heads or ws.recipe.head.heads))
        began = time.monotonic()
        runs, _ = report.repetitions(ws, recipe, store, always, title=kind)
        figures = report.figures(runs, recipe)
        seconds = time.monotonic() - began
        size = fit(recipe, ws.clips + always, store, recipe.training.seed, ws.work).trained.parameters()
        rows.append({"head": kind, "heads": recipe.head.heads, "parameters": size, "seconds": seconds, "mean": figures["mean"], "spread": figures["spread"]})
    return rows


def text(rows: list[dict[str, Any]]) -> str:
    def cell(row: dict[str, Any], key: str) -> str:
        return "undefined" if row["mean"][key] is None else f"{row['mean'][key]:.3f} ± {row['spread'][key]:.3f}"

    lines = ["| head | ROC AUC | accuracy | macro F1 | specificity | parameters | fitting (s) |", "|---|---|---|---|---|---|---|"]
    lines += [f"| {r['head']} | {cell(r, 'roc_auc')} | {cell(r, 'accuracy')} | {cell(r, 'macro_f1')} | {cell(r, 'specificity')} | "
              f"{r['parameters']} | {r['seconds']:.0f} |" for r in rows]
    return "\n".join(lines)
