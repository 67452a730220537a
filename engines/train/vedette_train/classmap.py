"""Class maps: which label of a data set is which class of a model, and which are left out."""
import tomllib
from dataclasses import dataclass
from pathlib import Path

from .errors import KitError
from .recipe import NORMAL

SHIPPED = Path(__file__).resolve().parent.parent / "classmaps"


@dataclass(frozen=True)
class ClassMap:
    name: str
    classes: tuple[str, ...]
    labels: dict[str, str]                               # the data set's word -> class
    dropped: frozenset[str]

    def of(self, label: str) -> str | None:
        """The class of a label; None if it is left out; KeyError if the map does not know it."""
        return None if label in self.dropped else self.labels[label]


def identity(classes: tuple[str, ...]) -> ClassMap:
    return ClassMap("identity", classes, {c: c for c in classes}, frozenset())


def read(name_or_path: str) -> ClassMap:
    """A map that comes with the kit, by name, or a TOML file."""
    path = SHIPPED / f"{name_or_path}.toml"
    if not path.is_file():
        path = Path(name_or_path)
    if not path.is_file():
        shipped = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.toml")))
        raise KitError(f"no class map {name_or_path}: neither a file nor one of the kit's ({shipped})")
    try:
        table = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as e:
        raise KitError(f"{path}: not TOML: {e}") from None
    if set(table) - {"name", "classes", "labels", "dropped"} or not {"classes", "labels"} <= set(table):
        raise KitError(f"{path}: a class map has the keys name, classes, labels and dropped, and no others")
    found = ClassMap(table.get("name", path.stem), tuple(table["classes"]), table["labels"], frozenset(table.get("dropped", [])))
    if strange := sorted(set(found.labels.values()) - set(found.classes)):
        raise KitError(f"{path}: [labels] leads to {strange[0]!r}, which is not in classes")
    if NORMAL not in found.classes:
        raise KitError(f"{path}: classes have no {NORMAL!r}; a classifier that never says Normal always raises an alarm")
    if both := sorted(found.dropped & set(found.labels)):
        raise KitError(f"{path}: {both[0]!r} is both mapped and dropped")
    return found
