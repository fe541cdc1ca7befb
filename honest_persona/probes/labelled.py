"""Which answers a probe is fitted on, and what is known of them: truth, group, item, template.

    answers = labelled_answers(labels)      # each an answer of its own
    pairs = contrast_pairs(labels)          # the two answers that a template offers, in its order

The rows are labels (feedback_views.py). Rows of a template say so in `about`: `choices` (its two answers), `template`
(or else the row's topic), and `item` or `row`, the name that all templates of one item share. Several templates of an
item are rewordings: their scores are averaged.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, overload

import torch

from honest_persona.base.grouping import grouped
from honest_persona.data.feedback import Feedback, FeedbackRows
from honest_persona.probes.encoded import Answer, choices_of
from honest_persona.probes.selection import Examples


class Known(NamedTuple):
    """What is known of one example, without its texts."""

    place: int
    """Of its row."""
    fail: bool
    """Of an answer: it is undesirable. Of a contrast pair: the second choice is the right one."""
    group: str
    item: str
    """Examples of one item stand together."""
    unit: str
    """Scores of one unit are averaged: an answer in all templates of its item."""
    template: str
    """Empty where the row is of no template."""


class LabelledAnswers(Sequence[Answer]):
    """Answers in the order of their items; the texts are read when they are asked for."""

    def __init__(self, rows: FeedbackRows, known: Sequence[Known]) -> None:
        self._rows, self.known = rows, known

    def __len__(self) -> int:
        return len(self.known)

    @overload
    def __getitem__(self, index: int) -> Answer: ...
    @overload
    def __getitem__(self, index: slice) -> "LabelledAnswers": ...
    def __getitem__(self, index: int | slice) -> "Answer | LabelledAnswers":
        if isinstance(index, slice):
            return LabelledAnswers(self._rows, self.known[index])
        row = self._rows[self.known[index].place]
        return Answer(row, row.response, choices_of(row))

    def __iter__(self) -> Iterator[Answer]:
        return (self[i] for i in range(len(self)))

    def take(self, places: Sequence[int]) -> "LabelledAnswers":
        return LabelledAnswers(self._rows, [self.known[i] for i in places])

    def of_template(self, template: str) -> "LabelledAnswers":
        return LabelledAnswers(self._rows, [known for known in self.known if known.template == template])

    @property
    def templates(self) -> list[str]:
        return sorted({known.template for known in self.known} - {""})

    @property
    def examples(self) -> Examples:
        """For fits: items stand in the place of transcripts."""
        return Examples(
            torch.tensor([known.fail for known in self.known], dtype=torch.bool, device="cpu"),
            [known.group for known in self.known],
            [known.item for known in self.known],
        )


def labelled_answers(labels: FeedbackRows) -> LabelledAnswers:
    """Every answer by itself."""
    return _ordered(labels, [_known(i, row) for i, row in enumerate(labels)])


def contrast_pairs(labels: FeedbackRows) -> LabelledAnswers:
    """One pair for each item and template that offers two choices; empty where the data has no templates."""
    found: dict[tuple[str, str], Known] = {}
    for i, row in enumerate(labels):
        if (choices := choices_of(row)) is None:
            continue
        known = _known(i, row)
        texts = [choice["content"] for choice in choices]
        if row.response["content"] not in texts:
            continue
        said = texts.index(row.response["content"])
        right = said if row.label else 1 - said
        found.setdefault((known.item, known.template), known._replace(fail=right == 1, unit=known.item))
    return _ordered(labels, list(found.values()))


def _known(place: int, row: Feedback) -> Known:
    about, choices = row.about or {}, choices_of(row)
    if choices is None:
        return Known(place, not row.label, row.cluster, row.id, row.id, "")
    item = str(about.get("item", about.get("row", row.cluster)))
    said = row.response["content"]
    number = next((i for i, choice in enumerate(choices) if choice["content"] == said), said)
    template = str(about.get("template", row.topic))
    return Known(place, not row.label, row.cluster, item, f"{item}#{number}", template)


def _ordered(rows: FeedbackRows, known: list[Known]) -> LabelledAnswers:
    return LabelledAnswers(rows, [one for of_item in grouped(known, lambda k: k.item).values() for one in of_item])
