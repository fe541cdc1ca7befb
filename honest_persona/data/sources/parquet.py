"""A Parquet file of rows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from honest_persona.base.progress import Progress
from honest_persona.data.rejections import Rejection
from honest_persona.data.sources.source import shown
from honest_persona.data.sources.tables import table_rows

_BATCH_ROWS = 512


def parquet_rows(path: Path) -> Iterator[tuple[Any, str]]:
    """Each row with its place. A group of rows that is damaged gives one rejection. Raises OSError."""
    import pyarrow as pa  # takes a moment, and most runs do not need it
    import pyarrow.parquet as pq

    name = shown(path)
    damage = (pa.ArrowException, OSError, ValueError, MemoryError)
    with path.open("rb") as raw:
        try:
            file = pq.ParquetFile(raw, page_checksum_verification=True)
        except damage:
            yield Rejection(name, "whole file", "file", "damaged_file:Parquet file"), ""
            return
        first = 0
        with Progress("reading", file.metadata.num_rows, "rows", delay_s=1.0) as progress:
            for group in range(file.num_row_groups):
                read, n = 0, file.metadata.row_group(group).num_rows
                try:
                    for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], use_threads=False):
                        yield from table_rows(batch, name, first + read)
                        read += batch.num_rows
                        progress.advance(batch.num_rows)
                except damage:
                    place = f"row {first + read} to {first + n - 1}"
                    yield Rejection(name, place, "rows", "damaged_file:Parquet file"), place
                first += n
