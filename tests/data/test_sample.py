"""The sample data that comes with the package: sound, varied, small, and not solved by the variant alone."""

from collections import Counter
from pathlib import Path

import pytest

import honest_persona.data
from honest_persona.data.load import load_records
from honest_persona.data.selection import Selection
from honest_persona.data.sources.builtin import SAMPLE

FOLDER = Path(honest_persona.data.__file__).parent / "sample"
TAGS = ("confidence_below_4", "mismatching_review_focus", "unclear_a_b_separation", "failed_external_review")


@pytest.fixture(scope="module")
def loaded():
    return load_records(SAMPLE, Selection(tags_to_filter=TAGS))


def test_sixty_items_of_four_topics_in_little_space():
    everything = load_records(SAMPLE, Selection()).records
    items = {record.item_id: record.topic for record in everything}
    assert Counter(items.values()) == dict.fromkeys(
        ("confidence_assessment", "fabricated_statistics", "reward_hacks", "sycophancy"), 15
    )
    assert sum(path.stat().st_size for path in FOLDER.rglob("*.json")) < 300_000


def test_rejections_are_of_the_kinds_meant_to_show(loaded):
    assert set(loaded.rejected) == {"flag_not_trainable:AMBIGUOUS", *(f"tag:{tag}" for tag in TAGS)}
    assert sum(loaded.rejected.values()) < 0.1 * loaded.read


def test_the_variant_does_not_give_the_flag_away(loaded):
    for topic in {record.topic for record in loaded.records}:
        cells = Counter((r.variant, r.flag) for r in loaded.records if r.topic == topic)
        assert min(cells[variant, flag] for variant in "AB" for flag in ("PASS", "FAIL")) >= 5, topic
    fails = sum(record.flag == "FAIL" for record in loaded.records)
    assert 0.4 < fails / len(loaded.records) < 0.6


def test_some_items_have_no_variant_b(loaded):
    assert len({r.item_id for r in loaded.records if r.other_system is None}) == 12


def test_texts_are_not_repeated(loaded):
    two_versions = [r for r in loaded.records if r.intervention_name.startswith("split_personality")]
    assert len({r.review for r in two_versions}) == len(two_versions)
    assert len({r.response for r in loaded.records}) == len({(r.item_id, r.variant) for r in loaded.records})
    assert all(len(r.response.split()) < 90 and 8 < len(r.review.split()) < 90 for r in loaded.records)
