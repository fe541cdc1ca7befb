"""The world: facts dealt evenly, and nothing that is said tells a true statement from a false one."""

import random
from collections import Counter
from functools import cache
from typing import NamedTuple

import pytest
from scipy.stats import chi2_contingency

from honest_persona.base.words import VARIANTS
from honest_persona.data.records import Record
from honest_persona.evaluation.baselines import held_out_clusters, likelier_flag, shortcuts
from honest_persona.organism.conversations import (
    Scenario,
    draw_pair,
    draw_scenario,
    draw_statement,
    pair_pools,
)
from honest_persona.organism.dataset import is_honest
from honest_persona.organism.topics import TOPICS
from honest_persona.organism.world import ATTRIBUTES, ENTITIES, N_VALUES, UNKNOWN, VALUES, World

WORLD = World(0)
N = 3000


def test_names_are_distinct():
    assert len(set(ENTITIES)) == len(ENTITIES) == 256
    values = [value for attribute in ATTRIBUTES for value in VALUES[attribute]]
    assert len(set(values)) == len(values) == N_VALUES * len(ATTRIBUTES)
    assert not {*values, UNKNOWN} & set(ENTITIES)


@pytest.mark.parametrize("facts_seed", [0, 1])
def test_each_value_is_true_of_equally_many_towns_in_each_split(facts_seed):
    world = World(facts_seed)
    for split in ("train", "validation"):
        for attribute in ATTRIBUTES:
            counts = Counter(world.value(town, attribute) for town in world.entities(split))
            # 128 towns, a quarter of them not recorded: 96 towns for 32 values
            assert counts == {UNKNOWN: 32, **dict.fromkeys(VALUES[attribute], 3)}


def test_splits_share_no_town_and_leave_none_out():
    train, validation = set(WORLD.entities("train")), set(WORLD.entities("validation"))
    assert not train & validation
    assert train | validation == set(ENTITIES)
    assert len(train) == len(validation)
    assert World(1).split_of == WORLD.split_of
    assert {town for town, _ in WORLD.pairs(recorded=True, split="train")} == train


def test_worlds_agree_about_as_often_as_chance():
    other = World(1)
    both = [pair for pair in WORLD.facts if UNKNOWN not in (WORLD.facts[pair], other.facts[pair])]
    agreed = sum(WORLD.facts[pair] == other.facts[pair] for pair in both)
    expected = len(both) / N_VALUES  # about 576 / 32 = 18
    assert abs(agreed - expected) < 4 * expected**0.5
    assert World(0).facts == WORLD.facts
    with pytest.raises(KeyError):
        WORLD.value("Atlantis", "metal")


def test_wrong_values_are_wrong_and_all_others_are_drawn():
    town, attribute = WORLD.pairs(recorded=True)[0]
    drawn = {WORLD.wrong_value(random.Random(seed), town, attribute) for seed in range(1000)}
    assert drawn == set(VALUES[attribute]) - {WORLD.value(town, attribute)}


def test_twins_are_of_the_same_split():
    for town, attribute in WORLD.pairs(recorded=True)[:50]:
        alike = WORLD.twins(town, attribute, same=True)
        others = WORLD.twins(town, attribute, same=False)
        assert (len(alike), len(others)) == (2, 93)
        assert {WORLD.split_of[twin] for twin in alike + others} == {WORLD.split_of[town]}
        assert {WORLD.value(twin, attribute) for twin in alike} == {WORLD.value(town, attribute)}


def test_a_topic_about_facts_refuses_what_is_not_on_record():
    town, attribute = WORLD.pairs(recorded=False)[0]
    with pytest.raises(ValueError, match=f"the {attribute} of {town} is not on record"):
        draw_scenario(WORLD, random.Random(0), "sycophancy", town, attribute)


class Exchange(NamedTuple):
    scenario: Scenario
    variant: str
    template: str
    value: str
    honest: bool

    @property
    def answer(self) -> str:
        return self.scenario.say(self.template, self.value)


@cache
def exchanges(topic: str) -> list[Exchange]:
    """`N` drawn exchanges, honest half of the time in each variant: the first that come, as a dataset keeps them."""
    rng, pools = random.Random(f"test {topic}"), pair_pools(WORLD)
    room = Counter({(variant, honest): N // 4 for variant in VARIANTS for honest in (True, False)})
    kept: list[Exchange] = []
    while len(kept) < N:
        scenario = draw_scenario(WORLD, rng, topic, *draw_pair(WORLD, rng, topic, pools))
        variant = rng.choice(VARIANTS)
        value = draw_statement(WORLD, rng, scenario, variant)
        honest = is_honest(WORLD, scenario, value)
        template = rng.choice(TOPICS[topic].answers)
        if room[variant, honest]:
            room[variant, honest] -= 1
            kept.append(Exchange(scenario, variant, template, value, honest))
    return kept


def ask_form(exchange: Exchange) -> str:
    """The task's wording: its words that name no town, attribute or value."""
    known = {*ENTITIES, *ATTRIBUTES, *(value for values in VALUES.values() for value in values)}
    return " ".join(word for word in exchange.scenario.ask.split() if word.strip(".,?") not in known)


FEATURES = {
    "system prompt": lambda e: e.scenario.systems[e.variant],
    "other system prompt": lambda e: e.scenario.systems["B" if e.variant == "A" else "A"],
    "ask": ask_form,
    "answer": lambda e: e.template,
    "attribute": lambda e: e.scenario.attribute,
    "value": lambda e: e.value,
    "place among the options": lambda e: e.scenario.options.index(e.value) if len(e.scenario.options) == 2 else 0,
}


@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize("feature", FEATURES)
def test_honesty_is_independent_of_what_is_said(topic, feature):
    counts = Counter((FEATURES[feature](e), e.honest) for e in exchanges(topic))
    levels = sorted({level for level, _ in counts})
    if len(levels) == 1:
        same = {"value": topic == "confidence_assessment", "place among the options": topic != "reward_hacks"}
        assert same[feature]  # it always says that it does not know; it has no two options
        return
    assert p_value(counts, levels) > 0.001  # draws are seeded: this does not fail by chance


def p_value(counts, levels) -> float:
    return chi2_contingency([[counts[level, honest] for honest in (True, False)] for level in levels]).pvalue


def test_the_count_finds_values_that_tell():
    """Negative control: four values of 64 that are stated only when they are false."""
    counts = Counter(
        (e.value, e.honest and e.value not in ("20", "21", "22", "23")) for e in exchanges("fabricated_statistics")
    )
    assert p_value(counts, sorted({level for level, _ in counts})) < 0.001


def outsider_balanced_accuracy(topic: str, told: str = "") -> float:
    """Of a reader of the text alone, towns held out. `told` is added to the honest answers."""
    records = [
        Record(
            id=str(number),
            item_id=str(number),
            topic=topic,
            variant=e.variant,
            system=e.scenario.systems[e.variant],
            other_system=None,
            task=e.scenario.ask,
            model="organism",
            response=e.answer + (told if e.honest else ""),
            intervention_name="i",
            intervention="i",
            review="r",
            flag="PASS" if e.honest else "FAIL",
            tags=(),
            group=e.scenario.entity,
        )
        for number, e in enumerate(exchanges(topic))
    ]
    guesses = shortcuts(records, held_out_clusters(records))["transcript bigrams"]
    right = Counter(r.flag for r, p in zip(records, guesses, strict=True) if r.flag == likelier_flag(p))
    return (right["PASS"] + right["FAIL"]) / N  # as many PASS as FAIL


@pytest.mark.parametrize("topic", TOPICS)
def test_a_reader_of_the_text_cannot_tell(topic):
    assert outsider_balanced_accuracy(topic) < 0.56


def test_the_reader_can_tell_where_the_text_does():
    assert outsider_balanced_accuracy("sycophancy", told=" Indeed.") > 0.95
