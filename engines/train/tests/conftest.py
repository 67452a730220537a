import sys
from pathlib import Path

import pytest

KIT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(KIT))

from vedette_train import recipe as recipes                # noqa: E402
from vedette_train.clips import Clip                       # noqa: E402


@pytest.fixture
def activity() -> recipes.Recipe:
    return recipes.read(KIT / "recipes" / "activity-v1.toml")


def clip(name: str, label: str = "Normal", source: str | None = None, **more) -> Clip:
    return Clip(Path("/nowhere") / name, name, label, source or name, **more)
