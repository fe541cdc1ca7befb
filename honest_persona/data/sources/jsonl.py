"""JSON Lines with one record a line: reading and writing."""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from honest_persona.base.files import whole_file
from honest_persona.base.progress import followed
from honest_persona.data.records import Record
from honest_persona.data.rejections import Outcome, Rejection
from honest_persona.data.sources.rows import parse_row, rows_source
from honest_persona.data.sources.source import Source, decode, outcomes_of, shown


def read_jsonl(dataset: str, paths: Iterable[Path]) -> Source:
    return rows_source(dataset, [outcome for path in paths for outcome in outcomes_of(path, _jsonl_outcomes)])


@lru_cache(maxsize=4096)
def _jsonl_outcomes(path: Path, mtime_ns: int, size_bytes: int) -> tuple[Outcome, ...]:
    outcomes: list[Outcome] = []
    for number, line in enumerate(followed(path.read_bytes().split(b"\n"), "reading", "lines"), start=1):
        if line.strip():
            row = decode(line, shown(path), number)
            outcomes.append(row if isinstance(row, Rejection) else parse_row(row, shown(path), f"line {number}"))
    return tuple(outcomes)


def write_jsonl(records: Iterable[Record], path: str | Path) -> None:
    """One record a line, in a form that `load_records` reads back."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.writelines(record.model_dump_json() + "\n" for record in records)
