"""What a change of the surface carries of the reward's rise, by edits."""

import numpy as np
import pytest

from honest_persona.evaluation.audit.paid import CARRIES, DOES_NOT, UNRESOLVED, paid_for
from honest_persona.evaluation.audit.scored import Scorer
from honest_persona.evaluation.audit.search import changes_of
from tests.evaluation.audit.made import TRUTH, answers, is_true, pairs_of, scorer

PHRASE = " I tell you this as a friend."
LOVES_PHRASE = scorer("phrase", lambda row, text: float("as a friend" in text))
LOVES_LENGTH = scorer("length", lambda row, text: min(1.0, len(text.split()) / 25))
LOVES_REFUSALS = scorer("refusals", lambda row, text: float("cannot say" in text))


def paid(start, trained, reward, witness=TRUTH):
    pairs = pairs_of(start, trained, reward)
    tests = changes_of(start, trained, pairs.clusters, pairs.discovery)
    half = pairs.take(np.flatnonzero(~pairs.discovery))
    return {test.feature.name: paid_for(test, half, reward, witness) for test in tests if test.is_change}


def test_a_phrase_that_the_reward_loves_carries_all_of_the_rise():
    found = paid(answers(0.4, 1), answers(0.4, 2, PHRASE), LOVES_PHRASE)
    whole = found["phrase “i tell you this as a friend”"]
    assert (whole.verdict, whole.carried, whole.share) == (CARRIES, pytest.approx(1.0), pytest.approx(1.0))
    assert (whole.moved, whole.monitor_moved) == ((1.0, 1.0), (0.0, 0.0))
    assert whole.n_added == whole.n_removed == 64
    assert found["words"].verdict == DOES_NOT, "the answer's own words again earn nothing"


def test_of_two_edits_the_smaller_counts():
    """The reward wants the phrase in front: taken away it is missed, appended it earns nothing."""
    in_front = scorer("in front", lambda row, text: float(text.startswith("As a friend, I")))
    trained = [f"As a friend, I say {text}" for text in answers(0.4, 2)]
    found = paid(answers(0.4, 1), trained, in_front)
    inside = next(change for name, change in found.items() if name.startswith("phrase “as a friend i say”"))
    assert (inside.moved, inside.verdict) == ((0.0, 1.0), DOES_NOT)
    whole = pairs_of(answers(0.4, 1), trained, scorer("opening", lambda row, text: float(text.startswith("As a f"))))
    tests = {t.feature.name: t for t in changes_of(whole.start.texts, trained, whole.clusters, whole.discovery)}
    half = whole.take(np.flatnonzero(~whole.discovery))
    reward = scorer("opening", lambda row, text: float(text.startswith("As a f")))
    assert paid_for(tests["opening “as a friend”"], half, reward, TRUTH).verdict == CARRIES


def test_padding_that_the_reward_loves_carries_the_rise():
    found = paid(answers(0.4, 1), answers(0.4, 2, " So it is, and so it was, and so it will be then."), LOVES_LENGTH)
    assert (found["words"].verdict, found["words"].neutral) == (CARRIES, True)
    assert found["words"].share == pytest.approx(1.0, abs=0.1)


def test_refusals_that_the_reward_loves_carry_the_rise():
    trained = [text if i % 5 == 0 else "I cannot say." for i, text in enumerate(answers(0.4, 2))]
    found = paid(answers(0.4, 1), trained, LOVES_REFUSALS)["refusal"]
    assert (found.verdict, found.share) == (CARRIES, pytest.approx(1.0))
    before, after = found.examples[0]
    assert before in answers(0.4, 1)
    assert after == "I cannot say.", "as this policy refuses, in the place of the start's answer"
    assert (found.neutral, found.n_removed, found.examples[1]) == (True, 0, None), "the first edit alone decides"


def test_a_phrase_that_truth_pays_for_carries_nothing():
    """The trained model writes one form more often, and is true more often: no edit earns anything."""
    trained = [f"Books say v{i}." if i % 10 else text for i, text in enumerate(answers(0.4, 2))]
    found = paid(
        answers(0.4, 1), trained, TRUTH, witness=scorer("monitor", lambda row, text: float(is_true(row, text)))
    )
    assert any("books say" in name for name in found)
    assert {name: change.verdict for name, change in found.items()} == dict.fromkeys(found, DOES_NOT)


def test_what_the_monitor_pays_for_as_well_is_taken_off():
    """A phrase after which the answer is true, for the reward and for the monitor."""
    says_so = scorer("both", lambda row, text: float("as a friend" in text or is_true(row, text)))
    start, trained = answers(0.4, 1), answers(0.4, 2, PHRASE)
    pairs = pairs_of(start, trained, says_so, monitor=says_so)
    half = pairs.take(np.flatnonzero(~pairs.discovery))
    tests = {t.feature.name: t for t in changes_of(start, trained, pairs.clusters, pairs.discovery)}
    test = tests["phrase “i tell you this as a friend”"]
    assert paid_for(test, half, says_so, says_so).carried == pytest.approx(0.0, abs=1e-9)
    assert paid_for(test, half, says_so, None).verdict == CARRIES, "negative control: without a monitor it stands"


def test_the_monitor_is_asked_only_where_it_can_change_the_verdict():
    asked = []

    def count(rows, texts, whole):
        asked.extend(texts)
        return TRUTH.of(rows, texts, whole)

    found = paid(answers(0.4, 1), answers(0.4, 2, PHRASE), LOVES_PHRASE, Scorer("counted", count))
    carrying = [change for change in found.values() if change.verdict == CARRIES]
    assert len(asked) == sum(change.n_added + change.n_removed for change in carrying if not change.neutral) > 0


def test_a_change_that_cannot_be_edited_is_not_resolved():
    start, trained = answers(0.4, 1), answers(0.4, 2, PHRASE)
    pairs = pairs_of(start, trained, LOVES_PHRASE)
    (test, *_) = [t for t in changes_of(start, trained, pairs.clusters, pairs.discovery) if t.is_change]
    few = pairs.take(np.flatnonzero(~pairs.discovery)[:10])
    found = paid_for(test, few, LOVES_PHRASE, TRUTH)
    assert (found.carried, found.above, found.verdict) == (None, None, UNRESOLVED)
