"""A table as text: CSV with commas, semicolons, tabs or bars, or TSV; the first line names the columns."""

import csv
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from honest_persona.data.rejections import Rejection
from honest_persona.data.sources.source import shown
from honest_persona.data.sources.text import encoding_problem, text_lines
from honest_persona.data.strict_json import RepeatedKey

_DELIMITERS = (",", ";", "\t", "|")
_SEP = "sep="
"""A first line that tells Excel the delimiter."""


class _Lines:
    """The lines of a file; the first can be looked at before the reader gets it."""

    def __init__(self, path: Path) -> None:
        self._lines = text_lines(path, newline="")
        self._next = next(self._lines, None)
        self.read = 0
        self.damage: str | None = None
        """What is wrong with the encoding of the lines read since it was None."""

    def look(self) -> str:
        return self._next or ""

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._next
        if line is None:
            raise StopIteration
        self._next = next(self._lines, None)
        self.read += 1
        self.damage = self.damage or encoding_problem(line)
        return line


def csv_rows(path: Path) -> Iterator[tuple[Any, str]]:
    """Each row, all cells as text, with its place. Raises OSError."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a transcript may be longer than the default of 131,072
    lines = _Lines(path)
    while lines.look() and not lines.look().strip():
        next(lines)
    delimiter = _delimiter(lines)
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    names: list[str] | None = None
    while True:
        first, lines.damage = lines.read + 1, None
        problem = None
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error:
            problem, cells = "malformed_csv", []
        if not problem and not any(cells):
            continue
        problem = lines.damage or problem
        if names is None:
            if problem:
                yield Rejection(shown(path), _place(first, lines.read), "header", problem), ""
                return
            names = [cell.strip() for cell in cells]
            repeated = [name for name, n in Counter(names).items() if n > 1 and name]
            continue
        if (not problem and any(cells[len(names) :])) or len(cells) < len(names):
            problem = problem or "wrong_number_of_cells"
        place = _place(first, lines.read)
        if problem:
            yield Rejection(shown(path), place, "row", problem), place
        elif repeated:
            yield RepeatedKey(repeated[0]), place
        else:
            yield {name: cell for name, cell in zip(names, cells, strict=False) if name}, place


def _place(first: int, last: int) -> str:
    return f"line {first}" if last <= first else f"lines {first} to {last}"


def _delimiter(lines: _Lines) -> str:
    """The delimiter that a first line names; else the one that gives the header the most cells."""
    line = lines.look().rstrip("\r\n")
    if line.lower().startswith(_SEP) and len(line) == len(_SEP) + 1:
        next(lines)
        return line[-1] if line[-1] not in "\"'" else ","
    return max(_DELIMITERS, key=line.count)
