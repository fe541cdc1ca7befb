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
from honest_persona.data.raw_messages import first_of, is_used, messages_of, role_of, text_of
from honest_persona.data.sources.column_names import spelled
from honest_persona.data.tool_calls import list_at, tools_at

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
_NAMES = {*MESSAGES_KEYS, *TOOLS_KEYS, *SYSTEM_KEYS, *ASKED_KEYS, "input", *ANSWERED_KEYS, "intervention", "id"}


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
        tools_key = first_of(line, TOOLS_KEYS)
        tools = tools_at(tools_key, line[tools_key]) if tools_key else None
    except Unusable as unusable:
        problems.append(unusable.problem)
    try:
        placed = _raw_messages(line)
    except Unusable as unusable:
        return [*problems, unusable.problem]
    for place, raw in placed:
        try:
            found += [(place, made) for made in messages_of(place, raw)]
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
    messages = first_of(line, MESSAGES_KEYS)
    own: list[str | None] = [messages or first_of(line, ASKED_KEYS)]
    if messages is None or not is_answered(line[messages]):
        own.append(first_of(line, ANSWERED_KEYS))
    absent = [key for key in (*MESSAGES_KEYS, *TOOLS_KEYS) if line.get(key) is None]
    return {key for key in (*own, first_of(line, TOOLS_KEYS), first_of(line, SYSTEM_KEYS), *absent) if key}


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
        if value not in (None, "", [], {}) and not is_used(key, message)
    }


def is_answered(messages: Any) -> bool:
    """Whether an assistant's message is the last one of messages as people have them."""
    messages = unpacked(messages)
    return isinstance(messages, list | tuple) and bool(messages) and role_of(messages[-1]) == "assistant"


def messages_in(value: Any) -> list[Any] | None:
    """The messages that a prompt or an answer consists of; None where it is a text, as `[1, 2]` and `[]` are."""
    found = unpacked(value)
    if not isinstance(found, list | tuple):
        return None
    is_text = isinstance(value, str) and not (found and all(map(role_of, found)))
    return None if is_text else list(found)


def _raw_messages(line: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The messages as they are given, each with its place."""
    key = first_of(line, MESSAGES_KEYS)
    asked, answered = first_of(line, ASKED_KEYS), first_of(line, ANSWERED_KEYS)
    if key is None and asked and answered:
        placed = [*_turns(asked, "user", line[asked]), *_turns(answered, "assistant", line[answered])]
        if not placed:
            raise Unusable(asked, "no_messages", f"is empty, as {answered} is; write their texts")
        return placed
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
    key = first_of(line, SYSTEM_KEYS)
    if key is None:
        return []
    text = text_of(key, line[key])
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
    messages, beside = first_of(line, MESSAGES_KEYS), first_of(line, ANSWERED_KEYS)
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
