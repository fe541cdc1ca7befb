"""The shape of a conversation: its messages and tools with a marker in place of every text.

A chat template is shown shapes alone. So no text of a conversation can change what the template writes, and
conversations of one shape share one rendering. A shape keeps what is structure: roles, what is there and what is not,
the number of calls and of arguments, `true`, `false`, `null` and 0, texts of white space alone, the words of JSON
Schema, and the names in the schemas of tools where all of these names are harmless words.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from honest_persona.base import json_text
from honest_persona.prompts.kinds import Kind, Segment
from honest_persona.prompts.reasoning import Block

_NUMBER = 713_500_000_000_000
MARK = re.compile(r"z[qi](\d{5,})qz|7135(\d{11})(?:\.5)?")
"""A marker with its leaf's number; zi marks ids of calls, of which some templates want nine letters and digits."""
BROKEN_MARK = re.compile(r"z[qi]\d{5}|\d{5}qz|71350000", re.IGNORECASE)
"""What is left where a template changed a marker."""

_TYPES = frozenset(("string", "number", "integer", "boolean", "object", "array", "null", "function", "custom"))
_SCHEMA_WORDS = frozenset(
    word
    for words in (
        "type function name description parameters properties required items enum default title format strict nullable",
        "anyOf oneOf allOf not const examples minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minLength",
        "maxLength pattern minItems maxItems uniqueItems minProperties maxProperties additionalProperties definitions",
        "patternProperties prefixItems contains propertyNames dependentRequired if then else deprecated readOnly",
        "writeOnly response $ref $defs $schema $id $anchor $comment",
    )
    for word in words.split()
)
_HOLD_NAMES = frozenset({"properties", "patternProperties", "definitions", "$defs", "dependentRequired"})
_HOLD_DATA = frozenset({"default", "const", "enum", "examples"})
_ARE_NAMES = frozenset({"name", "required"})


class Form(NamedTuple):
    """How messages are put to a template; templates differ in what they take."""

    blocks_in_fields: bool = False
    """Whether a block of reasoning that stands in the content is put into fields of its own."""
    parts: bool = False
    """Whether contents are lists of parts, as templates of vision models want."""
    arguments_as_text: bool = False
    null_contents: bool = False
    """Whether the content of a call without text is null."""
    asks: bool = False
    """Whether the template is to end with the beginning of an answer (`add_generation_prompt`)."""


@dataclass
class Turn:
    """A message; its content has parts of one kind each."""

    role: str
    parts: list[Segment]
    is_open: bool = False
    """Whether the content is still to be written."""
    reasoning: str = ""
    """What stands in a field of its own."""
    block: Block | None = None
    """The block of reasoning that the content begins with."""
    tool_calls: Sequence[Mapping[str, Any]] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    """`name` and `tool_call_id` of a tool's result."""

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts)


class Leaf(NamedTuple):
    """What a marker stands for."""

    parts: list[Segment]
    what: Literal["content", "result", "reasoning", "call", "tool", "other"]
    """A content and a result must be shown once and in order; of a call and of a tool the name must be shown."""
    message: int
    """The number of the message; -1 for the tools."""
    may_lack: bool = False
    """Whether a template may leave out this content: the text beside a call."""


class Shape(NamedTuple):
    """A conversation without its texts."""

    leaves: list[Leaf]
    skeleton: str
    """JSON {"messages", "tools"} with markers."""


def shape_of(
    turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]] | None, form: Form, control_words: frozenset[str]
) -> Shape:
    """The shape of a conversation in the form; `control_words` are the words within the names of special tokens."""
    return _Maker(form, control_words).shape(turns, tools)


def filled(skeleton: str, form: Form, texts: Mapping[str, str]) -> dict[str, Any]:
    """Variables {"messages", "tools"} for a template, with other texts in place of the markers that `texts` names."""
    written = {mark: json_text.dumps(text)[1:-1] for mark, text in texts.items()}
    variables = json_text.loads(MARK.sub(lambda match: written.get(match[0], match[0]), skeleton))
    if form.arguments_as_text:
        for message in variables["messages"]:
            for call in message.get("tool_calls", ()):
                call["function"]["arguments"] = json_text.dumps(call["function"]["arguments"], ensure_ascii=False)
    return variables


class _Maker:
    def __init__(self, form: Form, control_words: frozenset[str]) -> None:
        self.form, self.control_words = form, control_words
        self.schema_names: set[str] = set()
        self.schema_names_stay = True
        self.leaves: list[Leaf] = []
        self.names: dict[int, tuple[str, int]] = {}
        """The numbers of the leaves that are parts of names, with the name in lower case and the number of the part."""
        self.shared: dict[tuple[Kind, str], str] = {}
        """Equal ids, and equal names of schemas, have equal markers, because templates compare them."""

    def shape(self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]] | None) -> Shape:
        messages = [self._message(i, turn) for i, turn in enumerate(turns)]
        n = len(self.leaves)
        shown = [self._tool(tool) for tool in tools] if tools else None
        if tools and not all(map(self._is_harmless, self.schema_names)):
            del self.leaves[n:]
            self.names = {number: key for number, key in self.names.items() if number < n}
            self.schema_names_stay = False
            shown = [self._tool(tool) for tool in tools]
        return Shape(*self._sorted(json_text.dumps({"messages": messages, "tools": shown})))

    def _sorted(self, skeleton: str) -> tuple[list[Leaf], str]:
        """Some templates sort by name, so the markers of names must sort as the names do."""
        order = sorted(self.names, key=lambda number: self.names[number])
        if order == list(self.names):
            return self.leaves, skeleton
        leaves, renamed = list(self.leaves), {}
        for new, old in zip(self.names, order, strict=True):
            leaves[new] = self.leaves[old]
            renamed[marker(old)] = marker(new)
        return leaves, MARK.sub(lambda match: renamed.get(match[0], match[0]), skeleton)

    def _message(self, i: int, turn: Turn) -> dict[str, Any]:
        content, reasoning = self._content(i, turn)
        message: dict[str, Any] = {"role": turn.role, "content": content}
        if self.form.parts:
            message["content"] = [{"type": "text", "text": content}]
        if reasoning:
            message |= {"reasoning_content": reasoning, "thinking": reasoning}  # both names, as transformers does
        if turn.tool_calls:
            message["tool_calls"] = [self._call(i, call) for call in turn.tool_calls]
            if self.form.null_contents and not content:
                message["content"] = None
        if "name" in turn.labels:
            message["name"] = self._name(turn.labels["name"], Kind.USER, i)
        if "tool_call_id" in turn.labels:
            message["tool_call_id"] = self._id(turn.labels["tool_call_id"], i)
        return message

    def _content(self, i: int, turn: Turn) -> tuple[str, str]:
        """The content, and the reasoning that stands in a field of its own."""
        what: Literal["content", "result"] = "result" if turn.role == "tool" else "content"
        may_lack = bool(turn.tool_calls)
        if turn.is_open:
            self.leaves.append(Leaf(turn.parts, what, i))
            return marker(len(self.leaves) - 1), ""
        if turn.block is None:
            reasoning = self._text(turn.reasoning, "reasoning", i)
            return self._leaf(turn.parts, what, i, may_lack), reasoning
        before, opening, thought, closing, answer, _ = turn.block
        if not self.form.blocks_in_fields:
            reasoning = self._text(thought, "reasoning", i)
            rest = self._text(answer, what, i, may_lack)
            return f"{before}{opening}{reasoning}{closing}{rest}", ""
        reasoning = self._text(thought.strip("\n"), "reasoning", i)
        return self._text(answer.lstrip("\n"), what, i, may_lack), reasoning

    def _call(self, i: int, call: Mapping[str, Any]) -> dict[str, Any]:
        function = call["function"]
        made: dict[str, Any] = {"type": "function"}
        if "id" in call:
            made["id"] = self._id(call["id"], i)
        name = self._name(function["name"], Kind.RESPONSE, i, "call")
        return {**made, "function": {"name": name, "arguments": self._data(function["arguments"], Kind.RESPONSE, i)}}

    def _data(self, value: Any, kind: Kind, i: int) -> Any:
        """JSON of a user's own, such as the arguments of a call."""
        if isinstance(value, Mapping):
            return {self._name(key, kind, i): self._data(item, kind, i) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._data(item, kind, i) for item in value]
        if isinstance(value, str):
            return self._leaf([Segment(kind, value)], "other", i)
        if isinstance(value, bool) or not value:
            return value
        self.leaves.append(Leaf([Segment(kind, json_text.dumps(value))], "other", i))
        return _NUMBER + len(self.leaves) - 1 + (0.5 if isinstance(value, float) else 0)

    def _is_harmless(self, name: str) -> bool:
        return re.fullmatch(r"\w+", name, re.ASCII) is not None and name not in self.control_words

    def _tool(self, tool: Mapping[str, Any]) -> dict[str, Any]:
        """The name of a function is a marker always: the marker tells whether the template shows the tool."""
        made: dict[str, Any] = {}
        for key, value in tool.items():
            if key == "function" and isinstance(value, Mapping):
                made[key] = self._tool(value)
            elif key == "name" and isinstance(value, str):
                made[key] = self._name(value, Kind.SYSTEM, -1, "tool")
            else:
                made[self._schema_key(key, "")] = self._schema(value, key)
        return made

    def _schema(self, value: Any, key: str = "") -> Any:
        """A part of a tool that stands under `key`."""
        if isinstance(value, Mapping):
            if key in _HOLD_DATA:
                return self._data(value, Kind.SYSTEM, -1)
            inner = {k: "" if key in _HOLD_NAMES else k for k in value}
            return {self._schema_key(k, key): self._schema(item, inner[k]) for k, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._schema(item, key) for item in value]
        if isinstance(value, str) and key in _ARE_NAMES:
            return self._schema_name(value)
        if key == "type" and value in _TYPES:
            return value
        return self._data(value, Kind.SYSTEM, -1)

    def _schema_key(self, key: str, above: str) -> str:
        return key if above not in _HOLD_NAMES and key in _SCHEMA_WORDS else self._schema_name(key)

    def _schema_name(self, name: str) -> str:
        """Harmless names stay, if all are harmless: templates treat some of them, such as `type`, in their own way."""
        self.schema_names.add(name)
        if self.schema_names_stay:
            return name
        if (Kind.SYSTEM, name) not in self.shared:
            self.shared[Kind.SYSTEM, name] = self._name(name, Kind.SYSTEM, -1)
        return self.shared[Kind.SYSTEM, name]

    def _name(self, text: str, kind: Kind, i: int, what: Literal["call", "tool", "other"] = "other") -> str:
        """Markers of a name's parts: some templates take names apart at their points."""
        marks = []
        for number, part in enumerate(text.split(".")):
            marks.append(self._leaf([Segment(kind, part)], what, i))
            if part.strip():
                self.names[len(self.leaves) - 1] = text.lower(), number
        return ".".join(marks)

    def _id(self, text: str, i: int) -> str:
        if (Kind.RESPONSE, text) not in self.shared:
            self.leaves.append(Leaf([Segment(Kind.RESPONSE, text)], "other", i))
            self.shared[Kind.RESPONSE, text] = marker(len(self.leaves) - 1, "zi")
        return self.shared[Kind.RESPONSE, text]

    def _text(self, text: str, what: Literal["content", "result", "reasoning"], i: int, may_lack: bool = False) -> str:
        return self._leaf([Segment(Kind.RESPONSE, text)], what, i, may_lack)

    def _leaf(
        self,
        parts: list[Segment],
        what: Literal["content", "result", "reasoning", "call", "tool", "other"],
        i: int,
        may_lack: bool = False,
    ) -> str:
        """The marker; a text of white space alone stands for itself, because templates ask whether there is a text."""
        text = "".join(part.text for part in parts)
        if not text.strip():
            return text
        self.leaves.append(Leaf(parts, what, i, may_lack))
        return marker(len(self.leaves) - 1)


def marker(number: int, start: str = "zq") -> str:
    return f"{start}{number:05}qz"
