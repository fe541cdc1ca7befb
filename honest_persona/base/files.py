"""Writes files whole or not at all, whatever kills the writer.

    write_text(folder / "results.json", text)
    with whole_file(path) as file:          # the same, for a text that is written piece by piece
        file.write(line)
    with whole_folder(path) as folder:      # the same, for a new folder
        ...

A file is first written under a name that no other writer has, in the same folder, and then moved to its place in one
step. A killed writer leaves a file whose name begins with a dot and ends with `.part`; the next owner of the folder
(locks.py) deletes such files.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO
from uuid import uuid4

from honest_persona.base.console import one_line
from honest_persona.base.errors import UserError

PART = ".part"


def part_of(path: Path) -> Path:
    """A new name for a file that will replace `path`: in the same folder, so that one step can move it."""
    return path.with_name(f".{path.name}.{uuid4().hex}{PART}")


@contextmanager
def moved_into(path: Path) -> Iterator[Path]:
    """Yields a name to write to; the written file or folder replaces `path` when the block ends without error."""
    part = part_of(path)
    try:
        yield part
        to_disk(part)  # otherwise a power cut may leave the new name without content
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """A text file that appears, or replaces an older file, when the block ends without error.

    UTF-8; line ends stay as they are given. A device or a pipe is written to directly.
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
    """Delete the files of killed writers. Only the folder's owner may call this: other writers may still be at work."""
    for part in folder.glob(f".*{PART}"):
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink(missing_ok=True)


def to_disk(path: Path) -> None:
    """Wait until a file, or a folder's list of names, has reached the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_new_folder(path: Path, flag: str) -> None:
    """Raises UserError: a file or a folder that is not empty stands there; `flag` names the argument."""
    if path.exists() and not path.is_dir():
        raise UserError(f"{flag}: {path} is a file; name a new folder")
    if path.is_dir() and (there := sorted(inside.name for inside in path.iterdir())):
        raise UserError(f"{flag}: {path} holds {one_line(there[0])}; name a new or an empty folder")


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to write into, which stands at `path` when the block ends without error; nothing is left otherwise.

    Raises UserError: meanwhile something else was written there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path)
    part.mkdir()
    try:
        yield part
        to_disk(part)
        try:
            part.replace(path)
        except OSError as error:
            raise UserError(f"{path} is no new folder any more ({error.strerror}); name another one") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
