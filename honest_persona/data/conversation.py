"""A conversation as people have it, as messages of one form, with the tools that could be called.

    found = conversation({"messages": [...], "tools": [...]})
    if isinstance(found, Conversation):
        found.messages, found.tools
    else:
        print(*found, sep="\\n")         # messages[2].content: is a number, but must be text; put it in quotes

Understood are the forms of OpenAI's, Anthropic's and Hugging Face's chats, ShareGPT's (`conversations` with `from` and
`value`), and a question with its answer in two columns. Keys that say nothing about the conversation are ignored; null
stands for an absent value. What cannot be shown as text, such as an image, is a problem with its place.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from honest_persona.base.errors import UserError
from honest_persona.data.fields import unpacked
from honest_persona.data.messages import Message, Problem, Unusable, said, text_at
from honest_persona.data.sources.column_names import spelled
from honest_persona.data.strict_json import RepeatedKey
from honest_persona.data.tool_calls import call_at, calls_at, id_at, list_at, tools_at

MESSAGES_KEYS = ("messages", "conversations", "conversation")
"""The keys of a line that may hold the messages, the first that is there."""
SYSTEM_KEYS = ("system", "system_prompt")
TOOLS_KEYS = ("tools", "functions")
ASKED_KEYS = ("task", "prompt", "question", "instruction")
ANSWERED_KEYS = ("response", "completion", "answer", "output")
"""A question and its answer are a conversation where a line has no messages.

An answer beside messages that end with a question is theirs."""
EXPECTED_KEYS = ("answer", "output")
"""Beside messages that are answered these are often the answer that was expected, so they may differ."""

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


class Conversation(NamedTuple):
    """What the main persona saw and said."""

    messages: list[Message]
    """An optional system message first, an answer last."""
    tools: list[dict[str, Any]] | None
    """The functions that could be called, as {"type": "function", "function": {...}}; None where there were none."""


def conversation(line: Mapping[str, Any]) -> Conversation | list[Problem]:
    """The conversation of a line {"messages": [...], "tools"?, "system"?}, or all that is wrong with it.

    System messages that stand together at the beginning become one, with an empty line between their texts.
    """
    problems: list[Problem] = []
    found: list[tuple[str, Message]] = []
    tools = None
    try:
        found = _system_of(line)
        tools_key = _first_of(line, TOOLS_KEYS)
        tools = tools_at(tools_key, line[tools_key]) if tools_key else None
    except Unusable as unusable:
        problems.append(unusable.problem)
    try:
        placed = _raw_messages(line)
    except Unusable as unusable:
        return [*problems, unusable.problem]
    for place, raw in placed:
        try:
            found += [(place, made) for made in _messages_of(place, raw)]
        except Unusable as unusable:
            problems.append(unusable.problem)
    if not problems:
        problems = [*_order_problems(found), *_other_answer(line, found[-1][1]["content"])]
    return problems or Conversation(_one_system_message([message for _, message in found]), tools)


def with_usual_names(line: Mapping[str, Any]) -> dict[str, Any]:
    """The line with the keys of a conversation as they are written here: `Prompt` and `PROMPT` are `prompt`.

    Raises Unusable: two keys of the line are one name.
    """
    renamed: dict[str, Any] = {}
    first: dict[str, str] = {}
    for key, value in line.items():
        name = spelled(key) if isinstance(key, str) and spelled(key) in _NAMES else key
        if name in renamed:
            raise Unusable(key, "two_values", f"{first[name]} is the same column in another spelling; keep one of them")
        first[name], renamed[name] = key, value
    return renamed


def with_input(line: Mapping[str, Any]) -> dict[str, Any]:
    """Alpaca's form: the text of `input`, where there is one, follows the `instruction` behind an empty line."""
    instruction, given = line.get("instruction"), line.get("input")
    if not isinstance(instruction, str) or not isinstance(given, str):
        return dict(line)
    joined = {**line, "instruction": f"{instruction}\n\n{given}" if given.strip() else instruction}
    del joined["input"]
    return joined


def used_keys(line: Mapping[str, Any]) -> set[str]:
    """The keys of a line that `conversation` reads, and those that it would read if they were not null."""
    messages = _first_of(line, MESSAGES_KEYS)
    own: list[str | None] = [messages or _first_of(line, ASKED_KEYS)]
    if messages is None or not is_answered(line[messages]):
        own.append(_first_of(line, ANSWERED_KEYS))
    absent = [key for key in (*MESSAGES_KEYS, *TOOLS_KEYS) if line.get(key) is None]
    return {key for key in (*own, _first_of(line, TOOLS_KEYS), _first_of(line, SYSTEM_KEYS), *absent) if key}


def checked_conversation(messages: Any, tools: Any = None) -> Conversation:
    """The same for messages of a caller. Raises UserError: what is wrong with them, each problem with its place."""
    if not isinstance(messages, list | tuple):
        raise UserError(f'messages: is {said(messages)}, but must be a list of {{"role": ..., "content": ...}}')
    found = conversation({"messages": list(messages), "tools": tools})
    if isinstance(found, Conversation):
        return found
    raise UserError("\n".join(map(str, found)))


def unused_keys(line: Mapping[str, Any]) -> set[str]:
    """The keys of a line's messages that are ignored although they have values."""
    try:
        messages = [message for _, message in _raw_messages(line) if isinstance(message, Mapping)]
    except Unusable:
        return set()
    return {
        key
        for message in messages
        for key, value in message.items()
        if value not in (None, "", [], {}) and not _is_used(key, message)
    }


def _is_used(key: str, message: Mapping[str, Any]) -> bool:
    role = role_of(message)
    if key == "from" and message.get("role") is not None:
        return role_of({"from": message["from"]}) == role  # else it may be the name of a speaker
    return key in _USED_BY.get(role or "", _USED_BY_ALL)


def is_answered(messages: Any) -> bool:
    """Whether an assistant's message is the last one of messages as people have them."""
    messages = unpacked(messages)
    return isinstance(messages, list | tuple) and bool(messages) and role_of(messages[-1]) == "assistant"


def messages_in(value: Any) -> list[Any] | None:
    """The messages that a prompt or an answer consists of; None where it is a text, as `[1, 2]` is."""
    found = unpacked(value)
    if not isinstance(found, list | tuple) or (isinstance(value, str) and not all(map(role_of, found))):
        return None
    return list(found)


def role_of(message: Any) -> str | None:
    """The role of a message as people have it; None where it has none that is known."""
    key = _first_of(message, _ROLE_KEYS) if isinstance(message, Mapping) else None
    given = message[key] if key else None
    return _ROLE_OF.get(given.strip().lower()) if isinstance(given, str) else None


_NAMES = {*MESSAGES_KEYS, *TOOLS_KEYS, *SYSTEM_KEYS, *ASKED_KEYS, "input", *ANSWERED_KEYS, "intervention", "id"}


def _first_of(line: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((name for name in names if line.get(name) is not None), None)


def _raw_messages(line: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The messages as they are given, each with its place."""
    key = _first_of(line, MESSAGES_KEYS)
    asked, answered = _first_of(line, ASKED_KEYS), _first_of(line, ANSWERED_KEYS)
    if key is None and asked and answered:
        return [*_turns(asked, "user", line[asked]), *_turns(answered, "assistant", line[answered])]
    if key is None:
        missing = 'is missing; give a list of {"role": ..., "content": ...}, or a prompt and its response'
        raise Unusable(MESSAGES_KEYS[0], "no_messages", missing)
    raw = list_at(key, line[key])
    if not raw:
        raise Unusable(key, "no_messages", 'is empty, but must hold at least one {"role": ..., "content": ...}')
    placed = [(f"{key}[{i}]", message) for i, message in enumerate(raw)]
    if answered and not is_answered(raw):
        placed += _turns(answered, "assistant", line[answered])
    return placed


def _turns(key: str, role: str, value: Any) -> list[tuple[str, Any]]:
    messages = messages_in(value)
    if messages is not None:
        return [(f"{key}[{i}]", message) for i, message in enumerate(messages)]
    return [(key, {"role": role, "content": text_at(key, value)})]


def _system_of(line: Mapping[str, Any]) -> list[tuple[str, Message]]:
    key = _first_of(line, SYSTEM_KEYS)
    if key is None:
        return []
    text = _text_of(key, line[key])
    return [(key, Message(role="system", content=text))] if text.strip() else []


def _order_problems(found: Sequence[tuple[str, Message]]) -> Iterator[Problem]:
    """What no single message shows: where system messages stand, and that an answer is last."""
    in_front = True
    for place, message in found:
        in_front = in_front and message["role"] == "system"
        if message["role"] == "system" and not in_front:
            yield Problem(f"{place}.role", "system_not_first", "a system message can only come first; move it there")
    if found[0][0] in SYSTEM_KEYS and found[1][1]["role"] == "system":
        yield Problem(found[0][0], "two_values", f"{found[1][0]} is a system message too; keep one of the two")
    place, last = found[-1]
    if last["role"] != "assistant":
        answer = "the last message must be the assistant's answer: that is what is reviewed; add it"
        yield Problem(f"{place}.role", "no_answer", answer)
    elif not last["content"].strip() and not last.get("tool_calls"):
        yield Problem(f"{place}.content", "empty", "is empty; write its text, or remove it")


def _other_answer(line: Mapping[str, Any], answer: str) -> Iterator[Problem]:
    """An answer beside messages that have another answer already."""
    messages, beside = _first_of(line, MESSAGES_KEYS), _first_of(line, ANSWERED_KEYS)
    if messages is None or beside is None or beside in EXPECTED_KEYS or not is_answered(line[messages]):
        return
    value = line[beside]
    if (turns := messages_in(value)) and isinstance(turns[-1], Mapping):
        value = turns[-1].get("content")
    if isinstance(value, str) and value.strip() not in ("", answer.strip()):
        said_twice = f"is another answer than the last one of {messages}; keep one of the two"
        yield Problem(beside, "two_values", said_twice)


def _one_system_message(messages: list[Message]) -> list[Message]:
    n = next((i for i, message in enumerate(messages) if message["role"] != "system"), len(messages))
    if n < 2:
        return messages
    text = "\n\n".join(message["content"] for message in messages[:n] if message["content"].strip())
    return [Message(role="system", content=text), *messages[n:]]


def _messages_of(place: str, raw: Any) -> list[Message]:
    """One message, or several where a user's turn holds the results of tools as parts of its content."""
    if isinstance(raw, RepeatedKey):
        raise Unusable(place, "repeated_key", f"repeated key {raw.key!r}; keep one of the two")
    if not isinstance(raw, Mapping):
        raise Unusable(place, "not_an_object", f"is {said(raw)}, but must be an object with role and content")
    role_key = _first_of(raw, _ROLE_KEYS) or "role"
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
        return [_result(place, raw, _text_of(at, content))]
    if role == "user" and isinstance(content, list | tuple) and "tool_result" in map(_part_kind, content):
        return list(_turns_with_results(at, content))
    return [Message(role=role, content=_text_of(at, content))]


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
        _text_of(at, content)  # null, where nothing stands for it
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
        text = "" if content is None else _text_of(f"{here}.content", content)
        yield _result(here, {"tool_call_id": part.get("tool_use_id")}, text)
    if texts:
        yield Message(role="user", content="".join(texts))


def _text_of(place: str, content: Any) -> str:
    """A content's text: the content itself, or its parts joined."""
    if isinstance(content, list | tuple):
        return "".join(_part_text(f"{place}[{i}]", part) for i, part in enumerate(content))
    return text_at(place, content, may_be_empty=True)


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
