"""The same rows in every form that a reader reads."""

import csv
import gzip
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def as_jsonl(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def as_csv(rows: Sequence[Mapping[str, Any]], delimiter: str = ",") -> str:
    """As pandas writes it: lists as Python shows them, nothing for None."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path, row_group_size=2)


def _arrow(path: Path, rows: Sequence[Mapping[str, Any]], new: Callable = pa.ipc.new_stream) -> None:
    table = pa.Table.from_pylist([dict(row) for row in rows])
    with new(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def _zstd(path: Path, text: str) -> None:
    with pa.output_stream(str(path), compression="zstd") as stream:
        stream.write(text.encode())


def _text(encoding: str, make: Callable[[Any], str]) -> Callable[[Path, Any], Any]:
    return lambda path, rows: path.write_bytes(make(rows).encode(encoding))


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}


def _split(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """As `to_json(orient="split")` of pandas."""
    columns = _columns(rows)
    table = [list(row) for row in zip(*columns.values(), strict=True)]
    return {"columns": list(columns), "index": list(range(len(rows))), "data": table}


FORMS: dict[str, Callable[[Path, Any], Any]] = {
    "rows.jsonl": _text("utf-8", as_jsonl),
    "rows.NDJSON": _text("utf-8-sig", as_jsonl),
    "mac.jsonl": _text("utf-8", lambda rows: as_jsonl(rows).replace("\n", "\r")),
    "utf16.jsonl": _text("utf-16", as_jsonl),
    "utf16le.jsonl": _text("utf-16-le", as_jsonl),
    "utf16be.jsonl": _text("utf-16-be", as_jsonl),
    "array.jsonl": _text("utf-8", json.dumps),
    "pretty.jsonl": _text("utf-8", lambda rows: "\n".join(json.dumps(row, indent=2) for row in rows)),
    "rows.jsonl.gz": lambda path, rows: path.write_bytes(gzip.compress(as_jsonl(rows).encode())),
    "rows.jsonl.zst": lambda path, rows: _zstd(path, as_jsonl(rows)),
    "array.json": _text("utf-8", json.dumps),
    "pretty.json": _text("utf-8-sig", lambda rows: json.dumps(rows, indent=1)),
    "wrapped.json": _text("utf-8", lambda rows: json.dumps({"data": rows, "version": 1})),
    "wrapped_late.json": _text("utf-8", lambda rows: json.dumps({"version": 1, "rows": rows})),
    "pandas.json": _text("utf-8", lambda rows: json.dumps({c: dict(enumerate(v)) for c, v in _columns(rows).items()})),
    "pandas.jsonl": _text("utf-8", lambda rows: json.dumps({c: dict(enumerate(v)) for c, v in _columns(rows).items()})),
    "split.json": _text("utf-8", lambda rows: json.dumps(_split(rows))),
    "split.jsonl": _text("utf-8", lambda rows: json.dumps(_split(rows))),
    "index.json": _text("utf-8", lambda rows: json.dumps(dict(enumerate(rows)))),
    "named.json": _text("utf-8", lambda rows: json.dumps({f"r{n}": row for n, row in enumerate(rows)}, indent=1)),
    "columns.json": _text("utf-8", lambda rows: json.dumps(_columns(rows))),
    "lines.json": _text("utf-8", as_jsonl),
    "rows.csv": _text("utf-8-sig", as_csv),
    "utf16.csv": _text("utf-16", as_csv),
    "mac.csv": _text("utf-8", lambda rows: as_csv(rows).replace("\r\n", "\r")),
    "excel.csv": _text("utf-8", lambda rows: "sep=;\r\n" + as_csv(rows, ";")),
    "semicolons.csv": _text("utf-8", lambda rows: as_csv(rows, ";")),
    "rows.tsv": _text("utf-8", lambda rows: as_csv(rows, "\t")),
    "rows.csv.gz": lambda path, rows: path.write_bytes(gzip.compress(as_csv(rows).encode())),
    "rows.parquet": _table,
    "stream.arrow": _arrow,
    "file.arrow": lambda path, rows: _arrow(path, rows, pa.ipc.new_file),
}
"""By the file's name: a function that writes rows to a path."""
