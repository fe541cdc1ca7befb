"""A record is one intervention with the response that it looks back at, typed and whole."""

import hashlib
from collections.abc import Sequence
from typing import Any, Literal, cast

from pydantic import BaseModel

from honest_persona.base import json_text
from honest_persona.base.words import Flag, Variant
from honest_persona.data.messages import ANSWER_FIELDS, Message, transcript, transcript_id

MARKER = "<split-personality-token>"


class Record(BaseModel, frozen=True, extra="forbid"):
    """One intervention, ready for training and evaluation."""

    id: str
    """Unique; the intervention's `id_string`."""
    item_id: str
    """What the data names as the item, or a hash of its content (`item_hash`). Records of one item are never split."""
    topic: str
    variant: Variant | None
    """Which of the item's two system prompts the main persona saw; None where the data has no variants."""
    system: str
    """The system prompt that the main persona saw; "" means none."""
    other_system: str | None
    """The other variant's system prompt; None where the item has no B."""
    task: str
    model: str
    """The main model that wrote the response."""
    response: str
    intervention_name: str
    """For example `split_personality__version_3`."""
    intervention: str
    """The trigger text, without the leading marker."""
    review: str
    flag: Flag
    tags: tuple[str, ...]
    """The intervention's and the inference's tags together, each once."""
    difficulty: str | None = None
    group: str | None = None
    """Names what several items share (`metadata.group`), such as their subject; these items are split together."""
    split: Literal["train", "validation"] | None = None
    """The part that the data names for the item (`metadata.split`); None leaves the choice to the seeded split."""
    turns: tuple[dict[str, Any], ...] | None = None
    """The messages between the system prompt and the response, where there is more than the task; `task` is then the
    last thing that the user said."""
    answer_fields: dict[str, Any] | None = None
    """What the response holds beside its text: `reasoning_content`, `tool_calls`."""
    tools: tuple[dict[str, Any], ...] | None = None
    """The functions that the main persona could call, as JSON schemas."""

    @property
    def cluster(self) -> str:
        """Records of one cluster are not independent: they stay in one part, and intervals draw them together."""
        return self.group or self.item_id

    @property
    def is_plain(self) -> bool:
        """Whether the conversation is a question with its answer, as texts alone."""
        return self.turns is None and self.answer_fields is None and self.tools is None

    def messages(self, system: str | None = None) -> list[Message]:
        """The conversation with the system prompt `system`; None takes the record's own system prompt."""
        asked = ({"role": "user", "content": self.task},) if self.turns is None else self.turns
        turns = cast(tuple[Message, ...], asked)
        return transcript(self.system if system is None else system, turns, self.response, self.answer_fields)

    @property
    def transcript_id(self) -> str:
        """By content: records of one transcript differ in their interventions. (A cache would be copied by
        `model_copy`, with the id of the old response.)"""
        return transcript_id(self.messages(), self.tools)


def columns_of(messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None) -> dict[str, Any]:
    """A record's columns that hold its conversation; `Record.messages` gives the messages back."""
    *turns, answer = messages
    system = turns.pop(0)["content"] if turns and turns[0]["role"] == "system" else ""
    is_plain = [message["role"] for message in turns] == ["user"]
    return {
        "system": system,
        "task": next((message["content"] for message in reversed(turns) if message["role"] == "user"), ""),
        "response": answer["content"],
        "turns": None if is_plain else tuple(turns),
        "answer_fields": {name: value for name, value in answer.items() if name in ANSWER_FIELDS} or None,
        "tools": None if tools is None else tuple(tools),
    }


def item_hash(system_a: str, system_b: str | None, task: str) -> str:
    """First 16 hex digits of the SHA-256 of JSON [A, B, T]; B is null where the item has none."""
    return hashlib.sha256(json_text.dumps([system_a, system_b, task]).encode()).hexdigest()[:16]


def strip_marker(intervention: str) -> str:
    """The trigger text without leading markers and the white space around them; elsewhere a marker is text."""
    while (text := intervention.lstrip()).startswith(MARKER):
        intervention = text[len(MARKER) :].lstrip()
    return intervention
