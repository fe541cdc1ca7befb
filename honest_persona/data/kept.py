"""The rows that were kept, records or feedback: as JSON, in a mapped file where they are many.

    records = Records.of(found)         # an iterator: one record is held at a time
    records[3]                          # made when it is asked for
    records.values("topic")             # a column, without the texts
    records.take([5, 2]) + records.take([0])

As objects they would take more than twice the memory, and eight times where each text holds an emoji.
"""

from array import array
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Generic, Self, TypeVar, cast, overload

from pydantic import BaseModel

from honest_persona.base.spool import IN_MEMORY_BYTES, Spool
from honest_persona.data.records import Record

Row = TypeVar("Row", bound=BaseModel)


class Kept(Sequence[Row], Generic[Row]):
    """Rows of one class in their order. Parts of them share what they are made from."""

    MODEL: ClassVar[type[BaseModel]]
    """The rows' class."""
    COLUMNS: ClassVar[tuple[str, ...]]
    """Short fields, which are kept beside the JSON."""

    def __init__(self, store: "_Store", places: Sequence[int]) -> None:
        """Args:
        places: of these rows in the store.
        """
        self._store, self._places = store, places

    @classmethod
    def of(cls, rows: Iterable[Row], in_memory_bytes: int = IN_MEMORY_BYTES) -> Self:
        """Raises UserError: the disk is full."""
        if isinstance(rows, cls):
            return rows
        store = _Store(cls.MODEL, cls.COLUMNS, rows, in_memory_bytes)
        return cls(store, range(len(store.columns["id"])))

    def take(self, places: Iterable[int]) -> Self:
        return type(self)(self._store, array("q", (self._places[place] for place in places)))

    def values(self, name: str) -> list[Any]:
        """A short field of each row."""
        column = self._store.columns[name]
        return [column[place] for place in self._places]

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> "Row | Self":
        if isinstance(index, slice):
            return type(self)(self._store, self._places[index])
        return cast(Row, self._store.row(self._places[index]))

    def __add__(self, other: Self) -> Self:
        if other._store is self._store:
            return type(self)(self._store, array("q", [*self._places, *other._places]))
        return type(self).of(row for part in (self, other) for row in part)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as a list's

    def __repr__(self) -> str:
        return f"<{len(self)} {self.MODEL.__name__.lower()} rows>"


class Records(Kept[Record]):
    """Records in their order."""

    MODEL = Record
    COLUMNS = (
        *("id", "item_id", "cluster", "topic", "variant", "flag", "split", "model", "intervention_name", "is_plain"),
    )


class _Store:
    def __init__(
        self, model: type[BaseModel], names: Sequence[str], rows: Iterable[BaseModel], in_memory_bytes: int
    ) -> None:
        self._model = model
        self.columns: dict[str, list[Any]] = {name: [] for name in names}
        self._ends = array("q", [0])
        once: dict[Any, Any] = {}  # equal values are one object
        with Spool(in_memory_bytes) as spool:
            for row in rows:
                spool.write(row.model_dump_json().encode())
                self._ends.append(spool.size_bytes)
                for name, column in self.columns.items():
                    value = getattr(row, name)
                    column.append(once.setdefault(value, value))
        self._json = spool.view()

    def row(self, place: int) -> BaseModel:
        return self._model.model_validate_json(self._json[self._ends[place] : self._ends[place + 1]])
