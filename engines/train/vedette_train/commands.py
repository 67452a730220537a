"""What each command does, in terms of the modules below it."""
import json
import os
import platform
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import clips as clip_lists
from . import compare as comparing
from . import crossval, encoders, finetune, metrics, model, package, pictures, quiet, quantize, report
from .errors import KitError
from .features import FeatureStore
from .files import write_json
from .fit import fit as fit_heads
from .workspace import Workspace


def clips(ws: Workspace, out: Path | None) -> None:
    print(clip_lists.counts(ws.clips))
    if out is not None:
        clip_lists.write_csv(out, ws.clips)


def features(ws: Workspace) -> None:
    ws.frozen_store.prepare(ws.clips, augment=True)
    ws.hard_negatives(ws.frozen_store)
    ws.frozen_store.prepare([quiet.whole(v) for v in ws.normal_videos], augment=False)


def compare(ws: Workspace, kinds: list[str], heads: int | None) -> None:
    rows = comparing.run(ws, kinds, heads)
    write_json(ws.run / "compare.json", rows)
    print(comparing.text(rows))


def evaluate(ws: Workspace) -> None:
    found, histories = report.evaluate(ws, ws.run)
    write_json(ws.run / "report.json", found)
    if histories and any("accuracy" in h for h in histories):
        pictures.curves(ws.run / "curves.png", histories, ws.recipe.name)
    pictures.reliability(ws.run / "reliability.png", found["calibration"])
    print(report.text(found))


def fit(ws: Workspace) -> None:
    """On all clips that may be trained on, with the temperature that `evaluate` found on held-out ones."""
    began = time.monotonic()
    store = ws.frozen_store
    store.prepare(ws.training_clips, augment=True)
    train = ws.training_clips + ws.hard_negatives(store)
    store = finetune.stores(ws, store)(train)
    fitted = fit_heads(ws.recipe, train, store, ws.recipe.training.seed, ws.work)
    trained, file = fitted.trained, ws.run / "report.json"
    if file.is_file():
        judged = json.loads(file.read_text())
        if judged["recipe"] != json.loads(json.dumps(report.asdict(ws.recipe))):
            raise KitError(f"{file}: was made with another recipe; run `evaluate --run {ws.run}` again, or take another --run")
        trained = trained.calibrated(judged["calibration"]["temperature"])
    trained.save(ws.run)
    labelled = ws.training_clips
    write_json(ws.run / "fit.json", {
        "clips": len(labelled), "sources": len({c.source for c in labelled}), "labels": [c.label for c in labelled],
        "hard_negatives": len(train) - len(labelled), "seeds": [ws.recipe.training.seed + k for k in range(len(trained.heads))],
        "encoder": str(store.encoder.path.parent), "encoder_digest": store.encoder.digest, "seconds": time.monotonic() - began,
        "machine": f"{os.cpu_count()} cores of {platform.machine()}"})
    if any("accuracy" in h for h in fitted.histories):
        pictures.curves(ws.run / "fit-curves.png", fitted.histories, ws.recipe.name)
    print(f"fitted {len(trained.heads)} heads of {ws.recipe.head.kind} on {len(train)} clips, temperature {trained.temperature:.3f}: {ws.run}")
    if not file.is_file():
        print("not calibrated and not judged: run `evaluate` with the same --run, then `fit` again, before anybody relies on it")


def encoder_of(ws: Workspace) -> Path:
    """The directory of the encoder that the run was fitted with."""
    file = ws.run / "fit.json"
    if not file.is_file():
        raise KitError(f"{ws.run}: nothing was fitted here; run `fit --run {ws.run}` first")
    made = json.loads(file.read_text())
    directory = Path(made["encoder"])
    if not (directory / encoders.SINGLE).is_file() or ws.store_of(directory).encoder.digest != made["encoder_digest"]:
        raise KitError(f"{directory}: is no longer the encoder that {ws.run} was fitted with; run `fit` again")
    return directory


def fitted(ws: Workspace) -> model.Trained:
    """What the run fitted, with the recipe's newest words and thresholds. All else has to be as it was fitted."""
    found = model.load(ws.run)
    late = ("thresholds", "statement", "evaluation", "name", "version")
    then, now = ({k: v for k, v in report.asdict(r).items() if k not in late} for r in (found.recipe, ws.recipe))
    if then != now:
        key = next(k for k in now if then.get(k) != now[k])
        raise KitError(f"{ws.run}: was fitted with another recipe ({key} differs); run `fit` again")
    return replace(found, recipe=ws.recipe)


def quiet_videos(ws: Workspace, stride: int | None) -> None:
    if not ws.normal_videos:
        raise KitError("no ordinary videos: name a directory that holds some with --normal")
    trained, store = fitted(ws), ws.store_of(encoder_of(ws))
    store.prepare([quiet.whole(v) for v in ws.normal_videos], augment=False)
    store.prepare(ws.training_clips, augment=True)
    ws.hard_negatives(store)
    found = quiet.report(trained, ws.training_clips, ws.normal_videos, store, finetune.stores(ws, ws.frozen_store), ws.work, stride or ws.recipe.stride)
    write_json(ws.run / "quiet.json", found)
    for name, v in found["videos"].items():
        print(f"{name:<40} {60 * v['hours']:6.1f} min  highest {v['highest']:.3f}  alarms {v['alarms']}{'  (left out)' if v['left_out'] else ''}")
    print(f"{found['alarms_a_camera_hour']:.2f} alarms a camera-hour over {60 * found['hours']:.1f} min; at other thresholds {found['alarms_a_camera_hour_at']}")


def export(ws: Workspace, out: Path, int8: bool) -> None:
    trained = fitted(ws)
    quantized = ws.run / "encoder.int8.onnx" if int8 else None
    if quantized is not None and not quantized.is_file():
        raise KitError(f"{ws.run}: no encoder.int8.onnx; run `quantize --run {ws.run}` first (it keeps one only if it is good enough)")
    found = package.export(trained, encoder_of(ws), ws.agent, ws.run, out, quantized)
    print(f"{out}: proven by the agent; {json.dumps(found)}")


def judge(ws: Workspace, out: Path) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """The run's model on the data by Python, the exported one by `vedette evaluate`, and where the two differ."""
    trained, store = model.load(ws.run), ws.store_of(encoder_of(ws))
    store.prepare(ws.clips, augment=False)
    judged = crossval.judge(trained, ws.clips, store)
    truth, p = crossval.clip_probabilities(judged, trained.recipe)
    mine = metrics.table(trained.recipe.classes, truth, p, [c.source for c in ws.clips])
    listing = ws.run / "judged.csv"
    clip_lists.write_csv(listing, ws.clips)
    agents = ws.agent.evaluate(listing, out)
    return mine, agents, package.agrees(mine, agents)


def quantized(ws: Workspace) -> None:
    found = quantize.run(ws, encoder_of(ws))
    write_json(ws.run / "int8.json", found)
    print(json.dumps(found, indent=1))


