"""What an export has to pass: the graphs compute what was trained, in both precisions, and a window of cached features
is the window of its frames."""
import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from .encoders import module
from .errors import KitError
from .model import Trained

EXACT = 1e-4                                             # ONNX Runtime against PyTorch, single precision
COSINE = 0.999  # smallest cosine of features with the golden ones, of an engine of another maker
MARGIN = 4.0                                             # of the stated half-precision tolerance over what was measured


@dataclass(frozen=True)
class Reference:
    """What the golden views have to give, from PyTorch where the encoder is PyTorch's, otherwise from its FP32 graph."""
    views: np.ndarray
    features: np.ndarray
    windows: list[int]
    probabilities: np.ndarray
    by: str


def session(path: Path) -> Callable[..., np.ndarray]:
    s = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda x, output=None: s.run([output or s.get_outputs()[0].name], {s.get_inputs()[0].name: np.ascontiguousarray(x)})[0]


def cut(features: np.ndarray, starts: list[int], window: int) -> np.ndarray:
    return np.stack([features[s:s + window] for s in starts])


def reference(trained: Trained, encoder_dir: Path, views: np.ndarray) -> Reference:
    window = trained.recipe.window
    if len(views) < window:
        raise KitError(f"the golden clip gives {len(views)} frames and a window takes {window}; it was rendered for up to 20")
    starts = sorted({0, len(views) - window})
    if trained.recipe.encoder.kind == "model":
        features, by = session(encoder_dir / "encoder.fp32.onnx")(views, "features"), "ONNX Runtime (another model's encoder)"
    else:
        import torch
        with torch.inference_mode():
            features = module(trained.recipe, encoder_dir)(torch.from_numpy(np.array(views)))[0].numpy()
        by = f"PyTorch {torch.__version__}"
    return Reference(views, features, starts, trained.probabilities(cut(features, starts, window)), by)


def single(model: Path, r: Reference, window: int) -> dict[str, float]:
    """The FP32 graphs against the reference; frame by frame with cached features against whole windows."""
    encode, classify = session(model / "encoder.fp32.onnx"), session(model / "head.fp32.onnx")
    features, cells = encode(r.views, "features"), encode(r.views, "map")
    streamed = np.concatenate([encode(v[None], "features") for v in r.views])
    fused = np.concatenate([classify(encode(r.views[s:s + window], "features")[None]) for s in r.windows])
    found = {"features": _apart(features, r.features), "mean_of_map": _apart(cells.mean((2, 3)), features),
             "probabilities": _apart(classify(cut(features, r.windows, window)), r.probabilities),
             "streaming": _apart(classify(cut(streamed, r.windows, window)), fused),
             "sum_of_probabilities": _apart(fused.sum(1), np.ones(len(fused)))}
    for what, off in found.items():
        if not off <= EXACT:
            raise KitError(f"{model}: {what} of the FP32 graphs are off by {off:.1e} from {r.by}, {EXACT:g} is allowed; nothing was exported")
    return found


def half(model: Path, r: Reference, window: int, trained: Trained, encoder_dir: Path) -> dict[str, float]:
    """The largest differences of the FP16 graphs on ONNX Runtime, and of every layer rounded to half as a GPU leaves it
    (ONNX Runtime's CPU keeps some of it in single precision)."""
    encode, classify = session(model / "encoder.fp16.onnx"), session(model / "head.fp16.onnx")
    found = [encode(r.views, "features")]
    if trained.recipe.encoder.kind != "model":
        found.append(_rounded(trained, encoder_dir, r.views))
    result = {"features": 0.0, "probabilities": 0.0}
    for features in found:
        if not np.isfinite(features).all():
            raise KitError(f"{model}: the FP16 encoder overflows on the golden frames; nothing was exported")
        probabilities = classify(cut(features, r.windows, window))
        result["features"] = max(result["features"], _apart(features, r.features))
        result["probabilities"] = max(result["probabilities"], _apart(probabilities, r.probabilities))
    return result


def int8(model: Path, r: Reference, window: int) -> dict[str, float]:
    """The largest differences of the int8 encoder, with the FP32 head, on ONNX Runtime."""
    features = session(model / "encoder.int8.onnx")(r.views, "features")
    probabilities = session(model / "head.fp32.onnx")(cut(features, r.windows, window))
    return {"features": _apart(features, r.features), "probabilities": _apart(probabilities, r.probabilities)}


def _rounded(trained: Trained, encoder_dir: Path, views: np.ndarray) -> np.ndarray:
    import torch

    from .backbone import Conv
    encoder = copy.deepcopy(module(trained.recipe, encoder_dir))
    for conv in (m for m in encoder.modules() if isinstance(m, Conv)):
        conv.conv.weight.data = conv.conv.weight.data.half().float()
        conv.register_forward_hook(lambda _, __, y: y.half().float())
    with torch.inference_mode():
        return encoder(torch.from_numpy(np.array(views)))[0].numpy()


def tolerances(measured: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """For the manifest. FP32: what engines of other makers need, ten times what is allowed here. The others: measured,
    with margin."""
    stated: dict[str, dict[str, float]] = {"fp32": {"features": 10 * EXACT, "probabilities": 10 * EXACT}}
    for precision, off in measured.items():
        stated[precision] = {"features": _up(max(MARGIN * off["features"], 1e-2)),
                             "probabilities": _up(max(MARGIN * off["probabilities"], 5e-3))}
    # What TensorRT builds rounds elsewhere: there it is the direction of the features that counts.
    for precision in stated.keys() & {"fp32", "fp16"}:
        stated[precision] = {"features": stated[precision]["features"], "features_cosine": COSINE,
                             "probabilities": stated[precision]["probabilities"]}
    return stated


def _up(value: float) -> float:
    """To one significant digit, upwards."""
    unit = 10.0 ** np.floor(np.log10(value))
    return float(f"{np.ceil(value / unit - 1e-9) * unit:.1g}")


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise KitError("a graph gives numbers that are not finite on the golden frames; nothing was exported")
    return float(np.abs(np.asarray(a, np.float64) - b).max())
