"""Pairs, labels and examples made from each other; what gives nothing is counted."""

import pytest

from honest_persona.base.errors import UserError
from honest_persona.data import feedback_views as views
from honest_persona.data.feedback import FeedbackRows
from honest_persona.data.feedback_views import Views, check_labels, view
from tests.prompts.test_feedback import feedback


def answers(*texts):
    return tuple({"role": "assistant", "content": text} for text in texts)


def rows(*given):
    return FeedbackRows.of(given)


def texts(found):
    return [tuple(answer["content"] for answer in row.answers) for row in found.rows]


def labels(prompt, **marked):
    """A labelled answer for each letter, + desirable and - undesirable."""
    return [
        feedback(0, "label", id=f"{prompt}{text}", prompt_id=prompt, answers=answers(text), label=sign)
        for text, sign in marked.items()
    ]


SCORED = feedback(0, "score", answers=answers("a", "b", "c", "d"), scores=(1.0, 0.0, 5.0, 1.5))


def test_labels_become_pairs_prompt_by_prompt():
    given = [*labels("p", a=True, b=False, c=False), *labels("q", d=True), *labels("r", e=True, f=True)]
    found = view(rows(*given), "pairs", Views(), 0)
    (pair,) = texts(found)
    assert pair in [("a", "b"), ("a", "c")]
    assert found.left_out == {views.ONE_LABEL: 3, views.ONE_ANSWER: 1}
    assert view(rows(*given[::-1]), "pairs", Views(), 0).rows == found.rows, "whatever the order"
    assert found.rows[0].id == f"p{pair[0]} > p{pair[1]}"


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({}, [("c", "b")]),
        ({"min_margin": 5.0}, [("c", "b")]),
        ({"min_margin": 5.1}, []),
        ({"pairing": "closest"}, [("d", "a")]),
        ({"pairing": "closest", "min_margin": 1.2}, [("d", "b")]),
        ({"pairing": "closest", "min_margin": 6.0}, []),
    ],
)
def test_scores_become_pairs(how, expected):
    found = view(rows(SCORED), "pairs", Views(**how), 0)
    assert texts(found) == expected
    assert found.left_out == ({} if expected else {views.TOO_CLOSE: 1})
    for row in found.rows:
        scores = dict(zip(("a", "b", "c", "d"), SCORED.scores, strict=True))
        assert row.margin == scores[row.chosen["content"]] - scores[row.rejected["content"]]


def test_random_pairs_use_each_answer_once_and_better_answers_are_chosen():
    found = texts(view(rows(SCORED), "pairs", Views(pairing="random"), 0))
    assert sorted(letter for pair in found for letter in pair) == ["a", "b", "c", "d"]
    order = "badc"
    assert all(order.index(chosen) > order.index(rejected) for chosen, rejected in found)
    others = {str(texts(view(rows(SCORED), "pairs", Views(pairing="random"), seed))) for seed in range(9)}
    assert len(others) > 1


def test_scored_rows_of_one_prompt_are_one_group():
    one = [
        feedback(0, "score", id=text, answers=answers(text), scores=(score,)) for text, score in (("a", 1), ("b", 2))
    ]
    assert texts(view(rows(*one), "pairs", Views(), 0)) == [("b", "a")]
    alone = view(rows(one[0]), "pairs", Views(), 0)
    assert (len(alone.rows), alone.left_out) == (0, {views.ONE_ANSWER: 1})
    equal = [row.model_copy(update={"scores": (1.0,)}) for row in one]
    assert view(rows(*equal), "pairs", Views(), 0).left_out == {views.TOO_CLOSE: 1}


def test_pairs_become_labels_and_their_margins_count():
    given = rows(feedback(0, margin=0.5), feedback(1, margin=2.0), feedback(2), feedback(3, "prompt"))
    found = view(given, "labels", Views(), 0)
    assert [(row.id, row.label) for row in found.rows][:2] == [("f0:chosen", True), ("f0:rejected", False)]
    assert found.left_out == {views.NO_FEEDBACK: 1}
    wide = view(given, "pairs", Views(min_margin=1.0), 0)
    assert [row.id for row in wide.rows] == ["f1", "f2"]
    assert wide.left_out == {views.TOO_CLOSE: 1, views.NO_FEEDBACK: 1}


def test_scores_become_labels_by_the_training_median():
    given = rows(SCORED)
    how = Views().fixed_by(given)
    assert how.label_threshold == 1.25
    assert view(given, "labels", how, 0).rows.values("label") == [False, False, True, True]
    assert view(given, "labels", Views(label_threshold=1.0), 0).rows.values("label") == [True, False, True, True]


def test_responses_are_the_good_answers():
    given = rows(feedback(0), *labels("q", a=True, b=False), SCORED.model_copy(update={"prompt_id": "s"}))
    given += rows(feedback(5, "response"), feedback(6, "prompt"))
    found = view(given, "responses", Views(), 0)
    assert texts(found) == [("Yes.",), ("a",), ("c",), ("Yes.",)]
    assert {row.kind for row in found.rows} == {"response"}
    assert found.left_out == {views.UNDESIRABLE: 1, views.NOT_BEST: 3, views.NO_ANSWER: 1}


def test_a_share_of_each_label():
    given = rows(*(row for n in range(40) for row in labels(f"p{n}", a=True, b=False)))
    found = view(given, "labels", Views(keep_desirable=0.1, keep_undesirable=0.5), 0)
    assert sum(found.rows.values("label")) == 4
    assert len(found.rows) == 24
    assert found.left_out == {views.NOT_KEPT: 56}
    more = view(given, "labels", Views(keep_desirable=0.2, keep_undesirable=0.5), 0)
    assert set(found.rows.values("id")) < set(more.rows.values("id"))


def test_labels_out_of_balance():
    assert check_labels([True, False], "kto") is None
    assert check_labels([True] * 19 + [False], "kto") is None
    warning = check_labels([True] * 97 + [False] * 3, "kto")
    assert warning.startswith("97.0% of the answers to train on are desirable")
    assert "desirable_weight or keep_desirable" in warning
    with pytest.raises(UserError, match=r"all 3 answers to train on are undesirable, .*: add desirable"):
        check_labels([False] * 3, "kto")
    with pytest.raises(UserError, match="use objective sft"):
        check_labels([True] * 3, "kto")
