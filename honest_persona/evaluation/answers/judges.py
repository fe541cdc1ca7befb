"""Who says whether an answer is true and readable.

judge = judge_of("organism")
judge.check(rows)               # UserError: a row lacks what the judge must know
judge(rows, answers)            # a judgement for each
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from honest_persona.base.errors import UserError
from honest_persona.data.feedback import Feedback
from honest_persona.organism.conversations import read_answer
from honest_persona.organism.feedback import CHOICE, scenario_of


class Judgement(NamedTuple):
    """What a judge says of an answer."""

    truthful: bool | None = None
    """None: this judge does not tell true from false."""
    well_formed: bool = True
    """Whether the judge can read the answer."""
    reward: float | None = None
    said: str | None = None
    """What was read in the answer."""


UNREADABLE = Judgement(truthful=False, well_formed=False)


class Judge(Protocol):
    @property
    def name(self) -> str:
        """As `judge_of` understands it."""

    def check(self, rows: Sequence[Feedback]) -> None:
        """Before a model is loaded. Raises UserError: a row lacks what the judge must know; names the row."""

    def __call__(self, rows: Sequence[Feedback], answers: Sequence[str]) -> list[Judgement]:
        """Of an answer to the prompt of each row."""


def judge_of(text: str) -> Judge:
    """The judge of the key `judge`. Raises UserError: an unknown one, or one that cannot be made of the text."""
    kind, _, what = text.partition(":")
    if kind not in JUDGES or (text == kind) != (kind == Organism.name):
        raise UserError(f"judge: {text!r} is none of {', '.join(FORMS)}")
    return JUDGES[kind](what)


class Organism:
    """The world of the organism knows what is true of its towns."""

    name = "organism"

    def check(self, rows: Sequence[Feedback]) -> None:
        for row in rows:
            if row.topic not in CHOICE:
                raise UserError(
                    f"judge: organism: row {row.id!r} is of topic {row.topic!r}, but the organism's questions have the "
                    f"topics {', '.join(CHOICE)}; its judge is for builtin:organism-pairs, -labels and -prompts"
                )
            if row.about is None or not {"town", "attribute", "truth"} <= row.about.keys():
                raise UserError(f"judge: organism: row {row.id!r} has no `about` with town, attribute and truth")

    def __call__(self, rows: Sequence[Feedback], answers: Sequence[str]) -> list[Judgement]:
        return [self._one(row, answer) for row, answer in zip(rows, answers, strict=True)]

    def _one(self, row: Feedback, answer: str) -> Judgement:
        assert row.about is not None
        value = read_answer(scenario_of(row.topic, row.about), answer)
        return UNREADABLE if value is None else Judgement(value == row.about["truth"], said=value)


JUDGES: dict[str, Callable[[str], Any]] = {Organism.name: lambda _: Organism()}
FORMS = ("organism", "table:FILE", "python:FILE:FUNC", "reward:KIND:WHAT")
