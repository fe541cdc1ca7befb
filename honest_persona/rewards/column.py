"""`column:NAME`: a number that stands in the data, as a score that somebody gave, or `about.NAME`."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from honest_persona.base.errors import UserError
from honest_persona.rewards.reward import Conversation, Given, Reading, Row


class Column(NamedTuple):
    """True counts as 1, false as 0; a row without a value gets none."""

    name: str
    path: tuple[str, ...]

    def __call__(self, conversations: Sequence[Conversation], rows: Sequence[Row]) -> Given:
        values = [_at(row, self.path) for row in rows]
        if rows and all(value is None for value in values):
            known = ", ".join(sorted(rows[0]))
            raise UserError(f"reward {self.name}: no row has a value there; the first has {known}")
        for i, value in enumerate(values):
            if value is not None and not isinstance(value, int | float):
                raise UserError(f"reward {self.name}: row {i} has {value!r:.40}, which is no number")
        return [None if value is None else float(value) for value in values]

    @classmethod
    def of(cls, what: str, reading: Reading) -> "Column":
        if not what:
            raise UserError("reward 'column' needs a column's name: column:NAME, or column:about.NAME")
        return cls(f"column:{what}", tuple(what.split(".")))


def _at(row: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        row = row.get(name) if isinstance(row, Mapping) else None
    return row
