"""`manifest.json`: the files that a folder must hold, byte for byte, to be trusted. Written last, in one step.

    seal(folder, {"step": 12})       # after all other files of the folder
    about = check(folder)            # raises Damaged, with the file and what is wrong with it

Files that are not in the manifest are not checked, and nobody may load them.
"""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from honest_persona.base import json_text
from honest_persona.base.files import part_of, to_disk, write_text

MANIFEST = "manifest.json"
_FORMAT = 1
_MOST_BYTES = 64 * 2**20


class Damaged(ValueError):
    """A folder is not what its manifest says, or has none."""


def seal(folder: Path, about: dict[str, Any], names: Iterable[str] | None = None) -> None:
    """Write the manifest of files in `folder`, after they have reached the disk.

    Args:
        about: further facts for readers; JSON types.
        names: the files, relative to the folder; None takes all files in it, at any depth.
    """
    if names is None:
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    files = {name: _entry(folder / name) for name in sorted(names) if name != MANIFEST}
    for name in files:
        to_disk(folder / name)
    _write(folder, {"format": _FORMAT, "files": files, "about": about})


def change(folder: Path, name: str, content: bytes) -> None:
    """Replace a file on purpose. At every moment the folder is whole, with the old file or with the new one.

    Where there is no manifest, or it lacks the file, the file alone is written.
    """
    partial = part_of(folder / name)
    partial.write_bytes(content)
    to_disk(partial)
    sealed = _read(folder) if (folder / MANIFEST).is_file() else {"files": {}}
    files = sealed["files"]
    if name in files:
        files[name] = {**files[name], "or": _entry(partial)}
        _write(folder, sealed)
    partial.replace(folder / name)
    if name in files:
        files[name] = files[name]["or"]
        _write(folder, sealed)


def check(folder: Path, only: Callable[[str], bool] | None = None) -> dict[str, Any]:
    """The `about` that `seal` was given, after a check of the manifest's files.

    Args:
        only: whether to check the file of a name; None checks all files.

    Raises:
        Damaged: no manifest, or one that was not written by this version, or a file that differs from it.
    """
    content = _read(folder)
    for name, entry in content["files"].items():
        if only is None or only(name):
            _compare(folder, name, entry)
    return content["about"]


def listed(folder: Path) -> set[str]:
    """Names of the manifest's files. Raises Damaged: there is no manifest, or it is not sound."""
    return set(_read(folder)["files"])


def _compare(folder: Path, name: str, entry: dict[str, Any]) -> None:
    path = folder / name
    if not path.is_file():
        raise Damaged(f"{name} is missing")
    allowed = [{"bytes": e["bytes"], "sha256": e["sha256"]} for e in (entry, entry.get("or")) if e]
    if (size := path.stat().st_size) not in [e["bytes"] for e in allowed]:
        raise Damaged(f"{name} has {size} bytes in place of {entry['bytes']}")
    if _entry(path) not in allowed:
        raise Damaged(f"{name} is not what was written: its SHA-256 differs")


def _entry(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _write(folder: Path, content: dict[str, Any]) -> None:
    write_text(folder / MANIFEST, _text(content))
    to_disk(folder)


def _text(content: dict[str, Any]) -> str:
    """The manifest's text, with its own hash; the same content always gives the same text."""
    whole = {**content, "sha256": hashlib.sha256(json_text.dumps(content, sort_keys=True).encode()).hexdigest()}
    return json_text.dumps(whole, sort_keys=True, indent=1) + "\n"


def _read(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise Damaged(f"it has no {MANIFEST}: it was not saved to its end, or not by this package")
    if path.stat().st_size > _MOST_BYTES:
        raise Damaged(f"{MANIFEST} is not what was written: it has {path.stat().st_size} bytes")
    try:
        text = path.read_bytes().decode()
        content = json_text.loads(text)
        content.pop("sha256")
        written_as = content["format"]
        intact = text == _text(content) and (written_as != _FORMAT or _is_sound(content))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        intact, written_as = False, None
    if not intact:
        raise Damaged(f"{MANIFEST} is not what was written")
    if written_as != _FORMAT:
        raise Damaged(f"{MANIFEST} has format {written_as}, and this version of the package reads {_FORMAT}")
    return content


def _is_sound(content: dict[str, Any]) -> bool:
    """Whether all values have the right types: a hash does not prove that this package wrote the manifest."""
    entries = [entry for first in content["files"].values() for entry in (first, first.get("or", first))]
    of_types = all(type(e["bytes"]) is int and type(e["sha256"]) is str for e in entries)
    return of_types and isinstance(content["about"], dict)
