"""Mismatched answers of a step: never of the same prompt, each once where that is possible."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from honest_persona.base.errors import UserError
from honest_persona.training.mismatched import check_steps, mismatched


@given(st.lists(st.integers(0, 5), min_size=2, max_size=20).filter(lambda prompts: len(set(prompts)) > 1))
def test_never_of_the_same_prompt_and_each_once_where_possible(prompts):
    of = mismatched(prompts)
    assert all(prompts[i] != prompts[other] for i, other in enumerate(of))
    if 2 * max(map(prompts.count, prompts)) <= len(prompts):
        assert sorted(of) == list(range(len(prompts)))


def test_by_hand():
    # order by prompt: a0 a2 b1 c3; shifted by two, the size of a: a0 gets b1, a2 gets c3, b1 gets a0, c3 gets a2
    assert mismatched(["a", "b", "a", "c"]) == [1, 0, 3, 2]


def test_one_prompt_alone():
    with pytest.raises(ValueError, match="one prompt"):
        mismatched(["a", "a"])
    check_steps([[0, 1], [2, 0]], ["a", "b", "b"], "kto", 2)
    check_steps([[0, 1], [2]], ["a", "b", "b"], "kto", 1)  # the run ends before the step that has one prompt alone
    with pytest.raises(UserError, match=r"the 1 row\(s\) of step 2 of an epoch have one prompt.*dataloader_drop_last"):
        check_steps([[0, 1], [2]], ["a", "b", "b"], "kto", 5)
