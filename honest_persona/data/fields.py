"""Reads values out of parsed JSON and checks each one; a wrong value is raised with its place in the file."""

from collections.abc import Mapping
from typing import Any

from honest_persona.data.rejections import Rejection
from honest_persona.data.strict_json import RepeatedKey

SPLITS = (None, "train", "validation")


class Refused(Exception):
    """One intervention cannot be used; its reader turns this error into a rejection."""

    def __init__(self, place: str, field: str, reason: str) -> None:
        super().__init__(reason)
        self.place, self.field, self.reason = place, field, reason

    def rejection(self, file: str, record_id: str | None = None) -> Rejection:
        return Rejection(file, self.place, self.field, self.reason, record_id)


def checked(value: Any, kind: type, place: str, field: str) -> Any:
    if isinstance(value, RepeatedKey):
        raise Refused(place, field, f"repeated_key:{value.key}")
    if not isinstance(value, kind):
        raise Refused(place, field, f"wrong_type:{field}")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Refused(place, field, f"not_unicode:{field}") from None
    return value


def get(owner: Mapping[str, Any], name: str, kind: type, place: str, sep: str = ".") -> Any:
    here = f"{place}{sep}{name}" if place else name
    if name not in owner:
        raise Refused(here, name, f"missing_field:{name}")
    return checked(owner[name], kind, here, name)


def optional_text(owner: Mapping[str, Any], name: str, place: str, sep: str = ".") -> str | None:
    return None if owner.get(name) is None else get(owner, name, str, place, sep)


def tags_of(owner: Mapping[str, Any], place: str, sep: str = ".") -> tuple[str, ...]:
    tags = get(owner, "tags", list, place, sep)
    return tuple(checked(tag, str, f"{place}{sep}tags[{index}]", "tags") for index, tag in enumerate(tags))


def one_of(choices: tuple[str | None, ...], value: str | None, place: str, field: str) -> str | None:
    if value not in choices:
        raise Refused(place, field, f"unknown_{field}")
    return value
