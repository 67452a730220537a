"""CARD.md from a template and the reports of a run. No figure in it is typed by hand: what was not measured is said to
be so. Words about use and limits come from `card/intended.md` and `card/limits.md` in the run's directory, or from the
recipe's own `NAME.card`, if they are there."""
import json
from collections import Counter
from pathlib import Path
from string import Template
from typing import Any

from . import compare as comparing
from .errors import KitError
from .model import Trained
from .progress import duration
from .recipe import NORMAL, Recipe

TEMPLATE = Path(__file__).with_name("card.template.md")
SHIPPED = Path(__file__).resolve().parent.parent / "recipes"
NOT_MEASURED = "Not measured."
INTENDED = ("Made with Vedette's training kit. It is meant to draw a person's attention to a span of video, who then judges it. It is "
            "not meant to judge people, to act without a person, or to be used where the law forbids such a system.")
LIMITS = ("Only the places, lenses, heights, light and people of the training videos were measured; no figures by age, sex, skin or dress, "
          "because the clips carry no such labels.")


def write(path: Path, trained: Trained, run: Path) -> None:
    path.write_text(Template(TEMPLATE.read_text()).substitute(fields(trained, run, path.parent)))


def fields(trained: Trained, run: Path, model: Path) -> dict[str, Any]:
    recipe, e = trained.recipe, trained.recipe.encoder
    report, quiet, made = (_json(run / f"{n}.json") for n in ("report", "quiet", "fit"))
    if quiet and (quiet["thresholds"], quiet["temperature"]) != ({c: recipe.threshold(c) for c in recipe.classes if c != NORMAL}, trained.temperature):
        raise KitError(f"{run}/quiet.json: was measured with other thresholds or another temperature; run `quiet` again")
    if report and report["calibration"]["temperature"] != trained.temperature:
        raise KitError(f"{run}/report.json: is of another temperature than the model; run `fit` again")
    view = f"{recipe.view.width} x {recipe.view.height} pixels" + (" of the box where most moves" if recipe.view.box == "motion" else "")
    shows = "the difference of two frames" if e.input == "difference" or recipe.view.frames == "pair" else "one frame in colour"
    kind = f"the encoder of {Path(e.model).name}" if e.model else f"{e.kind} up to {' and '.join(e.cuts)}, ImageNet weights"
    counts = Counter(made.get("labels", {}))
    return {
        "name": recipe.name, "version": recipe.version, "class_list": ", ".join(recipe.classes), "intended": _words(run, recipe, "intended", INTENDED),
        "window": recipe.window, "sample_fps": f"{recipe.sample_fps:g}", "window_seconds": f"{(recipe.window - 1) / recipe.sample_fps:.1f}",
        "view": f"{view}, {shows}", "encoder": kind, "features": len(trained.mean),
        "encoder_state": f"last {e.fine_tune_blocks} blocks fine-tuned" if e.fine_tune_blocks else "frozen",
        "head": recipe.head.kind, "heads": len(trained.heads), "parameters": f"{trained.parameters():,}".replace(",", " "),
        "encoder_mb": _mb(model / "encoder.fp32.onnx"), "head_mb": _mb(model / "head.fp32.onnx"),
        "thresholds": ", ".join(f"{c} {recipe.threshold(c):g}" for c in recipe.classes if c != NORMAL),
        "temperature": f"{trained.temperature:.3f}", "data": recipe.statement.data, "licence": recipe.statement.licence,
        "clips": made.get("clips", "?"), "sources": made.get("sources", "?"),
        "per_class": ", ".join(f"{c}: {counts[c]}" for c in recipe.classes),
        "hard_negatives": f", and {made['hard_negatives']} pieces of ordinary video as Normal" if made.get("hard_negatives") else "",
        "protocol": report.get("protocol", NOT_MEASURED), "figures": _figures(report), "confusion": _confusion(report),
        "calibration": _calibration(report), "groups": _groups(report), "quiet": _quiet(quiet, recipe),
        "heads_compared": _heads(run), "int8": _int8(run, model), "detection": _detection(report),
        "making": _making(made, report, recipe), "limits": _words(run, recipe, "limits", LIMITS),
    }


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}


def _words(run: Path, recipe: Recipe, name: str, otherwise: str) -> str:
    places = (run / "card", SHIPPED / f"{recipe.name}.card")
    return next((f.read_text().strip() for d in places if (f := d / f"{name}.md").is_file()), otherwise)


def _mb(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f}"


def number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _figures(report: dict[str, Any]) -> str:
    if "mean" not in report:
        return NOT_MEASURED
    first = report["repetitions"][0]
    lines = ["Accuracy, specificity, confusion and groups are of the most probable class. The device alarms at the thresholds above: what that gives is "
             "the row of that level in the last of these tables.", "", "| | mean | standard deviation over repetitions | 95 % interval by source, first repetition |", "|---|---|---|---|"]
    for key, name in (("accuracy", "accuracy"), ("roc_auc", "ROC AUC of 1 - P(Normal)"), ("specificity", "specificity (recall of Normal)"),
                      ("macro_f1", "macro F1")):
        interval = first["interval95"].get(key)
        around = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else ""
        spread = number(report["spread"].get(key)) if len(report["repetitions"]) > 1 else "one repetition"
        lines.append(f"| {name} | {number(report['mean'].get(key))} | {spread} | {around} |")
    lines += ["", "| first repetition | precision | recall | F1 | AUC | clips |", "|---|---|---|---|---|---|"]
    for name, r in list(first["per_class"].items()) + [("macro average", first["macro"]), ("weighted average", first["weighted"])]:
        auc = number(r["roc_auc"]) if "roc_auc" in r else ""
        lines.append(f"| {name} | {r['precision']:.3f} | {r['recall']:.3f} | {r['f1']:.3f} | {auc} | {r.get('support', first['clips'])} |")
    if rows := report.get("at_threshold"):
        lines += ["", "| calibrated 1 - P(Normal) at least | recall of what is not Normal | specificity |", "|---|---|---|"]
        lines += [f"| {level} | {number(r['sensitivity'])} | {number(r['specificity'])} |" for level, r in rows.items()]
    return "\n".join(lines)


def _confusion(report: dict[str, Any]) -> str:
    if "repetitions" not in report:
        return NOT_MEASURED
    table = report["repetitions"][0]["confusion"]
    lines = ["| | " + " | ".join(table) + " |", "|---" * (len(table) + 1) + "|"]
    return "\n".join(lines + [f"| {t} | " + " | ".join(str(n) for n in row.values()) + " |" for t, row in table.items()])


def _calibration(report: dict[str, Any]) -> str:
    c = report.get("calibration")
    if not c:
        return "Not measured: the score is not a probability."
    after = "not measured after it, since there was one split only" if c["ece_after"] is None else (
        f"{c['ece_after']:.3f} after, each fold scaled by a temperature fitted on the others")
    return (f"Temperature {c['temperature']:.3f}, fitted on logits of clips whose sources were held out. Expected calibration error (ten bins) "
            f"{c['ece_before']:.3f} before, {after}.")


def _groups(report: dict[str, Any]) -> str:
    groups = report.get("groups")
    if not groups:
        return "By group: not measured, nothing else is known of the clips."
    lines = ["| group | clips | sources | AUC | recall of what is not Normal | specificity |", "|---|---|---|---|---|---|"]
    lines += [f"| {name} | {g['clips']:.0f} | {g['sources']:.0f} | {number(g['roc_auc'])} | {number(g['sensitivity'])} | {number(g['specificity'])} |"
              for name, g in groups.items()]
    return "\n".join(lines)


def _quiet(quiet: dict[str, Any], recipe: Recipe) -> str:
    if not quiet:
        return NOT_MEASURED
    lines = [f"Ordinary video, a window every {quiet['stride']} frames; alarms nearer than {recipe.evaluation.merge_seconds:g} s are one. A video that is "
             "also trained on is scored by a model that was fitted without it.", "",
             "| video | trained on | minutes | windows | median | highest | alarms at the thresholds |", "|---|---|---|---|---|---|---|"]
    for name, v in quiet["videos"].items():
        lines.append(f"| {name} | {'left out' if v['left_out'] else 'never'} | {60 * v['hours']:.1f} | {v['windows']} | {v['quantiles']['0.5']:.2f} | "
                     f"{v['highest']:.2f} | {v['alarms']} |")
    lines += ["", f"{60 * quiet['hours']:.1f} minutes in all: {quiet['alarms_a_camera_hour']:.1f} alarms a camera-hour. So little video says little about a day."]
    return "\n".join(lines)


def _detection(report: dict[str, Any]) -> str:
    d = report.get("detection")
    if not d:
        return "Detection delay: not measured, the clips say no times of events."
    after = f"; {d['delay_s']['median']:.1f} s after their beginning (median), 90 % within {d['delay_s']['90%']:.1f} s" if d["delay_s"] else ""
    return f"Detection: {d['seen']} of {d['events']} events reached the threshold{after}."


def _heads(run: Path) -> str:
    rows = json.loads(file.read_text()) if (file := run / "compare.json").is_file() else []
    if not rows:
        return "Other heads: not compared."
    averaged = f"the logits of {rows[0]['heads']} seeds averaged" if rows[0]["heads"] > 1 else "one seed each, not several averaged as above"
    return f"On the same features and folds, {averaged}:\n\n{comparing.text(rows)}"


def _int8(run: Path, model: Path) -> str:
    if not (model / "encoder.int8.onnx").is_file():
        return "int8: this model has no such encoder."
    found = _json(run / "int8.json")["mean"]
    figures = "; ".join(f"{name}: AUC {number(f['roc_auc'])}, accuracy {number(f['accuracy'])}, specificity {number(f['specificity'])}" for name, f in found.items())
    return f"The int8 encoder ({_mb(model / 'encoder.int8.onnx')} MB, for CPUs) under the same protocol, with the heads as they are: {figures}."


def _making(made: dict[str, Any], report: dict[str, Any], recipe: Recipe) -> str:
    if not made:
        return NOT_MEASURED
    t = recipe.training
    lines = [f"{t.epochs} epochs at most, batch {t.batch}, AdamW {t.learning_rate:g} with decay {t.weight_decay:g}, one-cycle, label smoothing {t.label_smoothing:g}, "
             f"mixup {t.mixup:g}, class weights by {t.class_weights}; {recipe.augmentation.variants} changed variants of each clip. "
             f"Seeds {t.seed} to {t.seed + len(made['seeds']) - 1}; fold seeds {', '.join(map(str, recipe.evaluation.fold_seeds))}.",
             f"Fitting took {duration(made['seconds'])} on {made['machine']} with features cached" +
             (f", judging {duration(report['seconds'])}." if "seconds" in report else ".") + " Energy was not metered."]
    return "\n\n".join(lines)
