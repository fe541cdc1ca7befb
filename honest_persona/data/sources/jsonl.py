"""JSON Lines with one record a line: reading and writing."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from honest_persona.base.files import whole_file
from honest_persona.data.records import Record
from honest_persona.data.sources.source import decode, lines_of, shown


def jsonl_rows(path: Path) -> Iterator[tuple[Any, str]]:
    for number, line in enumerate(lines_of(path), start=1):
        if line.strip():
            yield decode(line, shown(path), number), f"line {number}"


def write_jsonl(records: Iterable[Record], path: str | Path) -> None:
    """One record a line, in a form that `load_records` reads back."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.writelines(record.model_dump_json() + "\n" for record in records)
