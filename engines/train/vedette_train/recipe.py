"""The recipe: everything that decides what a model becomes, in one TOML file.

`sample_fps`, `window`, `stride`, `[pixels]` and `[view]` are spelt as in a model's manifest, because `vedette` reads
them from the recipe itself to make the pixels. An unknown key is an error: a misspelt one would silently train
something else.
"""
import dataclasses
import tomllib
import types
import typing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from .errors import KitError
from .files import digest_of, toml_text

NORMAL = "Normal"                                        # the class that is no incident; the agent knows it by this name


@dataclass(frozen=True)
class Pixels:
    frame_width: int = 480
    scale: Literal["bilinear-antialiased"] = "bilinear-antialiased"
    gray: Literal["bt601"] = "bt601"


@dataclass(frozen=True)
class Motion:
    grid: tuple[int, int]
    keep_percent: int
    noise_floor: int
    size_percent: int
    centre_pull_percent: int


@dataclass(frozen=True)
class View:
    width: int
    height: int
    frames: Literal["single", "pair"]
    box: Literal["full", "motion"]
    motion: Motion | None = None

    @property
    def channels(self) -> int:
        return 6 if self.frames == "pair" else 3


@dataclass(frozen=True)
class Encoder:
    kind: Literal["mobilenet_v2", "efficientnet_lite0", "model"]
    cuts: tuple[str, ...] = ()                           # blocks whose outputs are the features: "17", or "14.expand"
    input: Literal["rgb", "difference"] = "rgb"          # of a pair: how much it moved; or this frame alone
    gray: Literal["none", "mean", "max"] = "none"        # of a difference: one for all three colours, or each its own
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)            # of a difference, for each input channel; cut at 255
    noise_floor: float = 0.0                             # of a difference, in gray levels, taken off before the gain
    curve: float = 1.0                                   # exponent of a difference over 0 to 1; 0.5 shows small ones better
    moments: Literal[1, 2] = 1                           # 2: map holds the squares too, so that the head knows the spread
    fine_tune_blocks: int = 0                            # of the last blocks; 0: frozen
    fine_tune_rate: float = 1e-4
    fine_tune_epochs: int = 5
    model: str | None = None                             # kind = "model": directory whose encoder is taken as it is


@dataclass(frozen=True)
class Head:
    kind: Literal["lstm", "bilstm", "gru", "attention", "lstm_attention", "logistic"]
    project: int = 128
    state: int = 64
    dropout: float = 0.5
    heads: int = 5                                       # seeds whose logits are averaged
    feature_clip: float = 4.0                            # standardised features are cut at this many deviations
    l2: float = 1e-2                                     # logistic alone


@dataclass(frozen=True)
class Training:
    epochs: int = 25
    batch: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 5e-2
    label_smoothing: float = 0.1
    mixup: float = 0.4                                   # Beta(a, a); 0: none
    class_weights: Literal["none", "clips", "sources"] = "sources"
    source_balanced: bool = False                        # draw every source equally often, however many clips it has
    feature_noise: float = 0.0                           # deviations of Gaussian noise on standardised features
    windows_per_video: int = 16                          # of a long video; see `features.segments`
    validation_share: float = 0.15                       # of the training sources, held out when `patience` is above 0
    patience: int = 0                                    # epochs without a better held-out loss; 0: no early stopping
    seed: int = 1000


@dataclass(frozen=True)
class Augmentation:
    variants: int = 8                                    # of each clip, cached, beside the plain one
    flip: float = 0.5                                    # chance
    crop: tuple[float, float] = (0.7, 1.0)               # side
    gamma: tuple[float, float] = (0.7, 1.42)
    contrast: tuple[float, float] = (0.7, 1.3)
    brightness: tuple[float, float] = (-25.0, 25.0)      # gray levels
    speed: tuple[float, float] = (0.85, 1.15)
    noise: tuple[float, float] = (0.0, 0.0)              # deviation of sensor noise, gray levels
    blocks: tuple[float, float] = (0.0, 0.0)             # how far 8x8 blocks go towards their mean: low bit rate
    shake: tuple[float, float] = (0.0, 0.0)              # pixels of 480 that the picture jumps from frame to frame


@dataclass(frozen=True)
class HardNegatives:
    videos: tuple[str, ...] = ()                         # names, looked up in the directory given with --normal
    piece_seconds: float = 2.0


@dataclass(frozen=True)
class Evaluation:
    folds: int = 5
    fold_seeds: tuple[int, ...] = (0, 1, 2)
    merge_seconds: float = 10.0                          # alarms closer than this are one


@dataclass(frozen=True)
class Statement:
    """Of the manifest: by what right the model exists."""
    licence: str = "not stated"
    data: str = "not stated"
    minimum_agent: str = "0.1.0"


@dataclass(frozen=True)
class Recipe:
    name: str
    version: str
    classes: tuple[str, ...]
    sample_fps: float
    window: int
    stride: int
    view: View
    encoder: Encoder
    head: Head
    pixels: Pixels = Pixels()
    training: Training = Training()
    augmentation: Augmentation = Augmentation()
    thresholds: dict[str, float] = field(default_factory=dict)
    hard_negatives: HardNegatives = HardNegatives()
    evaluation: Evaluation = Evaluation()
    statement: Statement = Statement()

    @property
    def normal(self) -> int:
        return self.classes.index(NORMAL)

    def pixel_part(self) -> dict[str, Any]:
        """What `vedette` takes from it. Two recipes that agree in this see the same views."""
        keys = ("sample_fps", "window", "stride", "pixels", "view")
        table = {k: v for k, v in asdict(self).items() if k in keys}
        table["view"] = {k: v for k, v in table["view"].items() if v is not None}
        return table

    def pixel_toml(self) -> str:
        return toml_text(self.pixel_part())

    def text(self) -> str:
        """The whole recipe, defaults filled in."""
        return toml_text(asdict(self))

    def digest(self) -> str:
        return digest_of(asdict(self))

    def threshold(self, name: str) -> float:
        return self.thresholds.get(name, 0.5)


def read(path: Path) -> Recipe:
    try:
        table = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise KitError(f"{path}: no such recipe; those that come with the kit are in engines/train/recipes") from None
    except tomllib.TOMLDecodeError as e:
        raise KitError(f"{path}: not TOML: {e}") from None
    recipe = typing.cast(Recipe, _build(Recipe, table, path, ""))
    if recipe.encoder.model is not None:                 # relative to the recipe, as a reader of it expects
        model = str((path.parent / recipe.encoder.model).resolve())
        recipe = dataclasses.replace(recipe, encoder=dataclasses.replace(recipe.encoder, model=model))
    validate(recipe, path)
    return recipe


def validate(r: Recipe, path: Path) -> None:
    """What types alone do not say. The limits of the pixel part are the agent's, which checks them itself."""
    e, t = r.encoder, r.training
    pair = r.view.frames == "pair"
    rules = [
        (len(set(r.classes)) == len(r.classes) >= 2 and NORMAL in r.classes, "classes", 'two or more, one of them "Normal"'),
        (2 <= r.window <= 64, "window", "2 to 64"), (1 <= r.stride <= r.window, "stride", "1 to window"),
        ((r.view.box == "motion") == (r.view.motion is not None), "view.motion", 'there exactly when box = "motion"'),
        (e.input != "difference" or pair, "encoder.input", '"rgb", or [view] frames = "pair"'),
        (e.input != "rgb" or not pair or e.kind == "model", "encoder.input", '"difference", since [view] frames = "pair"'),
        ((e.kind == "model") == (e.model is not None), "encoder.model", 'there exactly when kind = "model"'),
        ((e.kind == "model") == (not e.cuts), "encoder.cuts", 'one or more blocks, unless kind = "model"'),
        (e.fine_tune_blocks == 0 or e.kind != "model", "encoder.fine_tune_blocks", "0 with another model's encoder"),
        (not (e.fine_tune_blocks and t.patience), "training.patience", "0 with fine_tune_blocks: the encoder has seen what would be held out"),
        (0 <= r.head.dropout < 1, "head.dropout", "0 to below 1"), (r.head.heads >= 1, "head.heads", "1 or more"),
        (t.epochs >= 1 and t.batch >= 2, "training", "epochs of 1 or more, batch of 2 or more"),
        (0 < t.validation_share < 0.5, "training.validation_share", "above 0, below 0.5"),
        (set(r.thresholds) <= set(r.classes) - {NORMAL}, "thresholds", "of classes of this recipe other than Normal"),
        (all(0 < v <= 1 for v in r.thresholds.values()), "thresholds", "above 0, at most 1"),
        (r.evaluation.folds >= 2 and len(r.evaluation.fold_seeds) >= 1, "evaluation", "2 or more folds, a fold seed"),
    ]
    for name in ("crop", "gamma", "contrast", "brightness", "speed", "noise", "blocks", "shake"):
        low, high = getattr(r.augmentation, name)
        rules.append((low <= high, f"augmentation.{name}", "[lowest, highest]"))
    rules.append((0 < r.augmentation.crop[0] and r.augmentation.crop[1] <= 1, "augmentation.crop", "above 0, at most 1"))
    for good, key, expected in rules:
        if not good:
            raise KitError(f"{path}: {key} has to be {expected}")


def _build(kind: Any, value: Any, path: Path, where: str) -> Any:
    """`value` as `kind`, which is a dataclass, a scalar, a tuple, a `dict[str, float]`, a `Literal` or optional."""
    def wrong(expected: str) -> KitError:
        return KitError(f"{path}: {where or 'the file'} is {value!r}; it has to be {expected}")

    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return _build(next(a for a in args if a is not type(None)), value, path, where)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise wrong("a table")
        hints = typing.get_type_hints(kind)
        if unknown := sorted(set(value) - set(hints)):
            raise KitError(f"{path}: unknown key {dotted(where, unknown[0])}; known here are {', '.join(hints)}")
        required = {f.name for f in dataclasses.fields(kind)
                    if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING}
        if missing := sorted(required - set(value)):
            raise KitError(f"{path}: {dotted(where, missing[0])} is missing")
        return kind(**{k: _build(hints[k], v, path, dotted(where, k)) for k, v in value.items()})
    if origin is Literal:
        if value not in args or isinstance(value, bool):
            raise wrong("one of " + ", ".join(map(repr, args)))
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise wrong("a list")
        if args[-1] is not Ellipsis and len(value) != len(args):
            raise wrong(f"a list of {len(args)}")
        of = [args[0]] * len(value) if args[-1] is Ellipsis else args
        return tuple(_build(a, v, path, where) for a, v in zip(of, value))
    if origin is dict:
        if not isinstance(value, dict):
            raise wrong("a table")
        return {k: _build(args[1], v, path, dotted(where, k)) for k, v in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise wrong({int: "a whole number", float: "a number", str: "text", bool: "true or false"}[kind])
    return value


def dotted(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
