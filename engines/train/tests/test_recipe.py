"""A recipe says everything, and nothing that is not understood."""
from pathlib import Path

import pytest
from conftest import KIT

from vedette_train import recipe as recipes
from vedette_train.errors import KitError

SHIPPED = sorted((KIT / "recipes").glob("*.toml"))


def edited(tmp_path: Path, old: str, new: str) -> Path:
    text = (KIT / "recipes" / "activity-v1.toml").read_text()
    assert old in text
    path = tmp_path / "edited.toml"
    path.write_text(text.replace(old, new, 1))
    return path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_recipes_are_read_and_written_again(path, tmp_path):
    found = recipes.read(path)
    again = tmp_path / "again.toml"
    again.write_text(found.text())
    assert recipes.read(again) == found


@pytest.mark.parametrize("old, new, said", [
    ("gain = [4.0", "gian = [4.0", "unknown key encoder.gian"),
    ("[pixels]", "[pixles]", "unknown key pixles"),
    ("window = 16", "", "window is missing"),
    ("window = 16", "window = 1", "window has to be 2 to 64"),
    ("window = 16", 'window = "16"', "window is '16'; it has to be a whole number"),
    ('kind = "lstm_attention"', 'kind = "transformer"', "head.kind is 'transformer'; it has to be one of 'lstm'"),
    ("grid = [64, 36]", "grid = [64]", "view.motion.grid is [64]; it has to be a list of 2"),
    ('frames = "pair"', 'frames = "single"', "encoder.input has to be"),
    ('classes = ["Fighting", "Normal"]', 'classes = ["Fighting", "Calm"]', "classes has to be two or more"),
    ("Fighting = 0.75", "Robbery = 0.75", "thresholds has to be of classes of this recipe"),
    ("crop = [0.7, 1.0]", "crop = [1.0, 0.7]", "augmentation.crop has to be [lowest, highest]"),
    ("stride = 4", "stride = 4 4", "not TOML"),
])
def test_a_wrong_recipe_is_refused_by_key(tmp_path, old, new, said):
    path = edited(tmp_path, old, new)
    with pytest.raises(KitError) as e:
        recipes.read(path)
    assert said in str(e.value) and str(path) in str(e.value)


def test_pixels_depend_on_nothing_but_the_pixel_part(activity, tmp_path):
    other = recipes.read(edited(tmp_path, "epochs = 15", "epochs = 3"))
    assert other.pixel_toml() == activity.pixel_toml() and other.digest() != activity.digest()
