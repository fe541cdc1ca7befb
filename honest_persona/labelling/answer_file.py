"""A file of answers, a JSON line each, which the command that began it continues.

    with answer_file(path, by) as (append, done):
        append(lines)           # {"id": ..., ...}; whole on the disk when the call returns

`by` says how the lines are made. A file whose lines were made in another way is never touched.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from honest_persona.base import json_text
from honest_persona.base.console import one_line
from honest_persona.base.errors import UserError
from honest_persona.base.locks import held_file

Line = Mapping[str, Any]
Append = Callable[[Iterable[Line]], None]
BY = "by"
"""The key of a line that says how it was made."""


@contextmanager
def answer_file(path: Path, by: Mapping[str, Any], what: str) -> Iterator[tuple[Append, dict[str, Line]]]:
    """A function that appends lines, and the lines that are there, by id.

    A last line that was not written to its end is removed.

    Args:
        what: is at work, for the lock's message.

    Raises:
        UserError: the file holds something else, or another process is at work on it.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"--output: {path} is no file; name one")
    if not path.absolute().parent.is_dir():
        raise UserError(f"--output: the folder {path.absolute().parent} does not exist; make it, or name another one")
    with held_file(path, what, "name another --output"):
        whole, done = _found(path, by) if path.is_file() else (0, {})
        with path.open("ab") as file:
            file.truncate(whole)
        with path.open("a", encoding="utf-8", newline="\n") as out:

            def append(lines: Iterable[Line]) -> None:
                out.write("".join(json_text.dumps({**line, BY: by}, ensure_ascii=False) + "\n" for line in lines))
                out.flush()
                os.fsync(out.fileno())

            yield append, done


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The lines with their numbers. Raises UserError: a line that is no JSON object with an id, or is cut off."""
    try:
        raw_lines = path.open("rb")
    except OSError as error:
        raise UserError(f"--input: {path}: {error.strerror or error}; name a file of answers") from error
    with raw_lines:
        for number, raw in enumerate(raw_lines, start=1):
            try:
                line = json_text.loads(raw)
                if not raw.endswith(b"\n") or not isinstance(line["id"], str):
                    raise ValueError
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"--input: {path}:{number} is no whole line of answers; let the command that writes it end"
                ) from error
            yield number, line


def _found(path: Path, by: Mapping[str, Any]) -> tuple[int, dict[str, Line]]:
    """The bytes of the whole lines, and the lines."""
    whole, done = 0, dict[str, Line]()
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.endswith(b"\n"):
                if not (raw.startswith(_TORN) or _TORN.startswith(raw)):
                    raise _other(path, number, "holds something else than answers")
                break
            try:
                line = json_text.loads(raw)
                name, made = line["id"], line[BY]
            except (ValueError, KeyError, TypeError):
                raise _other(path, number, "holds something else than answers") from None
            differing = [key for key in {**made, **by} if made.get(key) != by.get(key)]
            if differing:
                key = differing[0]
                then, now = one_line(made.get(key))[:60], one_line(by.get(key))[:60]
                raise _other(path, number, f"was made with {key} {then}, not {now}")
            whole += len(raw)
            done[name] = line
    return whole, done


_TORN = b'{"id": '
"""How a line begins that a killed process has left unfinished."""


def _other(path: Path, number: int, reason: str) -> UserError:
    return UserError(
        f"--output: {path}:{number} {reason}. Only a file that the same command began is continued, and none is "
        "overwritten: name another --output, or remove the file"
    )
