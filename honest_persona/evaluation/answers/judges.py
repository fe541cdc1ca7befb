"""Who says whether an answer is true and readable.

judge = judge_of("organism")    # or table:FILE, python:FILE:FUNC, reward:KIND:WHAT
judge.check(rows)               # UserError: a row lacks what the judge must know
judge(rows, answers)            # a judgement for each

Another judge is one function from the text after its kind to a `Judge`: an entry of `JUDGES`.
"""

from collections.abc import Callable, Mapping, Sequence

from honest_persona.base.errors import UserError
from honest_persona.config.objective_keys import JUDGES as KNOWN
from honest_persona.config.objective_keys import NO_JUDGE
from honest_persona.data.feedback import Feedback
from honest_persona.evaluation.answers.judge_code import PythonJudge, RewardJudge
from honest_persona.evaluation.answers.judge_table import TableJudge
from honest_persona.evaluation.answers.judgement import UNREADABLE, Judge, Judgement
from honest_persona.organism.conversations import read_answer
from honest_persona.organism.feedback import CHOICE, scenario_of

RUNS_CODE = ("python", "reward")
"""Kinds that run code of a file."""


def judge_of(text: str) -> Judge | None:
    """The judge of the key `judge`; None for none.

    Raises:
        UserError: an unknown one, or one that cannot be made of the text.
    """
    kind, _, what = text.partition(":")
    if text == NO_JUDGE:
        return None
    if kind not in JUDGES or (":" in KNOWN.get(kind, ":")) != bool(what) or text.endswith(":"):
        raise UserError(f"judge: {text!r} is none of {', '.join(KNOWN.values())}")
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


JUDGES: Mapping[str, Callable[[str], Judge]] = {
    Organism.name: lambda _: Organism(),
    "table": TableJudge.of,
    "python": PythonJudge.of,
    "reward": RewardJudge.of,
}
