"""Scores of single answers and advantages of whole groups; what gives none is counted."""

import pytest

from honest_persona.base.errors import UserError
from honest_persona.data import feedback_scores as scored
from honest_persona.data.feedback_scores import advantages, check_scores
from honest_persona.data.feedback_views import Views, view
from tests.data.test_feedback_views import SCORED, answers, labels, rows
from tests.prompts.test_feedback import feedback

PAIR = feedback(0, "pair", id="pair", prompt_id="r", answers=answers("x", "y"))


def test_every_kind_of_feedback_has_scores():
    given = [SCORED, *labels("p", a=True, b=False), PAIR, feedback(9, "prompt", id="z", prompt_id="z")]
    found = view(rows(*given), "scores", Views(), 0)
    assert [row.score for row in found.rows] == [1.0, 0.0, 5.0, 1.5, 1.0, -1.0, 1.0, -1.0]
    assert len(set(found.rows.values("id"))) == 8
    assert found.left_out == {scored.NO_SCORE: 1}


def test_a_group_is_all_of_a_prompts_answers_in_however_many_rows():
    parts = [
        SCORED.model_copy(
            update={"id": f"s{i}", "answers": SCORED.answers[i : i + 2], "scores": SCORED.scores[i : i + 2]}
        )
        for i in (0, 2)
    ]
    apart = [parts[0], *labels("q", a=True, b=False, c=False), parts[1]]
    for given in ([SCORED, *labels("q", a=True, b=False, c=False)], apart):
        found = view(rows(*given), "groups", Views(), 0)
        assert [row.advantage for row in found.rows] == pytest.approx(
            [*advantages([1.0, 0.0, 5.0, 1.5]), *advantages([1.0, -1.0, -1.0])]
        )
        assert found.rows[0].answers == SCORED.answers[:1]


def test_a_group_of_one_and_one_without_spread_are_told():
    even = feedback(0, "score", id="e", prompt_id="e", answers=answers("a", "b", "c"), scores=(2.0, 2.0, 2.0))
    lone = feedback(0, "score", id="l", prompt_id="l", answers=answers("a"), scores=(2.0,))
    found = view(rows(even, lone, SCORED), "groups", Views(), 0)
    assert len(found.rows) == 4
    assert found.left_out == {scored.NO_SPREAD: 3, scored.ALONE: 1}


def test_scores_are_not_compared_with_labels():
    mixed = [SCORED, *(row.model_copy(update={"prompt_id": SCORED.prompt_id}) for row in labels("q", e=True, f=False))]
    found = view(rows(*mixed), "groups", Views(), 0)
    assert [row.advantage for row in found.rows] == pytest.approx(
        [*advantages([1.0, 0.0, 5.0, 1.5]), *advantages([1.0, -1.0])]
    )


def test_one_score_alone_is_an_error_and_nearly_so_a_warning():
    with pytest.raises(UserError, match=r"all 2 answers to train on have the score 1, and objective ppo_offline"):
        check_scores([1.0, 1.0], "ppo_offline")
    assert check_scores([1.0] * 97 + [0.0] * 3, "ppo_offline").startswith("97.0% of the answers to train on have")
    assert check_scores([1.0, 0.0], "ppo_offline") is None
    assert check_scores([10.0, -10.0], "ppo_offline") is None
    assert check_scores([1.0, -80.0], "ppo_offline") == (
        "scores of up to 80 in size are taken as they are: bring them to about -1 to 1"
    )
