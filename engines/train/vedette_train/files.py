"""Digests, files that are there whole or not at all, and TOML as `vedette` reads it."""
import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def digest_of(value: Any) -> str:
    """Of anything that JSON can hold; the order of keys does not matter."""
    return sha256_of(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """`write` fills a file beside `path`, which then takes its name: an interrupted run leaves no half file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda p: p.write_text(text))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    def write(p: Path) -> None:
        with open(p, "wb") as f:
            np.savez(f, allow_pickle=False, **arrays)
    write_atomically(path, write)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as found:
        return dict(found)


class VideoDigests:
    """SHA-256 of videos, remembered by path, size and time of change: a data set of 100 GB is read for it only once."""

    def __init__(self, cache: Path):
        self.file = cache / "video-digests.json"
        self.known: dict[str, str] = json.loads(self.file.read_text()) if self.file.is_file() else {}

    def of(self, video: Path) -> str:
        about = video.stat()
        key = f"{video.resolve()}:{about.st_size}:{about.st_mtime_ns}"
        if key not in self.known:
            with open(video, "rb") as f:
                self.known[key] = hashlib.file_digest(f, "sha256").hexdigest()
        return self.known[key]

    def save(self) -> None:
        write_json(self.file, self.known)


def toml_text(table: dict[str, Any], prefix: str = "") -> str:
    """Tables of scalars, lists of scalars and tables; lists of tables become `[[...]]`. `None` is left out."""
    plain, nested = [], []
    for key, value in table.items():
        name = key if key.replace("_", "").replace("-", "").isalnum() else json.dumps(key)
        if isinstance(value, dict):
            # A table that holds only tables needs no line of its own.
            head = "" if value and all(isinstance(v, dict) for v in value.values()) else f"\n[{prefix}{name}]\n"
            nested.append(head + toml_text(value, f"{prefix}{name}."))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            nested += [f"\n[[{prefix}{name}]]\n" + toml_text(v, f"{prefix}{name}.") for v in value]
        elif value is not None:
            plain.append(f"{name} = {_toml_value(value)}\n")
    return "".join(plain + nested)


def _toml_value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
