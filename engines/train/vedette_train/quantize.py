"""The encoder in int8 for CPUs: static, symmetric, one scale for each output channel of a weight, calibrated on views of
training clips (with folds: of some that are then judged; calibration sees no labels). The heads stay those of FP32, as on the
device. Kept only if the AUC stays within 0.005, measured out of fold on both."""
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from . import report
from .encoders import SINGLE
from .errors import KitError
from .features import EncoderSession
from .workspace import Workspace

WITHIN = 0.005
CALIBRATION_CLIPS = 64


def run(ws: Workspace, encoder_dir: Path) -> dict[str, Any]:
    """Quantises, judges both, and leaves `encoder.int8.onnx` in the run's directory if it is good enough."""
    if ws.recipe.encoder.fine_tune_blocks:
        raise KitError("quantize judges one encoder over folds and this recipe tunes one for each; use fine_tune_blocks = 0")
    store = ws.store_of(encoder_dir)
    store.prepare(ws.clips, augment=True)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        made = scratch / SINGLE
        _quantize(encoder_dir / SINGLE, made, calibration_views(ws, scratch))
        target = ws.cache / "encoders" / f"int8-{EncoderSession(made).digest[:24]}"
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(made, target / SINGLE)
    small = ws.store_of(target)
    figures = {}
    negatives = ws.hard_negatives(store)
    for what, of in (("fp32", store), ("int8", small)):
        runs, _ = report.repetitions(ws, ws.recipe, store, negatives, title=what, judged_with=of)
        figures[what] = report.figures(runs, ws.recipe)["mean"]
    before, after = figures["fp32"]["roc_auc"], figures["int8"]["roc_auc"]
    if before is None or after is None:
        raise KitError("no AUC: the clips that are judged are all Normal, or none is")
    lost = before - after
    kept = lost <= WITHIN
    if kept:
        shutil.copyfile(target / SINGLE, ws.run / "encoder.int8.onnx")
    else:
        (ws.run / "encoder.int8.onnx").unlink(missing_ok=True)
    sizes = {"fp32_bytes": (encoder_dir / SINGLE).stat().st_size, "int8_bytes": (target / SINGLE).stat().st_size}
    return {"mean": figures, "auc_lost": lost, "allowed": WITHIN, "kept": kept} | sizes


def calibration_views(ws: Workspace, scratch: Path) -> list[np.ndarray]:
    """Views of a spread of training clips, every class and many sources among them."""
    clips = ws.training_clips
    order = np.random.default_rng(ws.recipe.training.seed).permutation(len(clips))[:CALIBRATION_CLIPS]
    views = []
    for n in order:
        ws.agent.frames(clips[n].path, scratch / f"c{n}", view=True)
        found = np.load(scratch / f"c{n}" / "view.npy", mmap_mode="r")
        views.append(np.array(found[::max(1, len(found) // 8)]))
        shutil.rmtree(scratch / f"c{n}")
    return views


def _quantize(single: Path, out: Path, views: list[np.ndarray]) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(views)

        def get_next(self) -> dict[str, np.ndarray] | None:
            found = next(self.left, None)
            return None if found is None else {"view": found}

    # Pixels, the first convolution (which sees differences of a few levels beside those of hundreds) and the mean over the map
    # stay in single precision. With "Clip" the ReLU6 behind a convolution becomes part of its range; without, ONNX Runtime
    # quantises twice and is no faster than in single precision.
    model = onnx.load(single)
    first = next(n for n in model.graph.node if n.op_type == "Conv")
    first.name = "first"                                  # nodes are left out by name, and ours have none
    named = out.with_name("named.onnx")
    onnx.save(model, named)
    quantize_static(str(named), str(out), Reader(), quant_format=QuantFormat.QDQ, per_channel=True, op_types_to_quantize=["Conv", "Clip"],
                    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, nodes_to_exclude=[first.name],
                    extra_options={"WeightSymmetric": True})
    if out.stat().st_size > single.stat().st_size / 2:
        raise KitError(f"{single}: nothing of it was quantised")
