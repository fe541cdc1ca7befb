"""A record is one intervention with the response that it looks back at, typed and whole."""

import hashlib
from typing import Literal

from pydantic import BaseModel

from honest_persona.base import json_text
from honest_persona.base.words import Flag, Variant
from honest_persona.data.transcripts import transcript, transcript_id

MARKER = "<split-personality-token>"


class Record(BaseModel, frozen=True, extra="forbid"):
    """One intervention, ready for training and evaluation."""

    id: str
    """Unique; the intervention's `id_string`."""
    item_id: str
    """Content hash of the item, see `item_hash`. Records of one item are never split."""
    topic: str
    variant: Variant
    """Which of the item's two system prompts the main persona saw."""
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

    @property
    def cluster(self) -> str:
        """Records of one cluster are not independent: they stay in one part, and intervals draw them together."""
        return self.group or self.item_id

    @property
    def transcript_id(self) -> str:
        """By content: records of one transcript differ in their interventions. (A cache would be copied by
        `model_copy`, with the id of the old response.)"""
        return transcript_id(transcript(self.system, self.task, self.response))


def item_hash(system_a: str, system_b: str | None, task: str) -> str:
    """First 16 hex digits of the SHA-256 of JSON [A, B, T]; B is null where the item has none."""
    return hashlib.sha256(json_text.dumps([system_a, system_b, task]).encode()).hexdigest()[:16]


def strip_marker(intervention: str) -> str:
    """The trigger text without leading markers and the white space around them; elsewhere a marker is text."""
    while (text := intervention.lstrip()).startswith(MARKER):
        intervention = text[len(MARKER) :].lstrip()
    return intervention
