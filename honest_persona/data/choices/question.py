"""A question with given choices, of which some are right, whatever format it came in.

Which figures a format has, and how its answers are weighed, is its `ChoiceForm`; formats.py has all of them.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from honest_persona.base import json_text
from honest_persona.base.console import counted
from honest_persona.base.words import OWN
from honest_persona.data.messages import Message, Unusable, text_at, transcript_id

Row = Mapping[str, Any]
Figures = Literal["right", "truthful_qa", "behaviour"]
"""Which figures a format has, beside preference gain and perplexity: statistics/answers.py says what they are."""


class Unfit(Exception):
    """A row that is not a question of its format; the message says what is wrong, and what helps."""


@dataclass(frozen=True)
class Question:
    messages: tuple[Message, ...]
    """What is asked."""
    choices: tuple[Message, ...]
    """The assistant's messages that may follow."""
    right: tuple[bool, ...]
    """Of each choice; in files about a behaviour: whether it shows that behaviour."""
    mc1: tuple[int, ...] = ()
    """TruthfulQA: the places of the choices of `mc1_targets`, of which one is right."""
    mc2: tuple[int, ...] = ()
    """TruthfulQA: those of `mc2_targets`."""
    topic: str = OWN
    group: str = ""
    """What intervals draw together; the prompt where it is empty."""
    id: str = ""
    """As the data says, or else by the content."""
    tools: tuple[dict[str, Any], ...] | None = None

    def __post_init__(self) -> None:
        assert 0 < sum(self.right) < len(self.right) == len(self.choices), "choices_of checks this"

    @property
    def prompt_id(self) -> str:
        return transcript_id(self.messages, self.tools)

    @property
    def cluster(self) -> str:
        return self.group or self.prompt_id

    @property
    def record_id(self) -> str:
        """The same for the same question in another file."""
        if self.id:
            return self.id
        content = [self.prompt_id, sorted(choice["content"] for choice in self.choices)]
        return hashlib.sha256(json_text.dumps(content).encode()).hexdigest()[:16]


class ChoiceForm(NamedTuple):
    """How a format is read and measured."""

    name: str
    read: Callable[[Any], Question]
    """Of a row's columns; of pairs a row of feedback. Raises Unfit."""
    looks: Callable[[Row], bool]
    """Whether a row seems to be of this format."""
    figures: Figures
    with_end: bool
    """Whether the end of the turn belongs to an answer: so in GENIES and in pairs, and not where answers are choices
    of a list."""


class ChoiceSet(NamedTuple):
    """The questions of one file."""

    part: str
    form: ChoiceForm
    questions: Sequence[Question]


def asked(row: Row, key: str) -> tuple[Message, ...]:
    """The prompt of a row that has it as text. Raises Unfit."""
    return (Message(role="user", content=text_of(row, key)),)


def text_of(row: Row, key: str) -> str:
    """Raises Unfit: no text there, or an empty one."""
    try:
        return text_at(key, row.get(key))
    except Unusable as unusable:
        raise Unfit(str(unusable.problem)) from None


def choices_of(texts: Sequence[Any], right: Sequence[bool], where: str) -> dict[str, Any]:
    """`choices` and `right` of a question whose answers are texts; white space around an answer is not the answer's.

    Raises:
        Unfit: one choice, none that is right, all right, or two that are equal.
    """
    found: list[str] = []
    for i, text in enumerate(texts):
        try:
            found.append(text_at(f"{where}, choice {i + 1}", text).strip())
        except Unusable as unusable:
            raise Unfit(str(unusable.problem)) from None
    if len(found) < 2:
        raise Unfit(f"{where}: {counted(len(found), 'choice')}; a question needs a right and a wrong one at least")
    if len(set(found)) < len(found):
        twice = next(text for i, text in enumerate(found) if text in found[:i])
        raise Unfit(f"{where}: the choice {twice!r:.60} is there twice; remove one")
    if not any(right):
        raise Unfit(f"{where}: no choice is right; mark the right one, or remove the question")
    if all(right):
        raise Unfit(f"{where}: all choices are right; mark the wrong ones, or remove the question")
    return {"choices": tuple(Message(role="assistant", content=text) for text in found), "right": tuple(right)}


def is_one(value: Any, where: str) -> bool:
    """A mark of 1 or 0. Raises Unfit."""
    if isinstance(value, bool) or (isinstance(value, int | float) and value in (0, 1)):
        return bool(value)
    raise Unfit(f"{where}: {value!r:.40} is no mark; write 1 for right and 0 for wrong")
