"""JSON Lines with one row a line: reading and writing."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from honest_persona.base.files import whole_file
from honest_persona.data.records import Record
from honest_persona.data.sources.source import decode, shown
from honest_persona.data.sources.text import text_lines


def jsonl_rows(path: Path) -> Iterator[tuple[Any, str]]:
    """Each line's row and place. Raises OSError."""
    for number, line in enumerate(text_lines(path), start=1):
        if line.strip():
            yield decode(line.rstrip("\r\n"), shown(path), number), f"line {number}"


def write_jsonl(records: Iterable[Record], path: str | Path) -> None:
    """One record a line, in a form that `load_records` reads back."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.writelines(record.model_dump_json() + "\n" for record in records)
