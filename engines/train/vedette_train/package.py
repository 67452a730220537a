"""The model directory, as engines/README.md and `infer/manifest.rs` describe it: networks, golden vectors, card, manifest."""
import csv
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from . import card, checks, golden_clip, graph_head, operators
from .agent import Agent
from .encoders import HALF, SINGLE
from .errors import KitError
from .files import sha256_of, toml_text, write_json, write_text
from .model import Trained
from .recipe import NORMAL

HEADER = "# Format: engines/README.md and src/agent/infer/manifest.rs. Written by engines/train (`vedette_train export`).\n"


def export(trained: Trained, encoder_dir: Path, agent: Agent, run: Path, out: Path, int8: Path | None = None) -> dict[str, Any]:
    """Builds the directory beside `out`, checks it, lets the agent prove it, and only then puts it in place."""
    recipe = trained.recipe
    if out.exists() and any(out.iterdir()) and not (out / "manifest.toml").is_file():
        raise KitError(f"{out}: is not empty and no model; name another directory with --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as name:
        model = Path(name) / "model"
        model.mkdir()
        shutil.copyfile(encoder_dir / SINGLE, model / SINGLE)
        graph_head.write(trained, model / "head.fp32.onnx", half=False)
        has_half = (encoder_dir / HALF).is_file()
        if has_half:
            shutil.copyfile(encoder_dir / HALF, model / HALF)
            graph_head.write(trained, model / "head.fp16.onnx", half=True)
        if int8 is not None:
            shutil.copyfile(int8, model / "encoder.int8.onnx")
        for graph in model.glob("*.onnx"):
            operators.check(graph)
        reference = golden(trained, encoder_dir, agent, model)
        single = checks.single(model, reference, recipe.window)
        measured: dict[str, dict[str, float]] = {}
        if has_half:
            measured["fp16"] = checks.half(model, reference, recipe.window, trained, encoder_dir)
        if int8 is not None:
            measured["int8"] = checks.int8(model, reference, recipe.window)
        tolerances = checks.tolerances(measured)
        found = {"reference": reference.by, "fp32": single} | measured | {"tolerances": tolerances}
        write_json(run / "export.json", found)
        card.write(model / "CARD.md", trained, run)
        write_text(model / "manifest.toml", HEADER + toml_text(manifest(trained, model, tolerances)))
        for precision in tolerances:                     # it proves the model before it looks
            agent.run("replay", model / "golden" / "clip.mp4", "--model", model, "--precision", precision)
        if out.exists():
            out.rename(Path(name) / "before")            # goes with the temporary directory, once the new one is in place
        model.rename(out)
    return found


def golden(trained: Trained, encoder_dir: Path, agent: Agent, model: Path) -> checks.Reference:
    """Writes golden/."""
    directory = model / "golden"
    directory.mkdir()
    golden_clip.render(directory / "clip.mp4")
    with tempfile.TemporaryDirectory() as scratch:
        pictures, arrays = Path(scratch) / "png", Path(scratch) / "npy"
        agent.run("frames", directory / "clip.mp4", "--out", pictures, "--format", "png", "--recipe", agent.recipe_file)
        agent.frames(directory / "clip.mp4", arrays, view=True)
        views = np.load(arrays / "view.npy")
        with open(arrays / "frames.csv", newline="") as f:
            times = [round(float(row["pts_ms"])) for row in csv.DictReader(f)]
        for n, picture in enumerate(sorted(pictures.glob("frame-*.png"))):
            shutil.copyfile(picture, directory / f"frame-{n:02}.png")
    reference = checks.reference(trained, encoder_dir, views)
    reference.features.astype("<f4").tofile(directory / "features.f32")
    reference.probabilities.astype("<f4").tofile(directory / "probabilities.f32")
    listing = {"clip": "golden/clip.mp4", "features": "golden/features.f32", "probabilities": "golden/probabilities.f32",
               "windows": reference.windows,
               "frame": [{"file": f"golden/frame-{n:02}.png", "at_ms": at, "view_sha256": sha256_of(view.tobytes())}
                         for n, (at, view) in enumerate(zip(times, views))]}
    write_text(directory / "golden.toml", toml_text(listing))
    return reference


def manifest(trained: Trained, model: Path, tolerances: dict[str, dict[str, float]]) -> dict[str, Any]:
    recipe = trained.recipe
    outputs = {o.name: [d.dim_value for d in o.type.tensor_type.shape.dim] for o in onnx.load(model / SINGLE).graph.output}
    files = sorted(p for p in model.rglob("*") if p.is_file() and p.name != "manifest.toml")
    pixels = recipe.pixel_part()
    return {
        "name": recipe.name, "version": recipe.version, "kind": "cnn-lstm", "minimum_agent": recipe.statement.minimum_agent,
        "classes": list(recipe.classes), "sample_fps": recipe.sample_fps, "window": recipe.window, "stride": recipe.stride,
        "licence": recipe.statement.licence, "data": recipe.statement.data, "pixels": pixels["pixels"], "view": pixels["view"],
        "features": {"size": outputs["features"][1], "map": outputs["map"][2:]},
        "thresholds": {c: recipe.threshold(c) for c in recipe.classes if c != NORMAL}, "tolerances": tolerances,
        "file": [{"path": p.relative_to(model).as_posix(), "sha256": sha256_of(p.read_bytes()), "size_bytes": p.stat().st_size} for p in files],
    }


def agrees(mine: dict[str, Any], agents: dict[str, Any], within: float = 1e-6) -> list[str]:
    """Where the kit's table and `vedette evaluate --json` differ; intervals, which are drawn at random, are left out."""
    found = []

    def compare(at: str, a: Any, b: Any) -> None:
        if isinstance(a, dict) and isinstance(b, dict):
            for key in sorted(set(a) | set(b)):
                compare(f"{at}.{key}", a.get(key), b.get(key))
        elif a is None or b is None or isinstance(a, str):
            if a != b:
                found.append(f"{at[1:]}: {json.dumps(a)} here, {json.dumps(b)} there")
        elif abs(a - b) > within:
            found.append(f"{at[1:]}: {a} here, {b} there")

    keys = ("clips", "accuracy", "roc_auc", "specificity", "per_class", "macro", "weighted", "confusion")
    compare("", {k: mine[k] for k in keys}, {k: agents.get(k) for k in keys})
    return found
