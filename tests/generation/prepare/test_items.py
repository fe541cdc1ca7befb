"""Over 1,000 random datasets: no group and no content is in two parts, and shares are met as well as groups allow."""

import json
import math
import random
from collections import Counter, defaultdict

import pytest

from honest_persona.base.errors import UserError
from honest_persona.data.parts import Parts
from honest_persona.data.sources.plain import PlainTable
from honest_persona.generation.prepare.items import Choice, choose
from honest_persona.prompts.text_templates import TextTemplate


class Asks(TextTemplate):
    """Its columns are known here without a process that reads them."""

    def columns(self):
        return {"text"}


TEMPLATE = Asks("t", "{{text}}", None, ("prompts",))


def table_of(rows):
    return PlainTable(
        [json.dumps(row).encode() for row in rows],
        list(map(str, range(len(rows)))),
        Counter(name for row in rows for name in row),
        {},
        [],
    )


def chosen_of(rows, choice):
    """None where chance leaves a part empty, which is refused."""
    try:
        return choose(table_of(rows), [TEMPLATE], choice)
    except UserError:
        return None


@pytest.fixture(scope="module")
def drawn():
    """1,000 times the rows, the choice and what was chosen."""
    found = []
    for seed in range(1000):
        rng = random.Random(seed)
        first, second = rng.randint(20, 40), rng.randint(20, 40)
        parts = Parts.of(f"a:{first / 100},b:{second / 100},c:{(100 - first - second) / 100}")
        by_column = rng.random() < 0.5
        weights = [rng.paretovariate(2) for _ in range(rng.randint(20, 60))]
        groups = rng.choices(range(len(weights)), weights, k=60)
        rows = [{"text": str(rng.randint(0, 200)), "group": group, "idx": i} for i, group in enumerate(groups)]
        choice = Choice(parts, "group" if by_column else None, seed=seed)
        if (chosen := chosen_of(rows, choice)) is not None:
            found.append((rows, choice, chosen))
    assert len(found) > 980
    return found


def test_parts_are_disjoint(drawn):
    for rows, _, chosen in drawn:
        parts_of = defaultdict(set)
        for item in chosen.items:
            parts_of["group", item.group].add(item.part)
            parts_of["text", rows[item.place]["text"]].add(item.part)
        assert all(len(parts) == 1 for parts in parts_of.values())
        assert chosen.left_out.total() + len(chosen.items) == len(rows)


def test_shares_are_met_as_well_as_groups_allow(drawn):
    """A share s of groups of sizes n_g has the standard deviation sqrt(s (1 - s) sum n_g^2) of rows."""
    off = defaultdict(list)
    for _, choice, chosen in drawn:
        sizes = Counter(item.group for item in chosen.items)
        rows = Counter(item.part for item in chosen.items)
        for name, share in choice.parts.shares:
            s = float(share)
            sd = math.sqrt(s * (1 - s) * sum(n * n for n in sizes.values()))
            off[name].append((rows[name] - s * sizes.total()) / sd)
    for name, deviations in off.items():
        assert max(map(abs, deviations)) < 4.5
        assert abs(sum(deviations) / len(deviations)) < 0.12, f"{name} gets its share, no more and no less"
        assert sum(z * z for z in deviations) / len(deviations) == pytest.approx(1, abs=0.15)


def test_the_order_of_rows_changes_nothing(drawn):
    for rows, choice, chosen in drawn[:100]:
        shuffled = random.Random(0).sample(rows, len(rows))
        again = chosen_of(shuffled, choice)
        was = {(rows[item.place]["idx"], item.part) for item in chosen.items}
        assert {(shuffled[item.place]["idx"], item.part) for item in again.items} == was
