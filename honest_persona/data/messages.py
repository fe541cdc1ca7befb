"""Messages of a conversation, of the one form that the package works with, and their id.

conversation.py makes such messages from what people have, and checks them.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Required, TypedDict

from honest_persona.base import json_text
from honest_persona.base.errors import UserError
from honest_persona.data.strict_json import RepeatedKey


class Message(TypedDict, total=False):
    """One turn of a conversation, as chat templates take it. Its role is system, user, assistant or tool."""

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


class Problem(NamedTuple):
    """What is wrong with a conversation."""

    place: str
    """Where: `messages[2].content`."""
    kind: str
    """Stable snake_case code, to count by."""
    message: str
    """What is wrong there, and what to do."""

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if self.place else self.message


class Unusable(Exception):
    """A part of a conversation cannot be used; the reader of the conversation collects these errors."""

    def __init__(self, place: str, kind: str, message: str) -> None:
        super().__init__(message)
        self.problem = Problem(place, kind, message)


def said(value: Any) -> str:
    """What a value of parsed JSON is, in the words of an error."""
    if value is None:
        return "null"
    named = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return named.get(type(value), f"a {type(value).__name__}")


def text_at(place: str, value: Any, may_be_empty: bool = False) -> str:
    """The text. Raises Unusable: no text, an empty one, or one that no tokenizer can encode."""
    if isinstance(value, RepeatedKey):
        raise Unusable(place, "repeated_key", f"repeated key {value.key!r}; keep one of the two")
    if value is None:
        raise Unusable(place, "missing", "is missing; write its text")
    if not isinstance(value, str):
        raise Unusable(place, "not_text", f"is {said(value)}, but must be text; put it in quotes")
    if not may_be_empty and not value.strip():
        raise Unusable(place, "empty", "is empty; write its text, or remove it")
    try:
        value.encode()
    except UnicodeEncodeError:
        surrogates = "holds lone surrogates (\\ud800 to \\udfff); replace them by real characters"
        raise Unusable(place, "not_unicode", surrogates) from None
    return value


def check_text(place: str, value: Any) -> None:
    """Raises UserError: no text, an empty one, or one that no tokenizer can encode."""
    try:
        text_at(place, value)
    except Unusable as unusable:
        raise UserError(str(unusable.problem)) from None
