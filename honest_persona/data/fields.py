"""Reads values out of parsed rows and checks each one; a wrong value is raised with its place in the file."""

import ast
import math
from collections.abc import Mapping
from typing import Any

from honest_persona.data.rejections import KNOWN_FLAGS, Rejection
from honest_persona.data.strict_json import RepeatedKey, has_surrogates, loads

DEEPEST = 100
"""Levels of nesting that values may have; what reads and writes JSON stops at about a thousand."""
SPLITS = (None, "train", "validation")


class Refused(Exception):
    """One intervention cannot be used; its reader turns this error into a rejection."""

    def __init__(self, place: str, field: str, reason: str, said: str = "") -> None:
        super().__init__(reason)
        self.place, self.field, self.reason, self.said = place, field, reason, said

    def rejection(self, file: str, record_id: str | None = None) -> Rejection:
        return Rejection(file, self.place, self.field, self.reason, record_id, said=self.said)


def checked(value: Any, kind: type, place: str, field: str) -> Any:
    if isinstance(value, RepeatedKey):
        raise Refused(place, field, f"repeated_key:{value.key}")
    if not isinstance(value, kind):
        raise Refused(place, field, f"wrong_type:{field}")
    if isinstance(value, str) and has_surrogates(value):
        raise Refused(place, field, f"not_unicode:{field}")
    return value


def checked_throughout(value: Any, place: str, field: str) -> Any:
    """A nested value as JSON can hold it: no repeated key, no lone surrogate, no NaN, not nested too deep."""
    inside = [(value, 0)]
    while inside:
        part, depth = inside.pop()
        checked(part, object, place, field)
        if isinstance(part, float) and not math.isfinite(part):
            raise Refused(place, field, f"not_finite:{field}")
        if depth > DEEPEST:
            raise Refused(place, field, f"nested_too_deep:{field}")
        if isinstance(part, dict):
            inside += [(checked(key, str, place, field), depth + 1) for key in part]
            inside += [(element, depth + 1) for element in part.values()]
        elif isinstance(part, list):
            inside += [(element, depth + 1) for element in part]
    return value


def get(owner: Mapping[str, Any], name: str, kind: type, place: str, sep: str = ".") -> Any:
    here = f"{place}{sep}{name}" if place else name
    if name not in owner:
        raise Refused(here, name, f"missing_field:{name}")
    return checked(owner[name], kind, here, name)


def optional_text(owner: Mapping[str, Any], name: str, place: str, sep: str = ".") -> str | None:
    return None if owner.get(name) is None else get(owner, name, str, place, sep)


def name_of(owner: Mapping[str, Any], name: str, place: str, sep: str = ".") -> str:
    """A name that may be written as a whole number."""
    value = owner.get(name)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else get(owner, name, str, place, sep)


def flag_of(flag: str) -> str:
    """The flag in capitals, where it is one; other text as it is."""
    return flag.strip().upper() if flag.strip().upper() in KNOWN_FLAGS else flag


def unpacked(value: Any) -> Any:
    """A list or an object that a table keeps as text, as JSON or as Python writes it; everything else as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    for parse in (loads, ast.literal_eval):
        try:
            return parse(value.strip())
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue  # text of another kind: the caller says what is asked for
    return value


def tags_of(owner: Mapping[str, Any], place: str, sep: str = ".") -> tuple[str, ...]:
    tags = get({**owner, "tags": unpacked(owner["tags"])} if "tags" in owner else owner, "tags", list, place, sep)
    return tuple(checked(tag, str, f"{place}{sep}tags[{index}]", "tags") for index, tag in enumerate(tags))


def one_of(choices: tuple[str | None, ...], value: str | None, place: str, field: str) -> str | None:
    if value not in choices:
        raise Refused(place, field, f"unknown_{field}")
    return value
