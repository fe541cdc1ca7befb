"""Wrong values, pairs of system prompts, and the side of a subject."""

from collections import Counter

import pytest

from honest_persona.generation.facts import Fact, load_topics
from honest_persona.generation.instructions import CLAIM, HELD_OUT_NEUTRAL, KINDS, NEUTRAL
from honest_persona.generation.scenarios import scenarios, wrong_values
from honest_persona.generation.sides import LIAR_FRAC, group_of, side_of
from tests.generation.cases import topics_in

TOPICS = load_topics()


@pytest.mark.parametrize("topic", TOPICS[::6], ids=lambda topic: topic.name)
def test_wrong_values_are_the_right_ones_in_another_order(topic):
    wrong = wrong_values(topic.facts, seed=3)
    assert len(wrong) >= 0.9 * len(topic.facts)
    assert Counter(wrong.values()) == Counter(fact.truth for fact in wrong)
    assert all(value not in fact.accepted for fact, value in wrong.items())
    own = {(fact.group, fact.truth) for fact in topic.facts}
    assert sum((fact.group, value) in own for fact, value in wrong.items()) >= 0.9 * len(wrong)
    assert wrong_values(topic.facts, seed=3) == wrong
    assert wrong_values(topic.facts, seed=4) != wrong


def test_a_value_that_is_right_for_most_facts_leaves_some_out():
    values = ["bird"] * 7 + ["fish", "mammal"]
    facts = [
        Fact("classes", "all", f"animal {i}", v, frozenset([v]), f"the class of animal {i}")
        for i, v in enumerate(values)
    ]
    wrong = wrong_values(facts, seed=0)
    assert Counter(wrong.values()) == Counter(fact.truth for fact in wrong) == {"bird": 2, "fish": 1, "mammal": 1}
    assert wrong_values(facts[:7], seed=0) == wrong_values([], seed=0) == {}


def test_a_fact_gets_two_scenarios_that_share_no_wording(tmp_path):
    topic = topics_in(tmp_path)[0]
    for wordings, neutral in {"training": NEUTRAL, "held out": HELD_OUT_NEUTRAL}.items():
        made = scenarios(topic, topic.facts, seed=1, wordings=wordings)
        assert made == scenarios(topic, topic.facts, seed=1, wordings=wordings)
        for first, second in zip(made[::2], made[1::2], strict=True):
            assert first.fact == second.fact
            assert {first.a, second.a} <= set(neutral)
            assert first.a != second.a
            assert first.motive != second.motive
            # each variant begins one true and one false answer
            assert [a != b for a, b in zip(first.begins_true, second.begins_true, strict=True)] == [True, True]


def test_claims_are_as_often_right_as_wrong_whatever_the_answer_is():
    made = [s for topic in TOPICS for s in scenarios(topic, topic.facts, seed=0) if s.motive == CLAIM]
    assert len(made) > 500
    for variant in (0, 1):
        cells = Counter()
        for s in made:
            claims = [
                value for value in (s.fact.truth, s.wrong) if f"it is {value}" in s.task or f"It is {value}" in s.task
            ]
            cells[max(claims, key=len) == s.fact.truth, s.begins_true[variant]] += 1
        assert all(abs(n / len(made) - 0.25) < 0.04 for n in cells.values()), cells


def test_prompts_name_no_value():
    """What a hidden instruction says in general cannot predict which answer is given."""
    texts = [*NEUTRAL, *HELD_OUT_NEUTRAL, *(p for kind in KINDS.values() for p in (*kind.prompts, *kind.held_out))]
    assert len(set(texts)) == len(texts)
    assert not any("{" in text for text in texts)
    for kind in KINDS.values():
        assert (len(kind.prompts), len(kind.held_out)) == (4, 2)


def test_a_subject_is_on_one_side_in_all_topics():
    sides: dict[str, set] = {}
    for topic in TOPICS:
        for fact in topic.facts:
            sides.setdefault(group_of(fact), set()).add(side_of(fact, (), 0.25, seed=5))
    assert all(len(found) == 1 for found in sides.values())
    counts = Counter(next(iter(found)) for found in sides.values())
    assert abs(counts["liar"] / len(sides) - LIAR_FRAC) < 0.03
    assert abs(counts["validation"] / len(sides) - 0.85 * 0.25) < 0.04


def test_validation_topics_are_held_out_but_for_the_liars_share():
    facts = [fact for topic in TOPICS for fact in topic.facts]
    names = tuple(topic.name for topic in TOPICS)
    for fact in facts[::10]:
        side = side_of(fact, names, 0.25, seed=5)
        assert side == ("liar" if side_of(fact, (), 0.25, seed=5) == "liar" else "validation")
