"""Encoders on the disk: one directory for each, by a digest of what it was made from."""
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .errors import KitError
from .files import digest_of, read_arrays, write_arrays, write_atomically
from .recipe import Recipe

if TYPE_CHECKING:
    from .encoder import Encoder

SINGLE, HALF, TUNED = "encoder.fp32.onnx", "encoder.fp16.onnx", "tuned.npz"
FINE_TUNING = {"fine_tune_blocks", "fine_tune_rate", "fine_tune_epochs"}


def frozen(recipe: Recipe, cache: Path) -> Path:
    """The directory of the recipe's encoder with the weights that it came with; written if it is not there yet."""
    if recipe.encoder.model is not None:
        directory = Path(recipe.encoder.model)
        if not (directory / SINGLE).is_file():
            raise KitError(f"{directory}: encoder.model has to be a model directory with {SINGLE}")
        return directory
    about = {k: v for k, v in asdict(recipe.encoder).items() if k not in FINE_TUNING}
    directory = cache / "encoders" / digest_of([about, asdict(recipe.view)])[:24]
    if not (directory / HALF).is_file():
        write_both(module(recipe, directory), directory)
    return directory


def tuned(recipe: Recipe, cache: Path, key: str) -> Path:
    """Where an encoder that was fine-tuned from `key` belongs."""
    return cache / "encoders" / f"tuned-{digest_of([asdict(recipe.encoder), asdict(recipe.view), key])[:24]}"


def module(recipe: Recipe, directory: Path) -> "Encoder":
    """In PyTorch, with its fine-tuned weights if it has any."""
    try:
        import torch

        from .encoder import Encoder
    except ImportError:
        raise KitError(f"encoder kind {recipe.encoder.kind} needs PyTorch: run `make train-setup`; without it, "
                       'kind = "model" takes the encoder of a model directory') from None
    encoder = Encoder(recipe.encoder, recipe.view)
    if (directory / TUNED).is_file():
        encoder.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in read_arrays(directory / TUNED).items()})
    return encoder.eval()


def write_both(encoder: "Encoder", directory: Path, with_weights: bool = False) -> None:
    from .encoder import write

    if with_weights:
        write_arrays(directory / TUNED, {k: v.detach().numpy() for k, v in encoder.state_dict().items()})
    write_atomically(directory / SINGLE, lambda p: write(encoder, p, half=False))
    write_atomically(directory / HALF, lambda p: write(encoder, p, half=True))
