"""Calls of tools, and the tools that could be called, in OpenAI's form; other forms are turned into that form."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from honest_persona.data.fields import DEEPEST, unpacked
from honest_persona.data.messages import Unusable, said, text_at
from honest_persona.data.strict_json import RepeatedKey, loads


def calls_at(place: str, value: Any) -> list[dict[str, Any]]:
    """An answer's `tool_calls`: {"type": "function", "id"?, "function": {"name", "arguments": {...}}} each.

    Arguments may be given as an object or as its JSON, a call without the wrapper, as {"name", "arguments"}, and one
    call alone without the list.

    Raises:
        Unusable: no list of calls, or a call that is none of a function.
    """
    if isinstance(value := _unpacked(place, value), Mapping):
        return [call_at(place, value)]
    return [call_at(f"{place}[{i}]", call) for i, call in enumerate(list_at(place, value))]


def call_at(place: str, value: Any) -> dict[str, Any]:
    value = _object_at(place, value)
    kind = value.get("type")
    if kind not in (None, "function", "tool_call"):
        raise Unusable(f"{place}.type", "unknown_call", f"is {_shown(kind)}; calls of functions alone can be shown")
    wrapped = value.get("function") is not None
    inner = _object_at(f"{place}.function", value["function"]) if wrapped else value
    at = f"{place}.function" if wrapped else place
    key = next((key for key in ("arguments", "args", "input") if inner.get(key) is not None), "arguments")
    function = {
        "name": text_at(f"{at}.name", inner.get("name")),
        "arguments": _arguments_at(f"{at}.{key}", inner.get(key)),
    }
    call_id = {} if value.get("id") is None else {"id": id_at(f"{place}.id", value["id"])}
    return {"type": "function", **call_id, "function": function}


def tools_at(place: str, value: Any) -> list[dict[str, Any]] | None:
    """The tools beside a conversation: {"type": "function", "function": {"name", "description"?, "parameters"?}} each.

    None and an empty list give None. The wrapper may be missing; `input_schema` is taken for `parameters`.

    Raises:
        Unusable: no list of tools, or a tool that is no function.
    """
    return [_tool_at(f"{place}[{i}]", tool) for i, tool in enumerate(list_at(place, value))] or None


def _tool_at(place: str, value: Any) -> dict[str, Any]:
    value = _object_at(place, value)
    if value.get("type") not in (None, "function", "custom") or (value.get("type") == "custom" and "custom" in value):
        message = f"is {_shown(value['type'])}; tools that are functions alone can be shown"
        raise Unusable(f"{place}.type", "unknown_tool", message)
    wrapped = value.get("function") is not None
    at = f"{place}.function" if wrapped else place
    inner = _object_at(at, value["function"]) if wrapped else value
    text_at(f"{at}.name", inner.get("name"))
    # null stands for absence: tables give every row the keys of all rows
    function = {key: part for key, part in inner.items() if part is not None and (wrapped or key != "type")}
    if "input_schema" in function:
        function.setdefault("parameters", function.pop("input_schema"))
    json_at(at, function)
    return {"type": "function", "function": function}


def list_at(place: str, value: Any) -> list[Any]:
    """A list, or the list that a text holds, as in the cells of tables. None gives an empty list."""
    value = _unpacked(place, value)
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise Unusable(place, "not_a_list", f"is {said(value)}, but must be a list")
    return list(value)


def id_at(place: str, value: Any) -> str:
    """The name of a call; a whole number is written as text."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else text_at(place, value)


def json_at(place: str, value: Any, may_be_nan: bool = False) -> None:
    """Raises Unusable: JSON or Unicode cannot hold the value, or a key is repeated in it."""
    waiting = [(place, value, 0)]
    while waiting:
        here, part, depth = waiting.pop()
        inside: Iterable[tuple[str, Any]] = ()
        if depth > DEEPEST:
            raise Unusable(place, "too_deep", f"is nested more than {DEEPEST} levels deep; make it flatter")
        if isinstance(part, Mapping):
            for key in part:
                text_at(f"{here}, a key", key, may_be_empty=True)
            inside = ((f"{here}.{key}", item) for key, item in part.items())
        elif isinstance(part, list | tuple):
            inside = ((f"{here}[{i}]", item) for i, item in enumerate(part))
        elif isinstance(part, float) and not (may_be_nan or math.isfinite(part)):
            raise Unusable(here, "not_json", f"is {part}, which is no number in JSON; write it as text")
        elif not isinstance(part, int | float | None):
            text_at(here, part, may_be_empty=True)
        waiting += [(inner, item, depth + 1) for inner, item in inside]


def _arguments_at(place: str, value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        value = _parsed(place, value) if value.strip() else {}
    arguments = {} if value is None else _object_at(place, value)
    json_at(place, arguments)
    return arguments


def _unpacked(place: str, value: Any) -> Any:
    """What a table keeps as text; everything else as it is."""
    value = unpacked(value)
    return _parsed(place, value) if isinstance(value, str) else value


def _parsed(place: str, text: str) -> Any:
    try:
        return loads(text)
    except json.JSONDecodeError as error:
        found = f"is text that is no valid JSON (character {error.pos + 1}: {error.msg})"
        raise Unusable(place, "not_json", f"{found}; mend the JSON, or give the value itself") from None
    except RecursionError:
        raise Unusable(place, "too_deep", "is nested too deep; make it flatter") from None


def _object_at(place: str, value: Any) -> dict[str, Any]:
    if isinstance(value, RepeatedKey):
        raise Unusable(place, "repeated_key", f"repeated key {value.key!r}; keep one of the two")
    if not isinstance(value, Mapping):
        raise Unusable(place, "not_an_object", f"is {said(value)}, but must be an object")
    return dict(value)


def _shown(value: Any) -> str:
    return repr(value)[:40] if isinstance(value, str) else said(value)
