"""The conversations of a file as parsed values, read by the readers of datasets; `-` is JSON on standard input.

for line in conversation_lines("conversations.jsonl"):
    line.number, line.place, line.value         # value: as parsed, or the Problem of a line that cannot be read
"""

import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from honest_persona.base.console import tell
from honest_persona.base.errors import UserError
from honest_persona.data.conversation import MESSAGES_KEYS
from honest_persona.data.messages import Problem
from honest_persona.data.rejections import Rejection, remedy_for
from honest_persona.data.sources.column_names import spelled
from honest_persona.data.sources.folder import KINDS, READERS
from honest_persona.data.sources.json_file import json_rows
from honest_persona.data.sources.kinds import bare_ending, kind_problem

STDIN = "-"
_LINES = re.compile(r"lines? (\d+)(.*)")


class Line(NamedTuple):
    number: int
    """Of the line in its file; of the row, counted from 1 on, where rows are no lines."""
    place: str
    value: Any
    """As parsed, or a Problem."""


def conversation_lines(path: str) -> list[Line]:
    """A file whose rows are messages is one conversation, and this is told.

    Raises UserError: the file cannot be read, or holds nothing.
    """
    if path != STDIN:
        return _lines(Path(path), path)
    with tempfile.NamedTemporaryFile(suffix=".json") as copy:  # readers look at the beginning first
        shutil.copyfileobj(sys.stdin.buffer, copy)
        copy.flush()
        return _lines(Path(copy.name), "standard input")


def _lines(path: Path, name: str) -> list[Line]:
    try:
        if (problem := kind_problem(path)) and not problem.startswith("empty_file"):
            raise UserError(f"--input: {name}: {remedy_for(problem)}")
        reader = READERS.get(bare_ending(path), json_rows)
        rows = list(reader(path))
    except OSError as error:
        raise UserError(f"--input: {name} cannot be read: {error.strerror or error}") from error
    if not rows:
        raise UserError(f'--input: {name} has no conversation; give a {KINDS} file of rows {{"messages": [...]}}')
    if all(_is_message(row) for row, _ in rows):
        tell(f"note: the rows of {name} are messages, so they are read as one conversation of {len(rows):,} messages")
        return [Line(1, name, {"messages": [row for row, _ in rows]})]
    return [_line(row, place, name, count) for count, (row, place) in enumerate(rows, start=1)]


def _line(row: Any, place: str, name: str, count: int) -> Line:
    if isinstance(row, Rejection):
        code = row.reason.partition(":")[0]
        row, place = Problem("", code, f"{code.replace('_', ' ')}: {remedy_for(row.reason)}"), row.place
    if found := _LINES.fullmatch(place):
        return Line(int(found[1]), f"{name}:{found[1]}{found[2]}", row)
    return Line(count, f"{name}{'' if place.startswith('[') else ', ' * bool(place)}{place}", row)


def _is_message(row: Any) -> bool:
    """Whether a row is a part of a conversation, so that the whole file is one conversation."""
    return (
        isinstance(row, Mapping)
        and ("role" in row or "from" in row)
        and not set(map(spelled, row)) & set(MESSAGES_KEYS)
    )
