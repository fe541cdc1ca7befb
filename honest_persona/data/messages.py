"""Messages of a conversation: what they may hold, and what is wrong with those that are not so."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Required, TypedDict

from honest_persona.base import json_text
from honest_persona.base.errors import UserError
from honest_persona.data.strict_json import RepeatedKey

ROLES = ("system", "user", "assistant")


class Message(TypedDict, total=False):
    """One turn of a conversation, as chat templates take it."""

    role: Required[str]
    content: Required[str]
    reasoning_content: str
    """What an answer's writer thought before the answer."""
    tool_calls: list[dict[str, Any]]
    """The functions that an answer calls: {"type": "function", "id"?, "function": {"name", "arguments": {...}}}."""
    tool_call_id: str
    """The call that a tool's result belongs to."""
    name: str
    """The tool that gave a result."""


ANSWER_FIELDS = ("reasoning_content", "tool_calls")
"""What an answer may hold beside its content."""


def transcript(
    system: str,
    turns: Sequence[Message],
    response: str,
    answer_fields: Mapping[str, Any] | None = None,
) -> list[Message]:
    """The messages of a conversation that ends with an answer; without a system prompt where that has no text."""
    answer: Message = {"role": "assistant", "content": response, **(answer_fields or {})}  # type: ignore[typeddict-item]
    return [*([Message(role="system", content=system)] if system.strip() else []), *turns, answer]


def transcript_id(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None) -> str:
    """First 16 hex digits of the SHA-256 of JSON [[role, content], ...]: equal contents have one id.

    A message's other fields follow as an object, and the tools as a last element, where there are such.
    """
    content = [_identity(message) for message in messages]
    return hashlib.sha256(json_text.dumps([*content, *([tools] if tools else [])]).encode()).hexdigest()[:16]


def _identity(message: Message) -> list[Any]:
    others = {key: value for key, value in sorted(message.items()) if key not in ("role", "content")}
    return [message["role"], message["content"], *([others] if others else [])]


def message_problems(messages: Any) -> Iterator[str]:
    """What is wrong with the messages of a conversation to review, each problem with its place and its remedy."""
    if not isinstance(messages, list) or not messages:
        yield 'messages: must be a list with at least one {"role": ..., "content": ...}'
        return
    for i, message in enumerate(messages):
        place = f"messages[{i}]"
        if isinstance(message, RepeatedKey):
            yield f"{place}: repeated key {message.key!r}; keep one of the two"
            continue
        if not isinstance(message, dict) or message.keys() != {"role", "content"}:
            yield f"{place}: must be an object with role and content, and nothing else"
            continue
        if message["role"] not in ROLES:
            yield f"{place}.role: {message['role']!r} is unknown; use {', '.join(ROLES)}"
        elif message["role"] == "system" and i > 0:
            yield f"{place}.role: a system message can only come first; move it there"
        is_answer = i == len(messages) - 1
        yield from text_problems(f"{place}.content", message["content"], may_be_empty=not is_answer)
        if is_answer and message["role"] in ("system", "user"):
            yield f"{place}.role: the last message must be the assistant's answer: that is what is reviewed; add it"


def check_text(place: str, value: Any) -> None:
    """Raises UserError: no text, an empty one, or one that no tokenizer can encode."""
    for problem in text_problems(place, value):
        raise UserError(problem)


def text_problems(place: str, value: Any, may_be_empty: bool = False) -> Iterator[str]:
    if not isinstance(value, str):
        yield f"{place}: must be text; put it in quotes, and join parts of a list into one text"
    elif not may_be_empty and not value.strip():
        yield f"{place}: is empty; write its text, or remove it"
    elif any("\ud800" <= c <= "\udfff" for c in value):
        yield f"{place}: holds lone surrogates (\\ud800 to \\udfff); replace them by real characters"
