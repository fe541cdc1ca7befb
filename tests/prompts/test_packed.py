"""A packed batch is the padded one without its padding."""

import torch

from honest_persona.prompts.collator import SplitCollator
from honest_persona.prompts.feedback_collator import SplitFeedbackCollator
from honest_persona.prompts.packed import PackedCollator
from honest_persona.training.compared import by_answer, learned
from tests.feedback import feedback_rows
from tests.modeling.prefix.test_frozen import ragged
from tests.tiny import form_of


def test_every_token_once_and_in_order():
    form = form_of()
    rows = ragged(form)
    batch = PackedCollator(SplitCollator.of(form))(rows)
    at = 0
    prefixes = batch["prefix_ids"][0].split(batch["prefix_lengths"])
    for row, n, prefix in zip(rows, batch["suffix_lengths"], batch["prefix_index"], strict=True):
        start = row["activation"]
        assert prefixes[prefix].tolist() == row["input_ids"][:start]
        for name in ("input_ids", "labels", "kinds"):
            assert batch[name][0, at : at + n].tolist() == list(row[name][start:])
        at += n
    assert at == batch["input_ids"].numel()
    assert len(batch["prefix_lengths"]) == 3, "two rows share a transcript"


def test_log_probabilities_stand_in_their_answers_rows():
    form = form_of(adapter_scope="response")
    rows = list(feedback_rows("dpo", 5, form))
    split = SplitFeedbackCollator.of(form)
    padded, packed = split(rows), PackedCollator(split)(rows)
    mask = padded["attention_mask"].bool()
    values = torch.arange(mask.numel(), dtype=torch.float32).view(mask.shape)  # as if of the token at each place
    in_one_row = values[mask][None, 1:]
    assert torch.equal(learned(padded), learned(packed))
    found, expected = by_answer(in_one_row, packed), values[:, 1:]
    assert torch.equal(found[learned(packed)], expected[learned(padded)])
    assert found.shape == expected.shape
    torch.testing.assert_close(packed["real"], padded["real"])
