"""A JSON file of rows: an array, an object that holds one, a table of pandas, or objects one after another."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from honest_persona.base.progress import Progress
from honest_persona.data.rejections import Rejection
from honest_persona.data.sources.column_names import spelled
from honest_persona.data.sources.jsonl import jsonl_rows
from honest_persona.data.sources.own import USUAL_COLUMNS
from honest_persona.data.sources.source import shown
from honest_persona.data.sources.text import encoding_problem, first_damage, text_lines, whole_text
from honest_persona.data.strict_json import first_value, loads

_WRAPPERS = ("data", "rows", "records", "examples", "items", "samples")
_WRAPPED = re.compile(r'\s*\{\s*"(?:' + "|".join(_WRAPPERS) + r')"\s*:\s*\[')
_TABLE = re.compile(r'\s*\{\s*"(?:[^"\\]|\\.)*"\s*:\s*[\[{]')
"""The start of an object that may be a whole table, as `to_json` of pandas writes it by default."""
_SPACE = re.compile(r"[ \t\n\r\ufeff]*")
_MCHARS = 10**6


def json_rows(path: Path) -> Iterator[tuple[Any, str]]:
    """Each row with its place. Raises OSError."""
    text = whole_text(path)
    start = _SPACE.match(text).end()  # type: ignore[union-attr]  # it matches nothing, too
    if text.startswith("[", start) and not _is_lines(text, all_by_themselves=True):
        yield from _array(text, start + 1, shown(path), is_whole=True)
    elif wrapped := _WRAPPED.match(text, start):
        yield from _array(text, wrapped.end(), shown(path), is_whole=False)
    elif _is_lines(text):
        yield from jsonl_rows(path)
    else:
        yield from _objects(text, start, shown(path))


def lines_rows(path: Path) -> Iterator[tuple[Any, str]]:
    """JSON Lines, and what people call so: an array, a table, or objects over several lines. Raises OSError."""
    lines = (line for line in text_lines(path) if line.strip())
    first, second = next(lines, ""), next(lines, "")
    lines.close()
    is_array = first.lstrip().startswith("[") and (not second or not _is_json(first))
    is_table = not second and _TABLE.match(first)
    yield from (json_rows if is_array or is_table or first.strip() == "{" else jsonl_rows)(path)


def _is_lines(text: str, all_by_themselves: bool = False) -> bool:
    """Whether one of the first lines is an object by itself, and not the only line.

    With `all_by_themselves` the very first line is a whole value, too.
    """
    lines = [line for line in text[: 10 * _MCHARS].split("\n") if line.strip()][:6]
    if len(lines) == 1 or (all_by_themselves and not _is_json(lines[0])):
        return False
    return any(line.lstrip().startswith("{") and _is_json(line) for line in lines)


def _is_json(text: str) -> bool:
    try:
        loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _objects(text: str, at: int, file: str) -> Iterator[tuple[Any, str]]:
    """Objects one after another, each over several lines; a single one may hold the array of rows."""
    first, line, counted = at, 1, 0
    while at < len(text):
        line, counted = line + text.count("\n", counted, at), at
        end, value = _value(text, at, file, indent="")
        rest = _SPACE.match(text, end).end()  # type: ignore[union-attr]
        if at == first and rest == len(text) and isinstance(value, dict):
            rows = [value[name] for name in _WRAPPERS if isinstance(value.get(name), list)]
            found = _of_table(value) or (rows[0] if len(rows) == 1 else None)
            if found is not None:
                yield from ((row, f"[{index}]") for index, row in enumerate(found))
                return
        yield value, f"line {line}"
        at = rest


def _of_table(value: dict[str, Any]) -> list[Any] | None:
    """The rows of a table as `to_json` of pandas and `to_dict` of datasets write it; None: the object is none."""
    names, data = value.get("columns"), value.get("data")
    if isinstance(names, list) and isinstance(data, list) and value.keys() <= {"columns", "index", "data"}:  # "split"
        is_row = all(isinstance(row, list) and len(row) == len(names) for row in data)
        is_named = all(isinstance(name, str) for name in names) and len(set(names)) == len(names)
        return [dict(zip(names, row, strict=True)) for row in data] if is_row and is_named else None
    columns = list(value.values())
    if columns and all(isinstance(row, dict) and row for row in columns) and _by_index(value):
        return columns
    if len(columns) < 2:
        return None
    if all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns):
        if any(isinstance(cell, dict) and ("role" in cell or "from" in cell) for column in columns for cell in column):
            return None  # one row: the list is its conversation
        return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]
    if all(isinstance(column, dict) and column.keys() == columns[0].keys() for column in columns):
        return [{name: column[key] for name, column in value.items()} for key in columns[0]]
    return None


def _by_index(table: dict[str, dict[str, Any]]) -> bool:
    """Whether an object of objects holds rows by their index, and not columns by their names."""
    names = {name for row in table.values() for name in row}
    are_numbers = all(map(str.isdecimal, table)) and not any(map(str.isdecimal, names))
    return are_numbers or (_has_usual(names) and not _has_usual(table))


def _has_usual(names: Iterable[str]) -> bool:
    return not USUAL_COLUMNS.isdisjoint(map(spelled, names))


def _array(text: str, at: int, file: str, is_whole: bool) -> Iterator[tuple[Any, str]]:
    """The elements of an array whose first element, or end, comes at `at`; `is_whole`: nothing may follow its end."""
    on_a_line = re.compile(r"[ \t]*\n([ \t]*)\{").match(text, at)
    indent = on_a_line[1] if on_a_line else None
    index = 0
    with Progress("reading", len(text) // _MCHARS, "MB", delay_s=1.0) as progress:
        at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
        while not text.startswith("]", at):
            end, value = _value(text, at, file, indent)
            yield value, f"[{index}]"
            index += 1
            at = _SPACE.match(text, end).end()  # type: ignore[union-attr]
            progress.advance(at // _MCHARS - progress.done)
            if text.startswith(",", at):
                at = _SPACE.match(text, at + 1).end()  # type: ignore[union-attr]
            elif at < len(text) and not text.startswith("]", at) and not isinstance(value, Rejection):
                yield _malformed(text, at, file), ""
                return
            if at >= len(text):
                if not isinstance(value, Rejection):
                    yield _malformed(text, len(text), file), ""
                return
    rest = _SPACE.match(text, at + 1).end()  # type: ignore[union-attr]
    if is_whole and rest < len(text):
        yield _malformed(text, rest, file), ""


def _value(text: str, at: int, file: str, indent: str | None) -> tuple[int, Any]:
    """Where the value ends, and the value; or its Rejection, and where the next value can be told from its inside."""
    try:
        value, end = first_value(text, at)
    except (json.JSONDecodeError, RecursionError) as error:
        place = error.pos if isinstance(error, json.JSONDecodeError) else at
        following = None if indent is None else re.compile(rf"\n{indent}\{{").search(text, max(place, at + 1))
        damaged = text[at : following.start() if following else len(text)]
        return (following.start() if following else len(text)), _malformed(text, place, file, damaged)
    if reason := encoding_problem(text[at:end]):
        return end, Rejection(file, _place(text, at + first_damage(text[at:end])), "row", reason)
    return end, value


def _malformed(text: str, at: int, file: str, damaged: str = "") -> Rejection:
    return Rejection(file, _place(text, at), "row", encoding_problem(damaged) or "malformed_json")


def _place(text: str, at: int) -> str:
    return f"line {text.count(chr(10), 0, at) + 1}, column {at - text.rfind(chr(10), 0, at)}"
