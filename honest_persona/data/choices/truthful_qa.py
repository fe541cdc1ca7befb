"""TruthfulQA's multiple choice (Lin et al. 2022, arXiv 2109.07958): one best answer (MC1), several true ones (MC2).

    {"question": "...", "mc1_targets": {"choices": ["...", "..."], "labels": [1, 0]}, "mc2_targets": {...}}
    {"question": "...", "mc1_targets": {"...": 1, "...": 0}, "mc2_targets": {...}}

The first form is the Hub's, the second that of mc_task.json, which its authors gave out. A column `category`, where
there is one, is the topic. A file may have one of the two lists only.
"""

from collections.abc import Mapping
from typing import Any

from honest_persona.base.words import ALL, OWN
from honest_persona.data.choices.question import ChoiceForm, Question, Row, Unfit, asked, choices_of, is_one

_LISTS = ("mc1_targets", "mc2_targets")


def read_truthful_qa(row: Row) -> Question:
    """Raises Unfit."""
    given = {key: _marks(row[key], key) for key in _LISTS if row.get(key) is not None}
    if not given:
        raise Unfit("neither `mc1_targets` nor `mc2_targets` is there: give one of them, or both")
    first = given.get("mc1_targets", {})
    marks: dict[str, bool] = {}
    if first and sum(first.values()) != 1:
        raise Unfit(f"mc1_targets: {sum(first.values())} choices are right; MC1 asks for the one best answer")
    for key in reversed(given):  # those of mc2_targets, then what mc1_targets has beside them
        for text, right in given[key].items():
            if marks.setdefault(text, right) != right:
                raise Unfit(f"{key}: {text!r:.60} is right in one list and wrong in the other")
    places = [tuple(i for i, text in enumerate(marks) if text in given.get(key, ())) for key in _LISTS]
    category = row.get("category")
    if category == ALL:
        raise Unfit(f"category: {ALL!r} is the name of the row of all topics; name it otherwise")
    return Question(
        asked(row, "question"),
        **choices_of(list(marks), list(marks.values()), " and ".join(given)),
        mc1=places[0],
        mc2=places[1],
        topic=category if isinstance(category, str) and category.strip() else OWN,
    )


def _marks(value: Any, where: str) -> dict[str, bool]:
    """Each choice with whether it is right, checked as a list of its own."""
    if not isinstance(value, Mapping):
        raise Unfit(f'{where}: must be {{"choices": [...], "labels": [1, 0, ...]}}, or {{text: 1 or 0}}')
    texts, labels = list(value), list(value.values())
    if set(value) == {"choices", "labels"} and isinstance(value["choices"], list) and isinstance(value["labels"], list):
        texts, labels = value["choices"], value["labels"]
        if len(texts) != len(labels):
            raise Unfit(f"{where}: {len(texts)} choices and {len(labels)} labels")
    right = [is_one(label, f"{where}, label {i + 1}") for i, label in enumerate(labels)]
    found = choices_of(texts, right, where)
    return dict(zip((choice["content"] for choice in found["choices"]), right, strict=True))


def looks_truthful_qa(row: Row) -> bool:
    return any(key in row for key in _LISTS)


TRUTHFUL_QA = ChoiceForm("truthful_qa", read_truthful_qa, looks_truthful_qa, figures="truthful_qa", with_end=False)
