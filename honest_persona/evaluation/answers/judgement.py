"""What a judge says of an answer, and what a judge is."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from honest_persona.data.feedback import Feedback


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
        """Of an answer to the prompt of each row. Raises UserError: an answer cannot be judged; names the row."""
