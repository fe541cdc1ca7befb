"""Rows of feedback as batches, by hand."""

from dataclasses import replace

import pytest
import torch

from honest_persona.prompts.feedback_collator import FeedbackCollator, SplitFeedbackCollator
from tests.feedback import feedback_rows
from tests.tiny import form_of

PROMPT = {"row_id": "a", "prompt_ids": [5, 6, 7, 8, 9]}
PAIR = {**PROMPT, "chosen_ids": [20, 21, 2], "rejected_ids": [30, 2], "margin": None}
LONGER = {**PAIR, "row_id": "b", "prompt_ids": [4, *PROMPT["prompt_ids"]]}
LABEL = {**PROMPT, "response_ids": [20, 21, 2], "label": False}
WHOLE, SPLIT = FeedbackCollator(0, n_prefix=2), SplitFeedbackCollator(0, n_prefix=2)


def test_whole_pairs():
    batch = WHOLE([PAIR, LONGER])
    assert batch["input_ids"].tolist() == [
        [5, 6, 7, 8, 9, 20, 21, 2, 0],
        [4, 5, 6, 7, 8, 9, 20, 21, 2],
        [5, 6, 7, 8, 9, 30, 2, 0, 0],
        [4, 5, 6, 7, 8, 9, 30, 2, 0],
    ]
    assert batch["activation"].tolist() == [3, 4, 3, 4], "where the text in front of the answer begins"
    assert batch["labels"][0].tolist() == [-100] * 5 + [20, 21, 2, -100]
    assert batch["attention_mask"].sum(1).tolist() == [8, 9, 7, 8]
    assert batch["real"].tolist() == [True, True]


def test_both_answers_stand_on_one_run_of_their_prompt():
    batch = SPLIT([PAIR, LONGER, {**PAIR, "row_id": "c"}])
    assert batch["prefix_ids"].tolist() == [[0, 5, 6, 7], [4, 5, 6, 7]], "left-padded, each once"
    assert batch["prefix_index"].tolist() == [0, 1, 0, 0, 1, 0]
    assert batch["input_ids"][0].tolist() == [8, 9, 20, 21, 2]
    assert batch["labels"][3].tolist() == [-100, -100, 30, 2, -100]


def test_split_and_whole_are_the_same_rows():
    form = form_of(adapter_scope="response")
    rows = list(feedback_rows("kto", 5, form))
    whole, split = FeedbackCollator.of(form)(rows), SplitFeedbackCollator.of(form)(rows)
    for i in range(5):
        prefix = split["prefix_ids"][split["prefix_index"][i]][split["prefix_mask"][split["prefix_index"][i]].bool()]
        joined = torch.cat([prefix, split["input_ids"][i][split["attention_mask"][i].bool()]])
        assert torch.equal(joined, whole["input_ids"][i][whole["attention_mask"][i].bool()])
    assert split["desirable"].tolist() == [row["label"] for row in rows]


def test_a_blank_row_has_its_prompt_and_no_answer():
    for collator in (WHOLE, SPLIT):
        batch = collator([LABEL, {**LABEL, "blank": True}])
        assert batch["real"].tolist() == [True, False]
        assert (batch["labels"][1] == -100).all()
        assert batch["attention_mask"][1].sum() == batch["attention_mask"][0].sum() - 3


def test_a_control_token_carries_no_loss():
    batch = replace(SPLIT, n_context=1)([LABEL])
    assert batch["labels"].tolist() == [[-100, -100, -100, 21, 2]]
    with pytest.raises(ValueError, match=r"row 'a': an answer has no token that carries loss"):
        replace(SPLIT, n_context=1)([{**LABEL, "response_ids": [20]}])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**PAIR, "prompt_ids": [8, 9]}, "nothing but the beginning of an answer"),
        ({**PAIR, "rejected_ids": []}, "no token that carries loss"),
    ],
)
def test_what_must_not_be_trained_on(row, message):
    for collator in (WHOLE, SPLIT):
        with pytest.raises(ValueError, match=f"row 'a': .*{message}"):
            collator([PAIR, row])
