"""A row by our names of its columns: which of the user's columns is which, and values with the places they stand at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from honest_persona.data.fields import checked
from honest_persona.data.sources.column_names import spelled

NEEDED = ("task", "response", "flag", "label", "chosen", "rejected")
"""Columns in which an empty cell is no absent value: it may be empty by mistake."""
_SPLIT_OF = {
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
    "eval": "validation",
    "test": "validation",
}
_SPLIT_OF |= {"training": "train", "held_out": "validation", "heldout": "validation"}


@dataclass(frozen=True)
class NamedRow:
    """A row by our names, with the user's names for the places of what is wrong."""

    own: dict[str, Any]
    names: dict[str, str]
    place: str

    def at(self, ours: str) -> str:
        return f"{self.place}, {self.names.get(ours, ours)}"

    def text(self, ours: str) -> str | None:
        value = self.own.get(ours)
        return None if value is None else checked(value, str, self.at(ours), self.names[ours])

    def name(self, ours: str) -> str | None:
        """A text, or a whole number as one."""
        value = self.own.get(ours)
        if isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1:
            return str(int(value))
        return self.text(ours)

    def split(self) -> str | None:
        """The part that the row names, in our words where it is one of the usual ones."""
        split = self.text("split")
        return None if split is None else _SPLIT_OF.get(split.strip().lower(), split.strip().lower())


def is_given(row: Mapping[str, Any], ours: str, theirs: str) -> bool:
    """Whether the row has a value there. An empty cell of a table is none, but in columns of `NEEDED`."""
    return row.get(theirs) is not None and (row[theirs] != "" or ours in NEEDED)


def usual_columns(
    row: Mapping[str, Any], mapped: Mapping[str, str | None], usual: Mapping[str, Sequence[str]]
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Our names of the row's columns with the user's: those that `mapped` names, and for all others every candidate.

    Args:
        usual: the names under which a column is found; the candidates of a column are in the order of these.
    """
    ours_of = {name: ours for ours, names in usual.items() for name in names}
    taken = set(mapped.values())
    named = {ours: theirs for ours, theirs in mapped.items() if theirs is not None and is_given(row, ours, theirs)}
    found: dict[str, list[str]] = {}
    for name in row:
        ours = ours_of.get(spelled(name))
        if ours is not None and ours not in mapped and name not in taken and is_given(row, ours, name):
            found.setdefault(ours, []).append(name)
    for ours, names in found.items():
        names.sort(key=lambda name, order=usual[ours]: (order.index(spelled(name)), name))  # type: ignore[misc]
    return named, found
