"""Two control tokens that a model cannot tell apart are refused, with two that it can."""

from dataclasses import replace

import pytest
import torch

from honest_persona.base.errors import UserError
from honest_persona.config.load import load_config
from honest_persona.modeling.control_tokens import check_told_apart
from honest_persona.modeling.load import load_base
from honest_persona.modeling.token_format import token_format
from honest_persona.prompts.persona_token import safe_ids

FLAGS = ["--model", "builtin:organism", "--objective", "csft"]


@pytest.fixture
def form():
    return token_format(load_config(None, FLAGS))


@pytest.fixture
def model():
    return load_base("builtin:organism", None, torch.float32, None, None)


def spare_rows(model, form) -> tuple[list[int], torch.Tensor]:
    weight = model.get_input_embeddings().weight
    spare = safe_ids(form.tokenizer, len(weight))
    assert tuple(spare[:2]) == form.control
    return spare, weight.data


def test_tokens_that_differ_pass(model, form):
    check_told_apart(model, form)
    check_told_apart(model, replace(form, control=None))


@pytest.mark.parametrize("row", [0.0, 0.02, "the other's, longer"])
def test_equal_ones_are_refused_and_others_named(model, form, row):
    spare, weight = spare_rows(model, form)
    weight[list(form.control)] = weight[spare[0]] * torch.tensor([[1.0], [1.5]]) if isinstance(row, str) else row
    weight[spare[3]] = -weight[spare[4]]
    with pytest.raises(UserError, match=f"ids {spare[0]} and {spare[1]}, the control tokens, have the same") as error:
        check_told_apart(model, form)
    flags = [f"--{key}_token_id {i}" for key, i in zip(("desirable", "undesirable"), spare[3:5], strict=True)]
    assert f"set desirable_token_id: {spare[3]} and undesirable_token_id: {spare[4]}, which differ most" in str(
        error.value
    )
    check_told_apart(model, token_format(load_config(None, [*FLAGS, *" ".join(flags).split()])))


def test_no_two_free_rows_differ(model, form):
    spare, weight = spare_rows(model, form)
    weight[spare] = 0.1
    with pytest.raises(UserError, match=r"no two free ids differ more; use objective: kto$"):
        check_told_apart(model, form)
