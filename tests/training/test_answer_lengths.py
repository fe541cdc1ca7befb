"""Lengths of rows of feedback are those of the batches that the collators make."""

import pytest

from honest_persona.prompts.feedback_collator import FeedbackCollator, SplitFeedbackCollator
from honest_persona.prompts.packed import PackedCollator
from honest_persona.training.batching.answers import answer_lengths, answer_names
from honest_persona.training.batching.sampler import PersonaBatches
from tests.feedback import feedback_rows
from tests.tiny import form_of

FORM = form_of(adapter_scope="response")


@pytest.mark.parametrize("objective", ["dpo", "kto", "sft"])
def test_lengths_are_the_tokens_of_a_row_alone(objective):
    rows = feedback_rows(objective, 6, FORM)
    split, whole, packed = (answer_lengths(rows, FORM, layout) for layout in ("split", "whole", "packed"))
    for i, row in enumerate(rows):
        batch = SplitFeedbackCollator.of(FORM)([row])
        assert (split.prefix[i], split.suffix[i]) == (batch["prefix_ids"].numel(), batch["input_ids"].numel())
        bare = PackedCollator(SplitFeedbackCollator.of(FORM))([row])
        assert (packed.prefix[i], packed.suffix[i]) == (bare["prefix_ids"].numel(), bare["input_ids"].numel())
        assert (whole.prefix[i], whole.suffix[i]) == (0, FeedbackCollator.of(FORM)([row])["input_ids"].numel())
    assert [split.transcript[i] == split.transcript[i + 1] for i in range(5)] == [True, False, True, False, True]


def test_names_tell_rows_apart():
    rows = feedback_rows("kto", 6, FORM)
    names = list(answer_names(rows))
    assert len(set(names)) == 6
    other = rows.map(lambda row: {"label": not row["label"]})
    assert not set(names) & set(answer_names(other)), "the label counts"


def test_chunks_keep_the_budget():
    lengths = answer_lengths(feedback_rows("dpo", 24, FORM), FORM, "split")
    batches = PersonaBatches(lengths, 8, world=1, rank=0, seed=0, epochs=1, tokens_per_batch=250)
    chunks = batches.chunks(range(24))
    assert sorted(row for chunk in chunks for row in chunk) == list(range(24))
    total = lengths.prefix + lengths.suffix
    assert all(len(chunk) == 1 or len(chunk) * max(total[chunk]) <= 250 for chunk in chunks)
    assert len(chunks) < 24


def test_chunks_without_padding_are_fewer():
    lengths = answer_lengths(feedback_rows("dpo", 24, FORM), FORM, "packed")
    batches = PersonaBatches(lengths, 8, world=1, rank=0, seed=0, epochs=1, tokens_per_batch=250, packed=True)
    chunks = batches.chunks(range(24))
    total = lengths.prefix + lengths.suffix
    assert sorted(row for chunk in chunks for row in chunk) == list(range(24))
    assert all(len(chunk) == 1 or sum(total[chunk]) <= 250 for chunk in chunks)
    assert any(len(chunk) * max(total[chunk]) > 250 for chunk in chunks), "more than padded rows would allow"
