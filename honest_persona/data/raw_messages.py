"""One message as people have it, made into messages of one form."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from honest_persona.data.messages import Message, Unusable, said, text_at
from honest_persona.data.strict_json import RepeatedKey
from honest_persona.data.tool_calls import call_at, calls_at, id_at

_ROLES = {
    "system": ("system", "developer"),
    "user": ("user", "human"),
    "assistant": ("assistant", "gpt", "chatgpt", "model", "ai", "bot", "function_call"),
    "tool": ("tool", "function", "observation", "function_response", "tool_response", "ipython"),
}
_ROLE_KEYS = ("role", "from")
_ROLE_OF = {name: role for role, names in _ROLES.items() for name in names}
_TEXT_PARTS = ("text", "input_text", "output_text")
_REASONING = ("reasoning_content", "reasoning", "thinking")
_USED_BY_ALL = (*_ROLE_KEYS, "content", "value")
_USED_BY = {
    "assistant": {*_USED_BY_ALL, *_REASONING, "refusal", "tool_calls", "function_call"},
    "tool": {*_USED_BY_ALL, "tool_call_id", "name"},
}
"""The keys of a message that are read, by its role; those of every message where the role is not named here."""
_MEDIA = ("audio", "image", "images", "video", "videos")


def role_of(message: Any) -> str | None:
    """The role of a message as people have it; None where it has none that is known."""
    key = first_of(message, _ROLE_KEYS) if isinstance(message, Mapping) else None
    given = message[key] if key else None
    return _ROLE_OF.get(given.strip().lower()) if isinstance(given, str) else None


def is_used(key: str, message: Mapping[str, Any]) -> bool:
    """Whether a key of a message is read."""
    role = role_of(message)
    if key == "from" and message.get("role") is not None:
        return role_of({"from": message["from"]}) == role  # else it may be the name of a speaker
    return key in _USED_BY.get(role or "", _USED_BY_ALL)


def messages_of(place: str, raw: Any) -> list[Message]:
    """One message, or several where a user's turn holds the results of tools as parts of its content."""
    if isinstance(raw, RepeatedKey):
        raise Unusable(place, "repeated_key", f"repeated key {raw.key!r}; keep one of the two")
    if not isinstance(raw, Mapping):
        raise Unusable(place, "not_an_object", f"is {said(raw)}, but must be an object with role and content")
    role_key = first_of(raw, _ROLE_KEYS) or "role"
    content_key = _content_key(place, raw)
    given, content = raw.get(role_key), raw.get(content_key)
    role = role_of(raw)
    if role is None:
        known = ", ".join(_ROLES)
        shown = repr(given)[:40] if isinstance(given, str) else said(given)
        raise Unusable(f"{place}.{role_key}", "unknown_role", f"{shown} is unknown; use {known}")
    by_from = role_of({"from": raw.get("from")})
    if raw.get("role") is not None and by_from not in (None, role):
        raise Unusable(f"{place}.from", "two_values", f"says {by_from}, but role says {role}; keep one of the two")
    for name in _MEDIA:
        if raw.get(name):
            raise Unusable(f"{place}.{name}", "not_text", _no_media(name))
    at = f"{place}.{content_key}"
    if role == "assistant":
        if str(given).strip().lower() == "function_call":
            raw, content = {**raw, "tool_calls": content}, None
        return [_answer(place, at, raw, content)]
    for name in ("tool_calls", "function_call"):
        if raw.get(name):
            raise Unusable(f"{place}.{name}", "unknown_call", "only an assistant's message can call tools")
    if role == "tool":
        return [_result(place, raw, text_of(at, content))]
    if role == "user" and isinstance(content, list | tuple) and "tool_result" in map(_part_kind, content):
        return list(_turns_with_results(at, content))
    return [Message(role=role, content=text_of(at, content))]


def text_of(place: str, content: Any) -> str:
    """A content's text: the content itself, or its parts joined."""
    if isinstance(content, list | tuple):
        return "".join(_part_text(f"{place}[{i}]", part) for i, part in enumerate(content))
    return text_at(place, content, may_be_empty=True)


def first_of(line: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((name for name in names if line.get(name) is not None), None)


def _content_key(place: str, raw: Mapping[str, Any]) -> str:
    """The key of a message's content; an empty one gives way to the other."""
    given = [key for key in ("content", "value") if raw.get(key) is not None]
    full = [key for key in given if raw[key] not in ("", [])]
    if len(full) > 1 and raw["content"] != raw["value"]:
        raise Unusable(place, "two_values", "content and value have different texts; keep one of them")
    return (full or given or ["content"])[0]


def _answer(place: str, at: str, raw: Mapping[str, Any], content: Any) -> Message:
    parts = content if isinstance(content, list | tuple) else [] if content is None else [content]
    texts: list[str] = []
    thoughts = [text_at(f"{place}.{name}", raw[name], may_be_empty=True) for name in _REASONING if raw.get(name)]
    thoughts = list(dict.fromkeys(thoughts))
    if len(thoughts) > 1:
        names = " and ".join(name for name in _REASONING if raw.get(name))
        raise Unusable(place, "two_values", f"{names} have different texts; keep one of them")
    calls = calls_at(f"{place}.tool_calls", raw.get("tool_calls"))
    called = False
    if raw.get("function_call") is not None:
        calls.append(call_at(f"{place}.function_call", raw["function_call"]))
    for i, part in enumerate(parts):
        here = f"{at}[{i}]" if parts is content else at
        match _part_kind(part):
            case "thinking" | "reasoning":
                thought = part.get(part["type"], part.get("text"))
                thoughts.append(text_at(f"{here}.{part['type']}", thought, may_be_empty=True))
            case "tool_use" | "tool_call":
                calls.append(call_at(here, {**part, "type": None}))
                called = True
            case "refusal":
                texts.append(text_at(f"{here}.refusal", part.get("refusal")))
            case _ if called:
                raise Unusable(here, "text_after_call", "is text after a call; write it as a message of its own")
            case _:
                texts.append(_part_text(here, part))
    if raw.get("refusal"):
        texts.append(text_at(f"{place}.refusal", raw["refusal"]))
    if not texts and not calls:
        text_of(at, content)  # null, where nothing stands for it
    answer = Message(role="assistant", content="".join(texts))
    if reasoning := "\n\n".join(thought for thought in thoughts if thought.strip()):
        answer["reasoning_content"] = reasoning
    if calls:
        answer["tool_calls"] = calls
    return answer


def _result(place: str, raw: Mapping[str, Any], text: str) -> Message:
    message = Message(role="tool", content=text)
    if raw.get("tool_call_id") is not None:
        message["tool_call_id"] = id_at(f"{place}.tool_call_id", raw["tool_call_id"])
    if raw.get("name") is not None:
        message["name"] = text_at(f"{place}.name", raw["name"])
    return message


def _turns_with_results(at: str, parts: Sequence[Any]) -> Iterator[Message]:
    texts: list[str] = []
    for i, part in enumerate(parts):
        here = f"{at}[{i}]"
        if _part_kind(part) != "tool_result":
            texts.append(_part_text(here, part))
            continue
        if texts:
            yield Message(role="user", content="".join(texts))
            texts = []
        content = part.get("content")
        text = "" if content is None else text_of(f"{here}.content", content)
        yield _result(here, {"tool_call_id": part.get("tool_use_id")}, text)
    if texts:
        yield Message(role="user", content="".join(texts))


def _part_kind(part: Any) -> Any:
    return part.get("type") if isinstance(part, Mapping) else None


def _part_text(place: str, part: Any) -> str:
    if isinstance(part, Mapping):
        kind = part.get("type")
        if kind not in (*_TEXT_PARTS, None):
            name = repr(kind)[:40] if isinstance(kind, str) else said(kind)
            raise Unusable(place, "not_text", _no_media(name))
        return text_at(f"{place}.text", part.get("text"), may_be_empty=True)
    return text_at(place, part, may_be_empty=True)


def _no_media(name: str) -> str:
    return f"holds {name}, but the honest persona reads text alone; leave it out, or write it as text"
