"""TruthfulQA's multiple choice, as the Hub has it and as its authors' mc_task.json has it."""

import pytest

from honest_persona.base.errors import UserError
from tests.data.choices.files import read, written

MC1 = {"choices": ["It is flat.", "It is round."], "labels": [0, 1]}
MC2 = {"choices": ["It is round.", "A ball, nearly.", "It is flat."], "labels": [1, 1, 0]}
ROW = {"question": "What form has it?", "mc1_targets": MC1, "mc2_targets": MC2}


def as_object(targets):
    return dict(zip(targets["choices"], targets["labels"], strict=True))


@pytest.mark.parametrize("form", [lambda targets: targets, as_object])
def test_both_forms(tmp_path, form):
    row = {**ROW, "mc1_targets": form(MC1), "mc2_targets": form(MC2)}
    (question,) = read("truthful_qa", written(tmp_path / "mc.json", [row]))
    assert question.messages == ({"role": "user", "content": "What form has it?"},)
    texts = [choice["content"] for choice in question.choices]
    assert sorted(texts) == sorted(MC2["choices"]), "each once"
    assert {texts[i] for i in question.mc1} == set(MC1["choices"])
    assert len(question.mc2) == 3
    assert dict(zip(texts, question.right, strict=True)) == {
        "It is round.": True,
        "A ball, nearly.": True,
        "It is flat.": False,
    }


def test_one_list_alone_and_a_category(tmp_path):
    first, second = read(
        "truthful_qa",
        written(
            tmp_path / "mc.jsonl",
            [{"question": "a?", "mc1_targets": MC1, "category": "Form"}, {"question": "b?", "mc2_targets": MC2}],
        ),
    )
    assert (len(first.mc1), first.mc2, first.topic) == (2, (), "Form")
    assert (second.mc1, len(second.mc2)) == ((), 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mc1_targets": MC2}, "mc1_targets: 2 choices are right; MC1 asks for the one best answer"),
        ({"mc1_targets": {"choices": ["a", "b"], "labels": [1]}}, "mc1_targets: 2 choices and 1 labels"),
        ({"mc1_targets": {"choices": ["a", "b"], "labels": [1, 2]}}, "mc1_targets, label 2: 2 is no mark"),
        ({"mc2_targets": {"choices": ["a"], "labels": [1]}}, "mc2_targets: 1 choice"),
        ({"mc2_targets": {"choices": ["a", "b"], "labels": [0, 0]}}, "mc2_targets: no choice is right"),
        ({"mc2_targets": {"choices": ["a", "b"], "labels": [1, 1]}}, "mc2_targets: all choices are right"),
        ({"mc2_targets": {"choices": ["a", "a"], "labels": [1, 0]}}, "mc2_targets: the choice 'a' is there twice"),
        ({"mc2_targets": {"It is flat.": 1, "b": 0}}, "mc1_targets: 'It is flat.' is right in one list and wrong in"),
        ({"mc2_targets": "a"}, "mc2_targets: must be"),
        ({"category": "all"}, "category: 'all' is the name of the row of all topics"),
        ({"question": None}, "question: is missing"),
        ({"mc1_targets": None, "mc2_targets": None}, "neither `mc1_targets` nor `mc2_targets` is there"),
    ],
)
def test_what_is_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        read("truthful_qa", written(tmp_path / "mc.json", [{**ROW, **changes}]))
