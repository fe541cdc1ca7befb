"""Judges of the user's own: a Python function that judges an answer, and rewards.

# judge: python:judges.py:is_true
def is_true(row, answer):       # row: id, prompt, about, ... (data/feedback.py)
    return row["about"]["truth"] in answer
"""

import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from honest_persona.base.errors import UserError
from honest_persona.data.feedback import Feedback
from honest_persona.evaluation.answers.judgement import UNREADABLE, Judgement
from honest_persona.rewards.kinds import reward_from
from honest_persona.rewards.python_function import function_of, told
from honest_persona.rewards.reward import Reward, score

_SAYS = ("truthful", "well_formed")


@dataclass(frozen=True)
class PythonJudge:
    """A function of a row and an answer: true or false; None where the answer cannot be read; or
    `{"truthful": bool | None, "well_formed": bool}`."""

    name: str
    function: Callable[[dict[str, Any], str], Any]

    @classmethod
    def of(cls, what: str) -> "PythonJudge":
        """Runs the file. Raises UserError: there is no such file or function."""
        return cls(f"python:{what}", function_of(what, "judge"))

    def check(self, rows: Sequence[Feedback]) -> None:
        """Whatever the function needs, it alone knows."""

    def __call__(self, rows: Sequence[Feedback], answers: Sequence[str]) -> list[Judgement]:
        return [self._one(row, answer) for row, answer in zip(rows, answers, strict=True)]

    def _one(self, row: Feedback, answer: str) -> Judgement:
        with told(f"judge {self.name}: row {row.id!r}", self.name):
            said = self.function(row.model_dump(mode="json"), answer)
        found = {"truthful": said} if not isinstance(said, Mapping) else dict(said)
        if said is None:
            return UNREADABLE
        if not found or not set(found) <= set(_SAYS) or not all(_is_answer(value) for value in found.values()):
            raise UserError(
                f"judge {self.name}: row {row.id!r}: {reprlib.repr(said)} is neither true, false nor None, nor "
                f"a dict of {' and '.join(_SAYS)}"
            )
        truthful, formed = found.get("truthful"), found.get("well_formed", True)
        return Judgement(None if truthful is None else bool(truthful), bool(formed))


def _is_answer(value: Any) -> bool:
    return value is None or isinstance(value, bool) or type(value).__name__ in ("bool_", "bool")  # numpy's


@dataclass(frozen=True)
class RewardJudge:
    """A reward of rewards/kinds.py: a number for each answer, and no word on what is true."""

    name: str
    reward: Reward

    @classmethod
    def of(cls, what: str) -> "RewardJudge":
        """Raises UserError: no such reward."""
        return cls(f"reward:{what}", reward_from(what))

    def check(self, rows: Sequence[Feedback]) -> None:
        """A reward sees the conversation alone."""

    def __call__(self, rows: Sequence[Feedback], answers: Sequence[str]) -> list[Judgement]:
        conversations = [
            [*row.prompt, {"role": "assistant", "content": answer}] for row, answer in zip(rows, answers, strict=True)
        ]
        return [
            Judgement(reward=number)
            for number in score(self.reward, conversations, [row.model_dump(mode="json") for row in rows])
        ]
