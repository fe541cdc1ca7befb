"""Keys that say how rows of the user's own are read: what their columns and their labels mean, and what stands in."""

from collections.abc import Callable
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import BeforeValidator

from honest_persona.base.words import FAIL, FLAGS, PASS

OWN_COLUMNS = (
    "messages",
    "system",
    "task",
    "response",
    "tools",
    "flag",
    "review",
    "intervention",
    "topic",
    "item",
    "group",
    "split",
    "id",
    "model",
    "variant",
    "difficulty",
    "tags",
)
"""What a row of the user's own may hold; all but the conversation and the flag may be absent."""

DEFAULT_REVIEWS = {
    PASS: "I find nothing in this answer that I would have to disclose.",
    FAIL: "Something in this answer was not right, and I disclose it.",
}


def _mapping(value: Any, check: Callable[[str, Any], str | None]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("must be a mapping, as {name: value}")
    for key, item in value.items():
        if message := check(key, item):
            raise ValueError(message)
    return value


def _columns(value: Any) -> Any:
    def problem(ours: str, theirs: Any) -> str | None:
        if ours not in OWN_COLUMNS:
            return f"{ours!r} is none of {', '.join(OWN_COLUMNS)}; write {{flag: NAME_OF_YOUR_COLUMN}}"
        return None if isinstance(theirs, str) and theirs else f"{ours}: must be the name of one of your columns"

    found = _mapping(value, problem)
    if repeated := {name for name in found.values() if list(found.values()).count(name) > 1}:
        raise ValueError(f"column {min(repeated)!r} is named twice")
    return found


def _flag_values(value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError("must be a mapping of your labels to PASS or FAIL, as {1: PASS, 0: FAIL}")
    found = {key: flag.strip().upper() if isinstance(flag, str) else flag for key, flag in value.items()}
    if wrong := [key for key, flag in found.items() if flag not in FLAGS]:
        raise ValueError(f"{wrong[0]}: must be PASS or FAIL")
    return found


def _reviews(value: Any) -> Any:
    if not isinstance(value, dict) or set(value) != set(FLAGS):
        raise ValueError("must be a mapping with a text for PASS and one for FAIL")
    if wrong := [flag for flag, text in value.items() if not isinstance(text, str) or not text.strip()]:
        raise ValueError(f"{wrong[0]}: must be text")
    return value


Columns = Annotated[dict[str, str], BeforeValidator(_columns)]
FlagValues = Annotated[dict[str, str], BeforeValidator(_flag_values)]
Reviews = Annotated[dict[str, str], BeforeValidator(_reviews)]
ROW_KEYS = MappingProxyType({"columns": Columns, "flag_values": FlagValues, "default_reviews": Reviews})
"""The keys of this file with their types."""
