"""The whole way in a minute: ten classes of generated video in UCF-Crime's layout, one epoch, export, and the agent's own word.

Light (CI): another model's encoder and the logistic head, so NumPy, ONNX and ONNX Runtime alone. Full: PyTorch,
MobileNetV2 and an LSTM with attention. What it learns means nothing; that every part fits the next does.
"""
import json
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

from . import classmap, commands, recipe as recipes, synthetic
from .errors import KitError
from .files import toml_text
from .workspace import Workspace

EACH = 2


def recipe(base: Path, full: bool, classes: tuple[str, ...]) -> dict[str, Any]:
    """The pixel part is the base model's, whose encoder the light run takes; the full run looks at smaller views."""
    manifest = tomllib.loads((base / "manifest.toml").read_text())
    made: dict[str, Any] = {"name": "smoke", "version": "0.0.1", "classes": list(classes)}
    made |= {k: manifest[k] for k in ("sample_fps", "window", "stride", "pixels", "view")}
    if full:
        made["view"] = made["view"] | {"width": 96, "height": 96}
        made["encoder"] = {"kind": "mobilenet_v2", "cuts": ["17"], "input": "difference" if made["view"]["frames"] == "pair" else "rgb", "gain": 4.0}
        made["head"] = {"kind": "lstm_attention", "heads": 2}
    else:
        made["encoder"] = {"kind": "model", "model": str(base.resolve())}
        made["head"] = {"kind": "logistic"}
    made["training"] = {"epochs": 1}
    made["augmentation"] = {"variants": 1}
    made["evaluation"] = {"fold_seeds": [0]}
    return made


def run(vedette: str, base: Path, cache: Path, full: bool, threads: int) -> None:
    began = time.monotonic()
    classes = classmap.read("seed-ten").classes
    with tempfile.TemporaryDirectory(prefix="vedette-smoke-") as name:
        scratch = Path(name)
        synthetic.write(scratch / "UCF_Crimes", classes, EACH)
        (scratch / "smoke.toml").write_text(toml_text(recipe(base, full, classes)))
        ws = Workspace(recipes.read(scratch / "smoke.toml"), scratch / "UCF_Crimes", None, "anomaly", scratch / "cache", scratch / "run",
                       vedette, threads, None)
        commands.evaluate(ws)
        commands.fit(ws)
        commands.export(ws, scratch / "model", int8=False)
        mine, agents, different = commands.judge(ws, scratch / "model")
        problems = check(mine, agents, classes) + different
        if problems:
            raise KitError("the smoke test failed:\n" + "\n".join(problems))
        files = sorted(p.name for p in (scratch / "model").glob("*.onnx"))
        print(f"smoke: {len(classes)} classes, {agents['clips']} clips, {', '.join(files)}; `vedette evaluate` agrees with the kit: "
              + json.dumps({k: agents[k] for k in ("accuracy", "roc_auc", "specificity")}) + f"; {time.monotonic() - began:.0f} s")


def check(mine: dict[str, Any], agents: dict[str, Any], classes: tuple[str, ...]) -> list[str]:
    """What `vedette evaluate` has to say of the generated clips, whatever was learnt."""
    problems = []
    for who, table in (("the kit", mine), ("vedette evaluate", agents)):
        if set(table["per_class"]) != set(classes):
            problems.append(f"{who} judges the classes {sorted(table['per_class'])}, not {sorted(classes)}")
        if wrong := {c: r["support"] for c, r in table["per_class"].items() if r["support"] != EACH}:
            problems.append(f"{who} counts other clips than the {EACH} of each class: {wrong}")
    if agents.get("failed"):
        problems.append(f"vedette evaluate could not read {agents['failed']}")
    return problems
