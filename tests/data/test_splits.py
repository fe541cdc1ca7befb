"""Seeded choices: by item, stable, independent of order."""

import random
from collections import Counter

import pytest

from honest_persona.data.load import load_records
from honest_persona.data.records import Record
from honest_persona.data.selection import Selection
from honest_persona.data.splits import in_share, limit_records, sample_per_topic, split_records, uniform


def record(number: int, item: str, topic: str = "t", flag: str = "PASS", variant: str = "A") -> Record:
    return Record(
        id=f"{topic}-{item}-{number}",
        item_id=item,
        topic=topic,
        variant=variant,
        system="",
        other_system=None,
        task="q",
        model="m",
        response="a",
        intervention_name="i",
        intervention="i",
        review="r",
        flag=flag,
        tags=(),
    )


MANY = [record(n, f"{topic}{i}", topic) for topic in ("s", "t", "u") for i in range(200) for n in range(3)]


def test_uniform_is_in_range_even_and_salted():
    drawn = [uniform(0, "a", str(i)) for i in range(2000)]
    assert 0 <= min(drawn) < max(drawn) < 1
    assert abs(sum(drawn) / 2000 - 0.5) < 0.03  # standard error 0.0065
    both = sum(u < 0.5 and uniform(0, "b", str(i)) < 0.5 for i, u in enumerate(drawn))
    assert abs(both / 2000 - 0.25) < 0.05  # independent of another salt


def test_the_split_is_by_item_and_loses_nothing():
    splits = split_records(MANY, ["u"], 0.2, seed=0)
    assert Counter(r.id for part in splits for r in part) == Counter(r.id for r in MANY)
    items = [{r.item_id for r in part} for part in splits]
    assert sum(map(len, items)) == len(set.union(*items))  # disjoint
    assert {r.topic for r in splits.across} == {"u"}
    assert 0.13 < len(items[1]) / 400 < 0.27  # 0.2 +- 3.5 standard errors of 0.02


def test_the_split_is_stable_and_seeded():
    whole, part = split_records(MANY, [], 0.2, 0), split_records(MANY[::-1][:500], [], 0.2, 0)
    assert {r.id for r in part.within} == {r.id for r in whole.within} & {r.id for r in MANY[::-1][:500]}
    assert split_records(MANY, [], 0.2, 1).within != whole.within
    larger = {r.id for r in split_records(MANY, [], 0.4, 0).within}
    assert {r.id for r in whole.within} < larger


def test_an_item_of_a_validation_topic_is_never_trained_on():
    shared = [record(0, "same", "trained"), record(1, "same", "validation"), record(2, "own", "trained")]
    splits = split_records(shared, ["validation"], 0.0, 0)
    assert [r.id for r in splits.across] == ["trained-same-0", "validation-same-1"]
    assert [r.id for r in splits.train] == ["trained-own-2"]


def test_no_fraction_and_all_of_it():
    assert split_records(MANY, [], 0.0, 0).within == []
    assert split_records(MANY, [], 1.0, 0).train == []
    assert in_share("x", 1.0, 0)
    assert not in_share("x", 0.0, 0)


def test_real_items_do_not_leak(spt_dir):
    records = load_records(str(spt_dir), Selection()).records
    splits = split_records(records, ["jailbreak_attempts"], 0.1, 0)
    texts = [{(r.task, *sorted([r.system, r.other_system or ""])) for r in part} for part in splits]
    assert all(splits[:3])
    assert sum(map(len, texts)) == len(set.union(*texts))  # disjoint


def test_a_sample_prefers_new_items_and_balances_flags():
    # 10 items, each with 3 FAIL and 3 PASS records: 10 records are of 10 items, 5 of each flag.
    records = [record(n, f"i{i}", flag="FAIL" if n < 3 else "PASS") for i in range(10) for n in range(6)]
    sample = sample_per_topic(records, 10, 0)
    assert len({r.item_id for r in sample}) == 10
    assert Counter(r.flag for r in sample) == {"FAIL": 5, "PASS": 5}
    # The second ten start again with every item.
    assert set(Counter(r.item_id for r in sample_per_topic(records, 20, 0)).values()) == {2}


def test_a_sample_balances_variants_within_a_flag_as_far_as_they_go():
    # PASS: 50 A, 3 B; FAIL: 2 A, 50 B. Of 20, 10 are PASS, with all 3 of B; 10 are FAIL, with both of A.
    cells = {("PASS", "A"): 50, ("PASS", "B"): 3, ("FAIL", "A"): 2, ("FAIL", "B"): 50}
    records = [record(n, f"{f}{v}{n}", flag=f, variant=v) for (f, v), count in cells.items() for n in range(count)]
    chosen = Counter((r.flag, r.variant) for r in sample_per_topic(records, 20, 0))
    assert chosen == {("PASS", "A"): 7, ("PASS", "B"): 3, ("FAIL", "A"): 2, ("FAIL", "B"): 8}


def test_a_sample_does_not_depend_on_order_and_grows():
    shuffled = random.Random(0).sample(MANY, len(MANY))
    sample = sample_per_topic(MANY, 7, 0)
    assert sample_per_topic(shuffled, 7, 0) == sample
    assert [r.topic for r in sample] == ["s"] * 7 + ["t"] * 7 + ["u"] * 7
    assert sample_per_topic(MANY, 9, 0)[:7] == sample[:7]
    assert sample_per_topic(MANY, 7, 1) != sample
    assert Counter(r.id for r in sample_per_topic(MANY, 10_000, 0)) == Counter(r.id for r in MANY)
    assert sample_per_topic(MANY, 0, 0) == sample_per_topic([], 5, 0) == []


@pytest.mark.parametrize("n", [0, 5, 1800, 5000, None])
def test_limit_keeps_order(n):
    limited = limit_records(MANY, n, 0)
    assert len(limited) == (len(MANY) if n is None else min(n, len(MANY)))
    positions = [MANY.index(r) for r in limited[:50]]
    assert positions == sorted(positions)


def test_limit_is_seeded_and_independent_of_order():
    chosen = {r.id for r in limit_records(MANY, 20, 0)}
    assert {r.id for r in limit_records(MANY[::-1], 20, 0)} == chosen
    assert {r.id for r in limit_records(MANY, 20, 1)} != chosen


def test_a_group_is_split_as_one():
    grouped = [r.model_copy(update={"group": r.item_id[-1]}) for r in MANY]  # ten groups of many items
    splits = split_records(grouped, [], 0.5, seed=0)
    groups = [{r.group for r in part} for part in splits[:2]]
    assert all(groups)
    assert not groups[0] & groups[1]
    ungrouped = [{r.item_id[-1] for r in part} for part in split_records(MANY, [], 0.5, seed=0)[:2]]
    assert ungrouped[0] & ungrouped[1], "negative control: by item alone the groups mix"


def test_the_data_may_declare_its_own_split():
    declared = [r.model_copy(update={"split": "validation" if n % 3 == 0 else "train"}) for n, r in enumerate(MANY)]
    splits = split_records(declared, ["u"], 0.2, seed=0)
    assert {r.split for r in splits.train} == {r.split for r in splits.unused} == {"train"}
    assert {r.split for r in splits.within} == {r.split for r in splits.across} == {"validation"}
    assert {r.topic for r in splits.unused} == {r.topic for r in splits.across} == {"u"}
    assert sum(map(len, splits)) == len(MANY)
