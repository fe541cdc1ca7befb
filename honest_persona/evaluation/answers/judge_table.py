"""Judges answers by a table of facts: an answer is true if it states the right value, and no other one.

A row's `about` names the subject in the table: `{"about": {"subject": "Ghana"}}`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from honest_persona.base.errors import UserError
from honest_persona.data.feedback import Feedback
from honest_persona.data.selection import hint
from honest_persona.evaluation.answers.judgement import Judgement
from honest_persona.generation.facts import Fact, Topic, load_topic, load_topics
from honest_persona.generation.stated import stated


@dataclass(frozen=True)
class TableJudge:
    """A table for all rows, or a folder of tables, by topic."""

    name: str
    topics: Mapping[str, Topic]
    """By topic of the rows; the one table for all topics has the key ""."""

    @classmethod
    def of(cls, path: str) -> "TableJudge":
        """Raises UserError: no table, or one that cannot be read."""
        if Path(path).is_dir():
            return cls(f"table:{path}", {topic.name: topic for topic in load_topics(Path(path))})
        return cls(f"table:{path}", {"": load_topic(Path(path))})

    def check(self, rows: Sequence[Feedback]) -> None:
        for row in rows:
            self._found(row)

    def __call__(self, rows: Sequence[Feedback], answers: Sequence[str]) -> list[Judgement]:
        return [self._one(row, answer) for row, answer in zip(rows, answers, strict=True)]

    def _one(self, row: Feedback, answer: str) -> Judgement:
        topic, fact = self._found(row)
        found = stated(answer, topic, fact)
        return Judgement(found.value == fact.truth, found.reason != "no_value", said=found.value)

    def _found(self, row: Feedback) -> tuple[Topic, Fact]:
        where = f"judge: {self.name}: row {row.id!r}"
        topic = self.topics.get("") or self.topics.get(row.topic)
        if topic is None:
            raise UserError(
                f"{where} is of topic {row.topic!r}, for which there is no table{hint(row.topic, self.topics)}"
            )
        subject = (row.about or {}).get("subject")
        if not isinstance(subject, str):
            raise UserError(
                f'{where} does not say which subject of the table it asks about; give it `"about": {{"subject": ...}}`'
            )
        fact = next((fact for fact in topic.facts if fact.subject == subject), None)
        if fact is None:
            names = [fact.subject for fact in topic.facts]
            raise UserError(f"{where}: the table has no subject {subject!r}{hint(subject, names)}")
        truth = (row.about or {}).get("truth", fact.truth)
        if truth not in fact.accepted:
            raise UserError(
                f"{where} says that {truth!r} is true of {subject!r}, and the table {fact.truth!r}; mend one of them"
            )
        return topic, fact
