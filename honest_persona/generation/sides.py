"""On which side of the split a fact stands: by its subject, so that Ghana is on one side in all topics."""

from collections.abc import Collection
from typing import Literal

from honest_persona.data.splits import uniform
from honest_persona.generation.facts import Fact

Side = Literal["train", "validation", "liar"]
LIAR_FRAC = 0.15
"""The share of subjects that only teach the liar; no record is about them."""


def group_of(fact: Fact) -> str:
    """The name that facts about one thing share: `the Netherlands` and `Netherlands` are one."""
    return fact.subject.lower().removeprefix("the ")


def side_of(fact: Fact, validation_topics: Collection[str], held_out_frac: float, seed: int) -> Side:
    """Facts of validation topics are held out, all but the liar's."""
    group = group_of(fact)
    if uniform(seed, "liar", group) < LIAR_FRAC:
        return "liar"
    held_out = fact.topic in validation_topics or uniform(seed, "held_out_subject", group) < held_out_frac
    return "validation" if held_out else "train"
