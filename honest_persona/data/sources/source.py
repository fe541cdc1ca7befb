"""The result of a reader, and the steps that readers share: open a file, decode its JSON, show its name."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from honest_persona.data.rejections import Outcome, Rejection
from honest_persona.data.strict_json import loads


@dataclass(frozen=True)
class Source:
    outcomes: Sequence[Outcome]
    topics: Mapping[str, int]
    """Number of batch files (or rows) of each topic."""
    label: str


def outcomes_of(path: Path, read: Callable[[Path, int, int], tuple[Outcome, ...]]) -> tuple[Outcome, ...]:
    """The outcomes of `read(path, time, size)`; a rejection where the file cannot be read."""
    try:
        if path.is_file():  # no folder, and no pipe, which would be waited for
            stat = path.stat()
            return read(path, stat.st_mtime_ns, stat.st_size)
    except OSError:
        pass  # rejected below, as every other file that cannot be read
    return (Rejection(shown(path), "whole file", "file", "unreadable_file"),)


def decode(raw: bytes, file: str, line: int | None = None) -> Any:
    """The parsed JSON, or a Rejection; `line` is the number of a JSONL line, else the decoder's own is used."""
    try:
        return loads(raw.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        place = f"line {line or error.lineno}, column {error.colno}"
    except UnicodeDecodeError as error:
        newlines = raw.count(b"\n", 0, error.start)
        place = f"line {line or newlines + 1}, not UTF-8"
    except RecursionError:
        place = f"line {line or 1}, nested too deep"
    return Rejection(file, place, "file" if line is None else "row", "malformed_json")


def shown(path: str | Path) -> str:
    """A path as printable text; bytes of its name that are not UTF-8 appear as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
