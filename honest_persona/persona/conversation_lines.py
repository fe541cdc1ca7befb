"""The conversations of a file as parsed JSON: JSON Lines, an array, or one object; `-` is standard input.

for line in conversation_lines("conversations.jsonl"):
    line.number, line.place, line.value         # value: parsed JSON, or the Problem of a line that cannot be read
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from honest_persona.base.errors import UserError
from honest_persona.data.messages import Problem
from honest_persona.data.strict_json import loads

STDIN = "-"
_BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


class Line(NamedTuple):
    number: int
    """Of the line, or of the array's element; from 1 on."""
    place: str
    value: Any
    """Parsed JSON, or a Problem."""


def conversation_lines(path: str) -> list[Line]:
    """Raises UserError: the file cannot be read, or is no JSON at all."""
    name = "standard input" if path == STDIN else path
    try:
        raw = sys.stdin.buffer.read() if path == STDIN else Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"--input: {path} cannot be read: {error.strerror}") from error
    if raw.startswith(_UTF_16):
        raise UserError(f"--input: {name} is UTF-16 text; save the file as UTF-8")
    raw = raw.removeprefix(_BOM)
    parts = [(number, part) for number, part in enumerate(raw.split(b"\n"), start=1) if part.strip()]
    if not parts:
        raise UserError(f'--input: {name} has no conversation; write lines such as {{"messages": [...]}}')
    number, first = parts[0]
    value = _parsed(first)
    if len(parts) > 1 and _is_cut(first, value):
        number, value = 1, _parsed(raw)
        if isinstance(value, Problem):
            raise UserError(f"--input: {name} is {value.message}")
    elif len(parts) > 1:
        return [Line(number, f"{name}:{number}", _parsed(part)) for number, part in parts]
    if isinstance(value, list) and value and not _are_messages(value):
        return [Line(i, f"{name}, element {i}", element) for i, element in enumerate(value, start=1)]
    return [Line(number, f"{name}:{number}", value)]


def _is_cut(first: bytes, value: Any) -> bool:
    """Whether an array or object begins in the first line and goes on in the next ones."""
    begins = first.strip()
    return isinstance(value, Problem) and (begins == b"{" or (begins[:1] == b"[" and begins[-1:] in b"[,{}"))


def _are_messages(value: Sequence[Any]) -> bool:
    """Whether a list is one conversation, and no list of conversations."""
    return all(isinstance(part, Mapping) and ("role" in part or "from" in part) for part in value)


def _parsed(raw: bytes) -> Any:
    try:
        return loads(raw.decode("utf-8"))
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if b"\n" in raw.strip() else ""
        message = f"not valid JSON ({line}column {error.colno}: {error.msg}); write one object per line, or an array"
        return Problem("", "not_json", message)
    except UnicodeDecodeError as error:
        line = f"line {raw.count(bytes([10]), 0, error.start) + 1}, " if b"\n" in raw.strip() else ""
        return Problem("", "not_utf8", f"not UTF-8 text ({line}byte {error.start + 1}); save the file as UTF-8")
    except RecursionError:
        return Problem("", "too_deep", "nested too deep; write one flat object per line")
