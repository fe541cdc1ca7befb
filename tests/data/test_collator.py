"""The collator pads, and refuses every row that would train wrongly."""

import pytest
import torch

from honest_persona.data.collator import PersonaCollator
from honest_persona.data.segments import Kind
from honest_persona.data.tokens import labels

U, P, I, R, F, E = Kind.USER, Kind.PERSONA_TOKEN, Kind.INTERVENTION, Kind.REVIEW, Kind.FLAG, Kind.END  # noqa: E741


def row(ids=(7, 8, 99, 5, 1, 2, 3), kinds=(U, U, P, I, R, F, E), activation=2, **changes):
    made = {"input_ids": list(ids), "kinds": list(kinds), "activation": activation, "record_id": "r1"}
    return {**made, "labels": labels(ids, kinds), **changes}


def test_padding_on_both_sides():
    short = row(ids=(99, 5, 1), kinds=(P, I, R), activation=0)
    right = PersonaCollator(0, 99)([row(), short])
    assert right["input_ids"].tolist() == [[7, 8, 99, 5, 1, 2, 3], [99, 5, 1, 0, 0, 0, 0]]
    assert right["attention_mask"].tolist() == [[1] * 7, [1, 1, 1, 0, 0, 0, 0]]
    assert right["labels"].tolist() == [[-100] * 4 + [1, 2, 3], [-100, -100, 1, -100, -100, -100, -100]]
    assert right["activation"].tolist() == [2, 0]
    left = PersonaCollator(0, 99, "left")([row(), short])
    assert left["input_ids"].tolist()[1] == [0, 0, 0, 0, 99, 5, 1]
    assert left["activation"].tolist() == [2, 4]
    for batch in (left, right):  # the activation point is where the persona token is
        assert torch.equal((batch["input_ids"] == 99).long().argmax(1), batch["activation"])


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (row(ids=(7, 8, 6, 5, 1, 2, 3)), "does not stand exactly once"),
        (row(ids=(7, 99, 99, 5, 1, 2, 3)), "does not stand exactly once"),
        (row(activation=3), "does not stand exactly once"),
        (row(labels=[7, -100, -100, -100, 1, 2, 3]), "labels are not what the kinds"),
        (row(labels=[-100] * 7), "labels are not what the kinds"),
        (row(labels=[-100] * 6), "differ in length"),
        (row(kinds=(U, U, P, I, I, I, I)), "no token carries loss"),
        (row(kinds=(U, R, P, I, R, F, E)), "loss before the review"),
        (row(kinds=(U, U, P, R, R, F, E)), "no intervention"),
    ],
)
def test_refusals_name_the_record(bad, problem):
    with pytest.raises(ValueError, match=f"record 'r1': .*{problem}"):
        PersonaCollator(0, 99)([bad])


def test_without_persona_token_the_intervention_is_the_activation_point():
    good = row(kinds=(U, U, I, I, R, F, E))
    PersonaCollator(0, None)([good])
    with pytest.raises(ValueError, match="not the first token of the intervention"):
        PersonaCollator(0, None)([{**good, "activation": 3}])
