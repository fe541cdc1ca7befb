"""Rows that hold a conversation which an earlier row held: counted, because two labels of one answer teach nothing."""

from collections.abc import Mapping
from typing import Any

SAME_LABEL = "the conversation of an earlier row, with the same label: it counts twice"
OTHER_LABEL = "the conversation of an earlier row, with the OTHER label: the two contradict each other"


class Repeats:
    """The conversations so far, by a number each."""

    def __init__(self) -> None:
        self._flags: dict[int, str] = {}

    def note(self, values: Mapping[str, Any]) -> str | None:
        """What to say of a record's columns; None where the conversation is new."""
        shown = ("system", "task", "turns", "response", "answer_fields", "tools", "intervention")
        key = hash(tuple(str(values[name]) for name in shown))
        first = self._flags.setdefault(key, "")
        if not first:
            self._flags[key] = values["flag"]
            return None
        return SAME_LABEL if first == values["flag"] else OTHER_LABEL
