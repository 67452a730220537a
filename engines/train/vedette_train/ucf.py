"""UCF-Crime as it is distributed (Sultani, Chen, Shah: Real-World Anomaly Detection in Surveillance Videos, CVPR 2018).

Videos lie in folders named after their class, themselves possibly inside `Anomaly-Videos-Part-N`; normal videos in
folders whose name holds "Normal" (`Normal_Videos_event`, `Training-Normal-Videos-Part-N`, `Testing_Normal_Videos_Anomaly`).
Beside them stand the split files: `Anomaly_Train.txt` and `Anomaly_Test.txt`, four pairs `train_00N.txt` and
`test_00N.txt` in `Action_Regnition_splits` (spelt so), and `Temporal_Anomaly_Annotation_for_Testing_Videos.txt`.
Which of them are there is found out; none has to be, unless a split is asked for.
"""
from dataclasses import replace
from pathlib import Path

from .classmap import ClassMap
from .clips import Clip
from .errors import KitError, all_of

FPS = 30.0                                               # of every video, and of the annotation's frame numbers
FOLDERS = ("Abuse", "Arrest", "Arson", "Assault", "Burglary", "Explosion", "Fighting", "RoadAccidents", "Robbery",
           "Shooting", "Shoplifting", "Stealing", "Vandalism")
VIDEOS = (".mp4", ".avi", ".mkv")
ANNOTATION = "Temporal_Anomaly_Annotation_for_Testing_Videos.txt"
SPLITS = {"anomaly": ("Anomaly_Train.txt", "Anomaly_Test.txt")} | {
    f"action-{n}": (f"train_00{n}.txt", f"test_00{n}.txt") for n in (1, 2, 3, 4)}


def is_ucf(root: Path) -> bool:
    return root.is_dir() and any(_folder_label(d.name) for d in root.rglob("*") if d.is_dir())


def read(root: Path, classes: ClassMap, split: str | None = None) -> list[Clip]:
    """Every video of the mapped classes; with `split` (a key of SPLITS) only those that it names, marked train or test.

    A file that is in several folders (some normal videos are distributed twice) is taken once. The source of a video
    is its file name: UCF-Crime does not say which videos were cut from one recording.
    """
    if split is not None and split not in SPLITS:
        raise KitError(f"UCF-Crime has no split {split!r}; it has {', '.join(SPLITS)}")
    events = _annotation(root)
    clips: dict[str, Clip] = {}
    for video in sorted(p for p in root.rglob("*") if p.suffix.lower() in VIDEOS):
        label = _folder_label(video.parent.name)
        if label is None or video.name in clips:
            continue
        try:
            mapped = classes.of(label)
        except KeyError:
            raise KitError(f"{video.parent}: class map {classes.name} knows no {label!r}; add it under [labels] or to dropped") from None
        if mapped is not None:
            clips[video.name] = Clip(video, str(video.relative_to(root)), mapped, video.stem,
                                     events_ms=events.get(video.name, ()))
    if not clips:
        raise KitError(f"{root}: no video of the classes {', '.join(classes.classes)} in folders such as Abuse/, "
                       "Anomaly-Videos-Part-1/Abuse/ or Normal_Videos_event/; give the folder above those")
    return list(clips.values()) if split is None else _marked(root, clips, split, classes)


def _folder_label(name: str) -> str | None:
    if "normal" in name.lower():
        return "Normal"
    return name if name in FOLDERS else None


def _find(root: Path, name: str) -> Path | None:
    return next(iter(sorted(root.rglob(name))), None)


def _marked(root: Path, clips: dict[str, Clip], split: str, classes: ClassMap) -> list[Clip]:
    marked, problems = [], []
    for side, name in zip(("train", "test"), SPLITS[split]):
        file = _find(root, name)
        if file is None:
            raise KitError(f"{root}: split {split} needs {name}, which is nowhere below; it is in the data set's archive of splits")
        for line, text in enumerate(file.read_text().splitlines(), 1):
            if not text.strip():
                continue
            listed = Path(text.split()[0].replace("\\", "/"))
            label = _folder_label(listed.parent.name)
            if label in classes.dropped:
                continue
            if listed.name not in clips:
                problems.append(f"{file}, line {line}: no video {listed} below {root}; download the part that holds it, or remove the line")
            else:
                marked.append(replace(clips[listed.name], split=side))
    if problems:
        raise KitError(all_of(problems))
    return marked


def _annotation(root: Path) -> dict[str, tuple[tuple[float, float], ...]]:
    """`name class start1 end1 start2 end2`, frame numbers, -1 for none -> spans in milliseconds."""
    file = _find(root, ANNOTATION)
    events: dict[str, tuple[tuple[float, float], ...]] = {}
    for line, text in enumerate(file.read_text().splitlines() if file else [], 1):
        fields = text.split()
        if not fields:
            continue
        try:
            numbers = [float(f) for f in fields[2:6]]
            if len(fields) != 6:
                raise ValueError
        except ValueError:
            raise KitError(f"{file}, line {line}: {text!r} is not `name class start1 end1 start2 end2`") from None
        spans = [(s, e) for s, e in (numbers[:2], numbers[2:]) if s >= 0 and e >= 0]
        if any(e < s for s, e in spans):
            raise KitError(f"{file}, line {line}: an event that ends before it starts")
        events[fields[0]] = tuple((1000 * s / FPS, 1000 * e / FPS) for s, e in spans)
    return events
