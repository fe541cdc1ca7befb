"""Keys that say how rows of the user's own are read: what their columns and their labels mean, and what stands in."""

from collections.abc import Callable
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import BeforeValidator

from honest_persona.base.words import FAIL, FLAGS, PASS, other

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
FEEDBACK_COLUMNS = (
    *("messages", "system", "task", "tools", "chosen", "rejected", "response", "responses", "label", "score", "scores"),
    *("margin", "chosen_score", "rejected_score", "topic", "group", "split", "id", "prompt_id", "model", "about"),
)
"""What a row of feedback may hold: a prompt, and whatever is known of answers to it."""

TRUE, FALSE = frozenset(("true", "yes", "y", "1")), frozenset(("false", "no", "n", "0"))
"""Labels, as `plain_label` writes them, that mean true and false."""

DEFAULT_REVIEWS = {
    PASS: "I find nothing in this answer that I would have to disclose.",
    FAIL: "Something in this answer was not right, and I disclose it.",
}


def plain_label(label: Any) -> str:
    """A label as it is compared: `True`, `true` and "True" are one, `1`, `1.0` and "1" another."""
    text = str(label).strip().lower()
    return text.removesuffix(".0") if text in ("1.0", "0.0") else text


def _mapping(value: Any, check: Callable[[str, Any], str | None]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("must be a mapping, as {name: value}")
    for key, item in value.items():
        if message := check(key, item):
            raise ValueError(message)
    return value


def _columns(value: Any) -> Any:
    def problem(ours: str, theirs: Any) -> str | None:
        if ours not in OWN_COLUMNS + FEEDBACK_COLUMNS:
            return f"{ours!r} is none of {', '.join(OWN_COLUMNS)}; write {{flag: NAME_OF_YOUR_COLUMN}}"
        if theirs is None or (isinstance(theirs, str) and theirs):
            return None
        return f"{ours}: must be the name of one of your columns, or null, which leaves {ours!r} out"

    found = _mapping(value, problem)
    names = [name for name in found.values() if name is not None]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"column {min(repeated)!r} is named twice")
    return found


def _flag_values(value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError("must be a mapping of your labels to PASS or FAIL, as {1: PASS, 0: FAIL}")
    found = {key: flag.strip().upper() if isinstance(flag, str) else flag for key, flag in value.items()}
    if wrong := [key for key, flag in found.items() if flag not in FLAGS]:
        raise ValueError(f"{wrong[0]}: must be PASS or FAIL")
    if contradiction := _contradiction(found):
        raise ValueError(contradiction)
    return found


def _contradiction(flags: dict[Any, str]) -> str | None:
    """What is wrong where two labels mean one thing and have two flags, or where true and false have one flag."""
    known: dict[str, tuple[Any, str]] = {}
    for label, flag in flags.items():
        plain = plain_label(label)
        is_truth = plain in TRUE | FALSE
        means = other(flag) if plain in FALSE else flag
        before, meant = known.setdefault("true" if is_truth else plain, (label, means))
        if meant != means:
            said = f"{before}: {flags[before]} and {label}: {flag} contradict each other"
            return f"{said}; 1, true and yes mean one flag, and 0, false and no the other" if is_truth else said
    return None


def _reviews(value: Any) -> Any:
    if not isinstance(value, dict) or set(value) != set(FLAGS):
        raise ValueError("must be a mapping with a text for PASS and one for FAIL")
    if wrong := [flag for flag, text in value.items() if not isinstance(text, str) or not text.strip()]:
        raise ValueError(f"{wrong[0]}: must be text")
    return value


Columns = Annotated[dict[str, str | None], BeforeValidator(_columns)]
FlagValues = Annotated[dict[str, str], BeforeValidator(_flag_values)]
Reviews = Annotated[dict[str, str], BeforeValidator(_reviews)]
ROW_KEYS = MappingProxyType({"columns": Columns, "flag_values": FlagValues, "default_reviews": Reviews})
"""The keys of this file with their types."""
