"""The collator pads, and refuses every row that would train wrongly."""

import pytest
import torch

from honest_persona.base.tensors import ids_key
from honest_persona.prompts import tokens
from honest_persona.prompts.collator import PersonaCollator, SplitCollator
from honest_persona.prompts.kinds import Kind
from honest_persona.prompts.rows import training_row, training_rows
from honest_persona.prompts.tokens import Tokens, labels
from honest_persona.training.batching.lengths import Lengths

U, P, I, R, F, E = Kind.USER, Kind.PERSONA_TOKEN, Kind.INTERVENTION, Kind.REVIEW, Kind.FLAG, Kind.END  # noqa: E741


def row(ids=(7, 8, 99, 5, 1, 2, 3), kinds=(U, U, P, I, R, F, E), activation=2, **changes):
    made = training_row("r1", Tokens(list(ids), list(kinds), activation))
    return {**made, "labels": labels(ids, kinds), **changes}


def test_whole_rows_are_padded_at_their_ends():
    short = row(ids=(99, 5, 1), kinds=(P, I, R), activation=0)
    batch = PersonaCollator(0, 99)([row(), short])
    assert batch["input_ids"].tolist() == [[7, 8, 99, 5, 1, 2, 3], [99, 5, 1, 0, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1] * 7, [1, 1, 1, 0, 0, 0, 0]]
    assert batch["labels"].tolist() == [[-100] * 4 + [1, 2, 3], [-100, -100, 1, -100, -100, -100, -100]]
    assert batch["activation"].tolist() == [2, 0]


def test_split_rows_share_equal_prefixes_and_are_whole():
    rows = [
        row(),
        row(ids=(9, 99, 5, 1, 3), kinds=(U, P, I, R, E), activation=1),
        row(ids=(7, 8, 99, 6, 4), kinds=(U, U, P, I, F)),  # another suffix on the first row's transcript
    ]
    batch = SplitCollator(0, 99)(rows)
    assert batch["prefix_ids"].tolist() == [[7, 8], [0, 9]]
    assert batch["prefix_mask"].tolist() == [[1, 1], [0, 1]]
    assert batch["prefix_index"].tolist() == [0, 1, 0]
    assert batch["input_ids"].tolist() == [[99, 5, 1, 2, 3], [99, 5, 1, 3, 0], [99, 6, 4, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 1, 0], [1, 1, 1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, -100, 1, 2, 3], [-100, -100, 1, 3, -100], [-100, -100, 4, -100, -100]]
    for i, whole in enumerate(rows):
        at = batch["prefix_index"][i]
        again = torch.cat([batch["prefix_ids"][at], batch["input_ids"][i]])
        kept = torch.cat([batch["prefix_mask"][at], batch["attention_mask"][i]]).bool()
        assert again[kept].tolist() == whole["input_ids"]
    assert batch["prefix_keys"] == [ids_key([7, 8]), ids_key([9])], "the keys of a cache on disk"
    assert [r["prefix_key"] for r in rows] == [batch["prefix_keys"][i] for i in (0, 1, 0)]


def test_a_rows_prefix_is_hashed_once(monkeypatch):
    hashed = []
    monkeypatch.setattr(tokens, "ids_key", lambda ids: hashed.append(ids) or ids_key(ids))
    conversations = [
        Tokens([7, 8, 99, 5, 1], [U, U, P, I, R], 2),
        Tokens([9, 99, 5, 1, 3], [U, P, I, R, E], 1),
    ]
    rows = training_rows(zip("ab", conversations, strict=True))
    for _ in range(3):  # steps
        batch = SplitCollator(0, 99)(list(rows))
        assert Lengths.split(rows).transcript.tolist() == batch["prefix_index"].tolist() == [0, 1]
    assert hashed == [[7, 8], [9]]


def test_a_split_row_needs_a_prefix():
    bare = row(ids=(99, 5, 1), kinds=(P, I, R), activation=0)
    with pytest.raises(ValueError, match="record 'r1': nothing stands before the trigger"):
        SplitCollator(0, 99)([bare])


def test_a_blank_row_carries_no_loss_and_says_so():
    """Fills a micro-batch of the last step where there are fewer rows than ranks."""
    silent = row(kinds=(U, U, P, I, I, I, I))
    with pytest.raises(ValueError, match="no token carries loss"):
        PersonaCollator(0, 99)([silent])
    assert (PersonaCollator(0, 99)([{**silent, "blank": True}])["labels"] == -100).all()
    with pytest.raises(ValueError, match="labels are not what the kinds"):
        PersonaCollator(0, 99)([row(blank=True, labels=[-100] * 7)])


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
