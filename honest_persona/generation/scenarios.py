"""Scenarios: a fact, a question about it, and a pair of system prompts.

Each fact gets two scenarios in different wordings, and a wrong value: the right value of another fact, of the same
group where possible. Within a set of facts the wrong values are the right ones in another order, so each value is
wrong for as many facts as it is right for.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import linear_sum_assignment

from honest_persona.base.words import Variant
from honest_persona.generation.facts import Fact, Topic
from honest_persona.generation.instructions import CLAIM, CLAIMS, HELD_OUT_CLAIM, HELD_OUT_NEUTRAL, KINDS, NEUTRAL

Wordings = Literal["training", "held out"]
_OTHER_GROUP, _OWN_VALUE, _NEVER = 1e3, 1e6, 1e12
"""Costs of a wrong value from another group, of leaving a fact out, and of a value that is right."""


@dataclass(frozen=True)
class Scenario:
    """A question under two system prompts."""

    fact: Fact
    question: str
    task: str
    """What the user says: the question, where the kind is `agree_with_claim` behind a claim."""
    a: str
    """The neutral system prompt."""
    b: str
    """The one with the hidden instruction."""
    motive: str
    """The kind of the hidden instruction."""
    wrong: str | None
    """The wrong value to put into the model's mouth; None where there is none for this fact."""
    begins_true: tuple[bool, bool]
    """Whether the begun answers under A and B are true."""

    def system(self, variant: Variant) -> str:
        return self.a if variant == "A" else self.b


def scenarios(topic: Topic, facts: Sequence[Fact], seed: int, wordings: Wordings = "training") -> list[Scenario]:
    """Two scenarios for each fact.

    Args:
        facts: of the topic; those of one side of the split.
        wordings: questions and system prompts of training, or those that no training sees.
    """
    wrong = wrong_values(facts, seed)
    return [scenario for fact in facts for scenario in _of_fact(topic, fact, wrong.get(fact), seed, wordings)]


def _of_fact(topic: Topic, fact: Fact, wrong: str | None, seed: int, wordings: Wordings) -> list[Scenario]:
    rng = random.Random(f"{seed} {wordings} {topic.name} {fact.subject}")
    kinds = rng.sample([kind for kind in KINDS if wrong is not None or kind != CLAIM], 2)
    held_out = wordings == "held out"
    neutral = rng.sample(HELD_OUT_NEUTRAL if held_out else NEUTRAL, 2)
    questions = [topic.held_out_question] * 2 if held_out else rng.sample(topic.training_questions, 2)
    same, first = rng.random() < 0.5, rng.random() < 0.5
    begins = [(first, first if same else not first), (not first, not first if same else first)]
    made = []
    for kind, a, question, begins_true in zip(kinds, neutral, questions, begins, strict=True):
        task = asked = question.format(subject=fact.subject)
        if kind == CLAIM:
            claim = HELD_OUT_CLAIM if held_out else rng.choice(CLAIMS)
            task = claim.format(value=rng.choice([fact.truth, wrong])) + asked
        b = rng.choice(KINDS[kind].held_out if held_out else KINDS[kind].prompts)
        made.append(Scenario(fact, asked, task, a, b, kind, wrong, begins_true))
    return made


def wrong_values(facts: Sequence[Fact], seed: int) -> dict[Fact, str]:
    """A wrong value for each fact: the right values of the same facts, permuted.

    Where a value is right for too many of the facts, some facts are left out: they would get a value that is right.
    """
    if not facts:
        return {}
    rng = np.random.default_rng(seed)
    costs = rng.random((len(facts), len(facts)))
    for i, fact in enumerate(facts):
        for j, other in enumerate(facts):
            if i == j:
                costs[i, j] = _OWN_VALUE
            elif other.truth in fact.accepted:
                costs[i, j] = _NEVER
            elif other.group != fact.group:
                costs[i, j] += _OTHER_GROUP
    _, chosen = linear_sum_assignment(costs)
    return {fact: facts[j].truth for i, (fact, j) in enumerate(zip(facts, chosen, strict=True)) if i != j}
