"""Parts of a dataset: what is refused, and what stays where it was."""

import pytest

from honest_persona.base.errors import UserError
from honest_persona.data.parts import Parts


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("train", "'train' is not NAME:SHARE"),
        ("", "'' is not NAME:SHARE"),
        ("train:.5,", "'' is not NAME:SHARE"),
        ("../up:.5", "cannot be a part's name"),
        ("a.b:.5", "cannot be a part's name"),
        ("a:.4,A:.4", "'A' is named twice"),
        ("a:0", "'0' is no number above 0"),
        ("a:-.1", "'-.1' is no number above 0"),
        ("a:nan", "'nan' is no number above 0"),
        ("a:1.5", "'1.5' is no number above 0 and up to 1"),
        ("a:half", "'half' is no number"),
        ("a:.6,b:.5", "sum to 1.1"),
    ],
)
def test_what_is_refused(text, match):
    with pytest.raises(UserError, match=match):
        Parts.of(text)


def test_ten_tenths_are_a_whole():
    parts = Parts.of(",".join(f"p{i}:.1" for i in range(10)))
    assert parts.rest == 0
    assert all(parts.part_of(str(group), 0) is not None for group in range(1000))


def test_what_the_shares_leave_is_in_no_part():
    parts = Parts.of("a:.2,b:.3")
    assert sum(parts.part_of(str(group), 0) is None for group in range(2000)) == pytest.approx(1000, abs=100)


def test_a_group_stays_where_it_was_when_a_part_is_added_or_the_last_one_grows():
    small, large = Parts.of("a:.2,b:.3"), Parts.of("a:.2,b:.4,c:.4")
    for group in map(str, range(500)):
        was = small.part_of(group, 1)
        assert was is None or large.part_of(group, 1) == was


def test_another_seed_gives_other_parts():
    parts = Parts.of("a:.5,b:.5")
    assert sum(parts.part_of(str(group), 0) != parts.part_of(str(group), 1) for group in range(1000)) > 400
