"""Labelled clips, wherever they come from, and the reader of `clips.csv`."""
import csv
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .classmap import ClassMap
from .errors import KitError, all_of


@dataclass(frozen=True)
class Clip:
    """A video, or a span of one, and what is seen in it. `source` is what splits keep together."""
    path: Path
    name: str                                            # as its list calls it; unique in a data set
    label: str                                           # a class of the model
    source: str
    split: str | None = None                             # "train" or "test", where the data set says so
    span_ms: tuple[float, float] | None = None           # only this part of the video; none: all of it
    events_ms: tuple[tuple[float, float], ...] = ()      # where in the video the label is to be seen, if that is known


def read_csv(path: Path, classes: ClassMap) -> list[Clip]:
    """`clip,label[,source_video]`, as `vedette evaluate` reads it; paths are relative to the file."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as f:
            reader = csv.reader(f)
            header = [h.strip() for h in next(reader, [])]
            rows = [(reader.line_num, [c.strip() for c in row]) for row in reader if row]
    except OSError as e:
        raise KitError(f"{path}: cannot be read: {e.strerror}; name a clips.csv or a folder of UCF-Crime with --data") from None
    if not {"clip", "label"} <= set(header):
        raise KitError(f"{path}, line 1: the header must name the columns clip,label[,source_video]; it is {','.join(header)!r}")
    clips, problems, seen = [], [], Counter[str]()
    for line, row in rows:
        if len(row) != len(header):
            problems.append(f"{path}, line {line}: {len(row)} fields, the header has {len(header)}")
            continue
        fields = dict(zip(header, row))
        name, video = fields["clip"], path.parent / fields["clip"]
        seen[name] += 1
        if not video.is_file():
            problems.append(f"{path}, line {line}: no file {video}")
        if seen[name] == 2:
            problems.append(f"{path}, line {line}: {name} is listed twice; keep one of the lines")
        try:
            label = classes.of(fields["label"])
        except KeyError:
            problems.append(f"{path}, line {line}: class map {classes.name} does not know the label {fields['label']!r}; "
                            f"it knows {', '.join(sorted(classes.labels))}. Add it under [labels] or to dropped")
            continue
        if label is not None:
            clips.append(Clip(video, name, label, fields.get("source_video") or name))
    if problems:
        raise KitError(all_of(problems))
    if not clips:
        raise KitError(f"{path}: lists no clip of the classes {', '.join(classes.classes)}")
    return clips


def read_groups(path: Path, clips: Iterable[Clip]) -> dict[str, str]:
    """`clip,group`: what else is known of each clip (resolution, viewpoint, light), to judge each group by itself."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as f:
            rows = list(csv.DictReader(f))
    except OSError as e:
        raise KitError(f"{path}: cannot be read: {e.strerror}") from None
    if rows and not {"clip", "group"} <= set(rows[0]):
        raise KitError(f"{path}, line 1: the header must be clip,group")
    found = {(r["clip"] or "").strip(): (r["group"] or "").strip() for r in rows}
    if missing := [c.name for c in clips if c.name not in found]:
        raise KitError(f"{path}: says no group of {missing[0]}" + (f" and {len(missing) - 1} more clips" if len(missing) > 1 else ""))
    return found


def write_csv(path: Path, clips: Iterable[Clip]) -> None:
    """What `vedette evaluate --data` takes. Paths are written relative to the file where they lie below it."""
    with open(path, "w", newline="") as f:
        out = csv.writer(f, lineterminator="\n")
        out.writerow(["clip", "label", "source_video"])
        for c in clips:
            video, base = c.path.resolve(), path.parent.resolve()
            out.writerow([video.relative_to(base) if video.is_relative_to(base) else video, c.label, c.source])


def counts(clips: Iterable[Clip]) -> str:
    """Clips and sources by class, for people."""
    clips = list(clips)
    lines = [f"{len(clips)} clips of {len({c.source for c in clips})} sources"]
    for label in sorted({c.label for c in clips}):
        of = [c for c in clips if c.label == label]
        lines.append(f"  {label:<16} {len(of):>6} clips {len({c.source for c in of}):>6} sources")
    return "\n".join(lines)
