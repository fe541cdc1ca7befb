"""Files that are there whole or not at all, whatever kills their writer.

    write_text(folder / "results.json", text)
    with whole_file(path) as file:          # the same, for a text that comes piece by piece
        file.write(line)

A file is written beside its place, under a name that no other writer has, and moved there in one step. What a killed
writer leaves begins with a dot and ends with `.part`; whoever owns the folder next (locks.py) clears it away.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO
from uuid import uuid4

PART = ".part"


def part_of(path: Path) -> Path:
    """A new name beside `path` for what is to become it: in the same folder, so that it can be moved in one step."""
    return path.with_name(f".{path.name}.{uuid4().hex}{PART}")


@contextmanager
def moved_into(path: Path) -> Iterator[Path]:
    """A name to write to; what is there takes the place of `path` when the block has ended well."""
    part = part_of(path)
    try:
        yield part
        to_disk(part)  # else a power cut may leave the new name with nothing behind it
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """A text file that takes its place, or that of an older one, when the block has ended well.

    UTF-8, with line ends as they are given. A device or a pipe is written to as it is.
    """
    if path.exists() and not path.is_file():
        with path.open("w", encoding="utf-8", newline="\n") as file:
            yield file
        return
    with moved_into(path) as part, part.open("x", encoding="utf-8", newline="\n") as file:
        yield file


def write_text(path: Path, text: str) -> None:
    with whole_file(path) as file:
        file.write(text)


def clear_parts(folder: Path) -> None:
    """Delete what killed writers left. For the owner of the folder alone: another's writer may still be at work."""
    for part in folder.glob(f".*{PART}"):
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink(missing_ok=True)


def to_disk(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk and not only on its way."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
