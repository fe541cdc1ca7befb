"""Rows of Arrow tables as dictionaries; a value that cannot be read rejects its row alone."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from honest_persona.data.rejections import Rejection
from honest_persona.data.sources.class_names import named, names_in
from honest_persona.data.strict_json import RepeatedKey

if TYPE_CHECKING:
    import pyarrow as pa

_PANDAS_INDEX = "__index_level_"


def table_rows(
    batch: "pa.RecordBatch | pa.Table", file: str, first: int, place: Callable[[int], str] = "row {}".format
) -> Iterator[tuple[Any, str]]:
    """The rows of a batch, whose first row is the file's row number `first`."""
    names = [str(name) for name in batch.schema.names]
    repeated = [name for name, n in Counter(names).items() if n > 1]
    classes = names_in(batch.schema)
    rows = _rows(batch)
    for index in range(batch.num_rows):
        here = place(first + index)
        if repeated:
            yield RepeatedKey(repeated[0]), here
            continue
        found = rows[index : index + 1] if rows is not None else _rows(batch.slice(index, 1))
        if found is None:
            yield Rejection(file, here, "row", "unreadable_row"), here
            continue
        row = {name: plain(value) for name, value in found[0].items() if not name.startswith(_PANDAS_INDEX)}
        yield named(row, classes) if classes else row, here


def _rows(batch: "pa.RecordBatch | pa.Table") -> list[dict[str, Any]] | None:
    """None: a value is damaged, or has no counterpart in Python."""
    try:
        batch.validate(full=True)
        return batch.to_pylist()
    except Exception:  # Arrow raises errors of many kinds for such values, and nothing of the package runs here
        return None


def plain(value: Any) -> Any:
    """A value without the nulls that Arrow puts into objects for keys that only other rows have; bytes as text."""
    if isinstance(value, dict):
        return {key: plain(inside) for key, inside in value.items() if inside is not None}
    if isinstance(value, list):
        return [plain(inside) for inside in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    return value
