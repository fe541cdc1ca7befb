"""The records that were kept: as JSON, in a mapped file where they are many.

    records = Records.of(found)         # an iterator: one record is held at a time
    records[3]                          # made when it is asked for
    records.values("topic")             # a column, without the texts
    records.take([5, 2]) + records.take([0])

As objects they would take more than twice the memory, and eight times where each text holds an emoji.
"""

from array import array
from collections.abc import Iterable, Sequence
from typing import Any, overload

from honest_persona.base.spool import IN_MEMORY_BYTES, Spool
from honest_persona.data.records import Record

_COLUMNS = ("id", "item_id", "cluster", "topic", "variant", "flag", "split", "model", "intervention_name", "is_plain")
"""Short fields, which are kept beside the JSON."""


class Records(Sequence[Record]):
    """Records in their order. Parts of them share what they are made from."""

    def __init__(self, store: "_Store", places: Sequence[int]) -> None:
        """Args:
        places: of these records in the store.
        """
        self._store, self._places = store, places

    @classmethod
    def of(cls, records: Iterable[Record], in_memory_bytes: int = IN_MEMORY_BYTES) -> "Records":
        """Raises UserError: the disk is full."""
        if isinstance(records, Records):
            return records
        store = _Store(records, in_memory_bytes)
        return cls(store, range(len(store.columns["id"])))

    def take(self, places: Iterable[int]) -> "Records":
        return Records(self._store, array("q", (self._places[place] for place in places)))

    def values(self, name: str) -> list[Any]:
        """A short field of each record."""
        column = self._store.columns[name]
        return [column[place] for place in self._places]

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> "Records": ...
    def __getitem__(self, index: int | slice) -> "Record | Records":
        if isinstance(index, slice):
            return Records(self._store, self._places[index])
        return self._store.record(self._places[index])

    def __add__(self, other: "Records") -> "Records":
        if other._store is self._store:
            return Records(self._store, array("q", [*self._places, *other._places]))
        return Records.of(record for part in (self, other) for record in part)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as a list's

    def __repr__(self) -> str:
        return f"<{len(self)} records>"


class _Store:
    def __init__(self, records: Iterable[Record], in_memory_bytes: int) -> None:
        self.columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
        self._ends = array("q", [0])
        once: dict[Any, Any] = {}  # equal values are one object
        with Spool(in_memory_bytes) as spool:
            for record in records:
                spool.write(record.model_dump_json().encode())
                self._ends.append(spool.size_bytes)
                for name, column in self.columns.items():
                    value = getattr(record, name)
                    column.append(once.setdefault(value, value))
        self._json = spool.view()

    def record(self, place: int) -> Record:
        return Record.model_validate_json(self._json[self._ends[place] : self._ends[place + 1]])
