"""`manifest.json`: what a folder must hold, byte for byte, to be trusted. Written last, and at once.

    seal(folder, {"step": 12})       # once everything else is in it
    about = check(folder)            # raises Damaged, with the file and what is wrong with it

Files that are not in the manifest are nobody's business here: they are neither checked nor to be loaded.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

from honest_persona.base import json_text

MANIFEST = "manifest.json"
_FORMAT = 1


class Damaged(ValueError):
    """A folder is not what its manifest says, or has none."""


def seal(folder: Path, about: dict[str, Any]) -> None:
    """Write the manifest of all files in `folder`, after they have reached the disk.

    Args:
        about: what else a reader must know; JSON types.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = {name: _entry(folder / name) for name in names if name != MANIFEST}
    for name in files:
        to_disk(folder / name)
    _write(folder, {"format": _FORMAT, "files": files, "about": about})


def reseal(folder: Path, name: str) -> None:
    """Take up a file that was changed on purpose. Nothing happens where there is no manifest, or it lacks the file."""
    if (folder / MANIFEST).is_file():
        content = _read(folder)
        if name in content["files"]:
            content["files"][name] = _entry(folder / name)
            _write(folder, content)


def check(folder: Path) -> dict[str, Any]:
    """What `seal` was told. Every file of the manifest is read.

    Raises:
        Damaged: no manifest, or one that was not written by this version, or a file that differs from it.
    """
    content = _read(folder)
    for name, entry in content["files"].items():
        path = folder / name
        if not path.is_file():
            raise Damaged(f"{name} is missing")
        if (size := path.stat().st_size) != entry["bytes"]:
            raise Damaged(f"{name} has {size} bytes in place of {entry['bytes']}")
        if _entry(path) != entry:
            raise Damaged(f"{name} is not what was written: its SHA-256 differs")
    return content["about"]


def to_disk(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk and not only on its way."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _entry(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _write(folder: Path, content: dict[str, Any]) -> None:
    partial = folder / f"{MANIFEST}.partial"
    partial.write_text(_text(content), encoding="utf-8")
    to_disk(partial)
    partial.replace(folder / MANIFEST)
    to_disk(folder)


def _text(content: dict[str, Any]) -> str:
    """The manifest as it stands in the file: with its own hash, and with no other way to write the same."""
    whole = {**content, "sha256": hashlib.sha256(json_text.dumps(content, sort_keys=True).encode()).hexdigest()}
    return json_text.dumps(whole, sort_keys=True, indent=1) + "\n"


def _read(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise Damaged(f"it has no {MANIFEST}: it was not saved to its end, or not by this package")
    try:
        text = path.read_bytes().decode()
        content = json_text.loads(text)
        content.pop("sha256")
        intact, written_as = text == _text(content), content["format"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        intact, written_as = False, None
    if not intact:
        raise Damaged(f"{MANIFEST} is not what was written")
    if written_as != _FORMAT:
        raise Damaged(f"{MANIFEST} has format {written_as}, and this version of the package reads {_FORMAT}")
    return content
