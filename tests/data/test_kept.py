"""Kept records are equal to what was given, in memory and in a file, and are made one by one."""

import tracemalloc
from functools import partial

import pytest

from honest_persona.data.kept import Records
from tests.tiny import record

GIVEN = [
    record(
        n,
        topic=f"topic {n % 3}",
        variant="AB"[n % 2],
        group=[None, "group 🙂"][n % 2],
        split=[None, "train", "validation"][n % 3],
        tags=("a", "é") * (n % 2),
        response='It’s 🙂 \x00 \u2028 \\ "' + "." * n,
        turns=({"role": "user", "content": "Well?"}, {"role": "tool", "content": "", "name": "f"}),
        answer_fields={"tool_calls": [{"function": {"name": "f", "arguments": {"x": [1e-7, 10**30, None, True]}}}]},
    )
    for n in range(600)
]


@pytest.fixture(scope="module", params=["memory", "file"])
def kept(request):
    return Records.of(iter(GIVEN), 2**30 if request.param == "memory" else 0)


def test_each_is_what_was_given(kept):
    assert len(kept) == 600
    assert kept == GIVEN
    assert kept[0] == GIVEN[0]
    assert kept[-1] == GIVEN[-1]
    assert kept != GIVEN[1:]
    assert kept != [*GIVEN[1:], GIVEN[0]]
    assert kept != "records"
    assert [type(value) for value in kept[5].model_dump().values()] == [
        type(value) for value in GIVEN[5].model_dump().values()
    ]
    with pytest.raises(IndexError):
        kept[600]


def test_parts_and_sums(kept):
    part = kept.take([5, 2, 599])
    assert part == [GIVEN[5], GIVEN[2], GIVEN[599]]
    assert part[1:] == [GIVEN[2], GIVEN[599]]
    assert part.take([2]) + part == [GIVEN[599], GIVEN[5], GIVEN[2], GIVEN[599]]
    assert part + Records.of(GIVEN[:2]) == [GIVEN[5], GIVEN[2], GIVEN[599], *GIVEN[:2]]
    assert not kept.take([])
    assert Records.of([]) == []
    assert Records.of(part) is part


@pytest.mark.parametrize("name", ["id", "cluster", "split", "variant"])
def test_columns(kept, name):
    assert kept.take([7, 3]).values(name) == [getattr(GIVEN[7], name), getattr(GIVEN[3], name)]


def test_an_emoji_does_not_make_a_text_four_times_as_large():
    """Python's texts take four bytes for each character of a text with an emoji."""
    text = "🙂" + "a" * 4000

    def held(make):
        tracemalloc.start()
        try:
            kept = make(record(n, id=str(n), response=text + str(n)) for n in range(200))
            assert len(kept) == 200
            return tracemalloc.get_traced_memory()[0] / 200
        finally:
            tracemalloc.stop()

    assert held(list) > 16_000, "negative control"
    assert held(Records.of) < 6_500
    assert held(partial(Records.of, in_memory_bytes=0)) < 600
