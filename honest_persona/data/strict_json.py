"""JSON in which nothing is passed over: a repeated key is told, where Python's own reader lets the last value win.

A number of any length is read, too: Python refuses integers beyond 4,300 digits with an error that has no place.
"""

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

_INT_DIGITS = 18


@dataclass(frozen=True)
class RepeatedKey:
    """Stands for an object that gives a key more than once: which of its values is meant cannot be known."""

    key: str
    """Lone surrogates in it as escapes, so that it can be printed."""


def loads(text: str) -> Any:
    """As `json.loads`, with its errors; a repeated key gives a `RepeatedKey`, a longer whole number a float."""
    return json.loads(text, object_pairs_hook=_object, parse_int=_whole)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | RepeatedKey:
    values = dict(pairs)
    if len(values) == len(pairs):
        return values
    repeated = Counter(key for key, _ in pairs).most_common(1)[0][0]
    return RepeatedKey(repeated.encode("utf-8", "backslashreplace").decode())


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) <= _INT_DIGITS else float(digits)
