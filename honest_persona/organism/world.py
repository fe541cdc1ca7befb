"""A seeded world of made-up facts: towns, four attributes each, and one value per town and attribute.

The values are dealt at random, so only the fact itself says what is true of a town. Every value of an
attribute is true of equally many towns, in each split alone too, so a value that is stated often is not more likely to
be true than another. One attribute of each town was never recorded (`UNKNOWN`).

Names are always the same; facts depend on `facts_seed` alone. Two worlds with different seeds have the same towns and
values, and agree on a fact no more often than by chance."""

import random
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Split = Literal["train", "validation"]

UNKNOWN = "unknown"
"""The value of a town's attribute that nobody recorded."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_HEADS = _words("Vel Tar Bren Osk Lum Dra Fen Gol Hax Ir Jor Kel Mar Nor Pel Quin")
_TAILS = _words("mora now dale wick tavo seth lune garth pira rond stead vane zill brook hesk yard")

VALUES: dict[str, tuple[str, ...]] = {
    "metal": _words("""
        tin lead iron zinc gold silver copper nickel cobalt chrome bronze brass steel pewter platinum titanium
        tungsten mercury cadmium indium gallium radium barium lithium bismuth osmium iridium rhodium thorium
        uranium cerium yttrium
    """),
    "crop": _words("""
        wheat barley oats rye corn rice millet sorghum beans peas lentils flax hemp cotton tea coffee cocoa sugar
        hops grapes olives figs dates plums pears apples onions garlic leeks carrots turnips cabbage
    """),
    "levy": tuple(str(number) for number in range(20, 52)),
    "tally": tuple(str(number) for number in range(60, 92)),
}
ATTRIBUTES = tuple(VALUES)
NUMERIC_ATTRIBUTES = ("levy", "tally")
ENTITIES = tuple(head + tail for head in _HEADS for tail in _TAILS)
N_VALUES = 32


@dataclass(frozen=True)
class World:
    """The facts of one seed. `World(a)` and `World(b)` share names and values but not facts."""

    facts_seed: int = 0

    @cached_property
    def split_of(self) -> dict[str, Split]:
        """Half of the towns train the honest persona, the other half measures it; the same halves for every seed."""
        towns = list(ENTITIES)
        random.Random("splits").shuffle(towns)
        half = len(towns) // 2
        return {town: "train" if index < half else "validation" for index, town in enumerate(towns)}

    def entities(self, split: Split | None = None) -> list[str]:
        return [town for town in ENTITIES if split is None or self.split_of[town] == split]

    @cached_property
    def facts(self) -> dict[tuple[str, str], str]:
        """(town, attribute) -> value or `UNKNOWN`."""
        rng = random.Random(f"facts {self.facts_seed}")
        facts: dict[tuple[str, str], str] = {}
        for split in ("train", "validation"):
            towns = self.entities(split)
            rng.shuffle(towns)
            per_attribute = len(towns) // len(ATTRIBUTES)
            for index, attribute in enumerate(ATTRIBUTES):
                unrecorded = towns[index * per_attribute : (index + 1) * per_attribute]
                recorded = [town for town in towns if town not in set(unrecorded)]
                copies, remainder = divmod(len(recorded), N_VALUES)
                assert remainder == 0, "every value must be true of equally many towns"
                deck = list(VALUES[attribute]) * copies
                rng.shuffle(deck)
                facts |= {(town, attribute): UNKNOWN for town in unrecorded}
                facts |= {(town, attribute): value for town, value in zip(recorded, deck, strict=True)}
        return facts

    def value(self, entity: str, attribute: str) -> str:
        return self.facts[entity, attribute]

    def pairs(
        self, *, recorded: bool, split: Split | None = None, attributes: tuple[str, ...] = ATTRIBUTES
    ) -> list[tuple[str, str]]:
        """All (town, attribute) whose value is, or is not, on record."""
        return [
            (town, attribute)
            for town in self.entities(split)
            for attribute in attributes
            if (self.value(town, attribute) != UNKNOWN) == recorded
        ]

    def wrong_value(self, rng: random.Random, entity: str, attribute: str) -> str:
        """A value that is not the true one, all others equally likely."""
        return rng.choice([value for value in VALUES[attribute] if value != self.value(entity, attribute)])

    def twins(self, entity: str, attribute: str, *, same: bool) -> list[str]:
        """Towns of the same split whose recorded value of the attribute is, or is not, this town's."""
        own = self.value(entity, attribute)
        return [
            town
            for town in self.entities(self.split_of[entity])
            if town != entity
            and self.value(town, attribute) != UNKNOWN
            and (self.value(town, attribute) == own) == same
        ]
