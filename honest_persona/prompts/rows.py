"""Encoded rows as an Arrow table: 5 bytes a token, in a mapped file where there are many.

    rows = training_rows((record.id, encode_record(record, form)) for record in records)
    rows[0]     # {"input_ids": [...], "labels": [...], "kinds": [...], "activation", "prefix_key", "record_id"}

A row becomes lists when it is asked for. Labels are not kept: they follow from ids and kinds.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from datasets.table import InMemoryTable, MemoryMappedTable

from honest_persona.base.spool import IN_MEMORY_BYTES, Spool
from honest_persona.base.tensors import ids_key
from honest_persona.prompts.tokens import Tokens, labels

TrainingRow = dict[str, Any]
"""`input_ids`, `labels`, `kinds`, `activation`, `prefix_key`, `record_id`: what `PersonaCollator` takes."""

_SCHEMA = pa.schema(
    {
        "input_ids": pa.list_(pa.int32()),
        "kinds": pa.list_(pa.int8()),
        "activation": pa.int32(),
        "prefix_key": pa.string(),
        "record_id": pa.string(),
    }
)
_AT_ONCE = 64


def training_rows(encoded: Iterable[tuple[str, Tokens]], in_memory_bytes: int = IN_MEMORY_BYTES) -> Dataset:
    """Rows of (record's id, tokens), in this order.

    Args:
        in_memory_bytes: larger data lie in a file.

    Raises:
        UserError: the disk is full.
    """
    encoded = iter(encoded)
    with Spool(in_memory_bytes) as spool, pa.ipc.new_stream(spool, _SCHEMA) as stream:
        while chunk := list(islice(encoded, _AT_ONCE)):
            stream.write_table(_table(chunk))
    if spool.path is not None:
        return rows_in(spool.path)
    return Dataset(InMemoryTable.from_buffer(pa.py_buffer(spool.view()))).with_transform(_as_training_rows)


def rows_in(file: Path) -> Dataset:
    """Rows that `training_rows` or `file_of` wrote, perhaps in another process."""
    return Dataset(MemoryMappedTable.from_file(str(file))).with_transform(_as_training_rows)


def file_of(rows: Dataset) -> Path:
    """The file that the rows lie in; rows in memory are written to one. Raises UserError: the disk is full."""
    if rows.cache_files:
        return Path(rows.cache_files[0]["filename"])
    with Spool(in_memory_bytes=0) as spool, pa.ipc.new_stream(spool, rows.data.schema) as stream:
        stream.write_table(rows.data.table)
    assert spool.path is not None
    return spool.path


def training_row(record_id: str, tokens: Tokens) -> TrainingRow:
    return {
        "input_ids": tokens.input_ids,
        "labels": tokens.labels,
        "kinds": [int(kind) for kind in tokens.kinds],
        "activation": tokens.activation,
        "prefix_key": tokens.prefix_key,
        "record_id": record_id,
    }


def row_names(rows: Dataset) -> Iterator[str]:
    """Of each row a text that names its record, its ids and its kinds."""
    for batch in rows.data.select(["record_id", "input_ids", "kinds"]).to_batches():
        ids, kinds = (_arrays(batch.column(name)) for name in ("input_ids", "kinds"))
        for record_id, row_ids, row_kinds in zip(batch.column("record_id").to_pylist(), ids, kinds, strict=True):
            yield f"{record_id} {ids_key(row_ids)} {ids_key(row_kinds)}"


def _table(encoded: Sequence[tuple[str, Tokens]]) -> pa.Table:
    names, tokens = zip(*encoded, strict=True)
    columns = [
        _lists([t.input_ids for t in tokens], np.int32),
        _lists([t.kinds for t in tokens], np.int8),
        pa.array([t.activation for t in tokens], pa.int32()),
        pa.array([t.prefix_key for t in tokens], pa.string()),
        pa.array(names, pa.string()),
    ]
    return pa.table(columns, _SCHEMA)


def _lists(rows: Sequence[Sequence[int]], dtype: type[np.generic]) -> pa.ListArray:
    ends = np.cumsum([0, *map(len, rows)]).astype(np.int32)
    return pa.ListArray.from_arrays(ends, np.concatenate([np.asarray(row, dtype) for row in rows]))


def _arrays(lists: pa.ListArray) -> Iterator[np.ndarray]:
    values, ends = lists.values.to_numpy(), lists.offsets.to_numpy()
    return (values[start:end] for start, end in pairwise(ends))


def _as_training_rows(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    if {"input_ids", "kinds"} <= batch.keys():
        batch["labels"] = [labels(ids, kinds) for ids, kinds in zip(batch["input_ids"], batch["kinds"], strict=True)]
    return batch
