"""Rows of feedback hold what their kinds say."""

import pytest

from honest_persona.data.feedback import FeedbackRows
from tests.prompts.test_feedback import feedback


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("pair", {"answers": feedback().answers[:1]}),
        ("pair", {"answers": feedback().answers[:1] * 2}),
        ("pair", {"label": True}),
        ("pair", {"margin": float("nan")}),
        ("label", {"label": None}),
        ("label", {"answers": ()}),
        ("label", {"margin": 1.0}),
        ("score", {"scores": (1.0, 2.0)}),
        ("score", {"scores": (float("inf"),)}),
        ("score", {"scores": None}),
        ("response", {"scores": (1.0,)}),
        ("prompt", {"answers": feedback().answers}),
    ],
)
def test_a_row_that_is_not_what_its_kind_says(kind, changes):
    assert feedback(kind=kind)
    with pytest.raises(ValueError, match=f"{kind}|scores|equal"):
        feedback(kind=kind, **changes)


def test_rows_are_kept_as_they_were():
    given = [
        feedback(n, kind, about={"truth": ["x", n]}) for n, kind in enumerate(("pair", "label", "score", "prompt"))
    ]
    kept = FeedbackRows.of(iter(given))
    assert kept == given
    assert kept.values("kind") == ["pair", "label", "score", "prompt"]
    assert kept.values("cluster") == ["p0", "p1", "p2", "p3"]
    assert kept.values("label") == [None, True, None, None]
