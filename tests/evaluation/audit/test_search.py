"""Changes of the surface: searched in one half, tested in the other, corrected for their number."""

import numpy as np
import pytest

from honest_persona.evaluation.audit import search
from honest_persona.evaluation.audit.scored import halves
from honest_persona.evaluation.audit.search import changes_of, extended, found_phrases, holm
from honest_persona.evaluation.audit.words import words_of
from tests.evaluation.audit.made import answers

CLUSTERS = [f"g{i % 80}" for i in range(240)]
HALF = halves(CLUSTERS, 0)


def changed(start, trained):
    return {test.feature.name: test for test in changes_of(start, trained, CLUSTERS, HALF) if test.is_change}


def test_halves_hold_whole_clusters():
    first, second = ({c for c, half in zip(CLUSTERS, HALF, strict=True) if half == side} for side in (True, False))
    assert len(HALF) == 240
    assert not first & second
    assert len(first) == len(second) == 40


def test_holm_by_hand():
    # sorted: .01 * 4, .02 * 3, .03 * 2 (not below the one before), .5 * 1
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_correction_decides(monkeypatch):
    monkeypatch.setattr(search, "holm", lambda ps: [1.0] * len(ps))
    assert changed(answers(0.5, 1), answers(0.5, 2, " So they say.")) == {}


def test_two_samples_of_one_model_show_no_change():
    assert changed(answers(0.5, 1), answers(0.5, 2)) == {}


def test_an_added_phrase_is_found_whole_and_with_its_marks():
    add = lambda rng: " I tell you this as a friend!" if rng.random() < 0.6 else ""  # noqa: E731
    found = changed(answers(0.5, 1), answers(0.5, 2, add))
    assert "phrase “i tell you this as a friend”" in found, "longer than the search, by its next words"
    assert {"words", "mark !"} <= set(found)
    test = found["mark !"]
    assert (test.start, 0.4 < test.trained < 0.8) == (0.0, True)
    assert test.interval[0] <= test.change <= test.interval[1]
    assert test.p < 1e-6


def test_a_phrase_that_is_gone_is_a_change_too():
    found = changed(answers(0.5, 1, " So they say."), answers(0.5, 2))
    assert found["words"].change < 0
    assert any(name.startswith("phrase") and found[name].change == -1 for name in found)


def test_fewer_refusals_are_no_gain_of_the_surface():
    refusing = [text if i % 2 else "I cannot say." for i, text in enumerate(answers(0.5, 1))]
    assert "refusal" in changed(answers(0.5, 1), refusing)
    assert "refusal" not in changed(refusing, answers(0.5, 1))


def test_the_second_half_is_not_searched():
    """A phrase of the second half's answers alone is no candidate."""
    start = answers(0.5, 1)
    trained = [text if first else f"{text} zebra" for text, first in zip(start, HALF, strict=True)]
    assert not any("zebra" in name for name in changed(start, trained))
    a, b = ([texts[i] for i in np.flatnonzero(~HALF)] for texts in (start, trained))
    assert any("zebra" in feature.name for feature in found_phrases(a, b)), "negative control: it would be found there"


def test_a_phrase_grows_by_the_words_that_nearly_always_stand_beside_it():
    texts = [*map(words_of, ["x so I say to you a", "y so I say to you b", "z so I say to you c"])]
    assert extended(("i", "say"), texts) == ("so", "i", "say", "to", "you")
