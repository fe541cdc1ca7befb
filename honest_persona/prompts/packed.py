"""A batch that was cut at activation points, without padding: prefixes one behind the other, and so the suffixes.

    collator = PackedCollator(SplitCollator.of(form))

What the inner collator enforces stays enforced. The lengths say who attends to whom (modeling/prefix/packing.py).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from honest_persona.prompts.tokens import IGNORED

Batch = dict[str, Any]


@dataclass(frozen=True)
class PackedCollator:
    """Rows to a batch without padding.

    Args:
        split: a `SplitCollator` or `SplitFeedbackCollator`.

    Returns:
        `prefix_ids`: (1, F) int64, U prefixes one behind the other; `prefix_lengths`: U ints; `prefix_keys`: U hashes;
        `input_ids`, `labels` and, of records, `kinds`: (1, T) int64, N suffixes one behind the other;
        `suffix_lengths`, `prefix_index`: N ints, of each suffix the length and the prefix;
        `learned`: (N, S - 1) bool, the tokens that are predicted in each suffix, padded;
        `padded_at`: (N, S - 1) int64, where their log-probabilities stand among the T - 1 of the packed row;
        the rest as of the inner collator.
    """

    split: Callable[[list[Any]], Batch]

    def __call__(self, rows: list[Any]) -> Batch:
        return packed(self.split(rows))


def packed(batch: Batch) -> Batch:
    """The batch of a split collator, without its padding."""
    batch = dict(batch)
    mask, prefix_mask = batch.pop("attention_mask").bool(), batch.pop("prefix_mask").bool()
    lengths = mask.sum(1)
    labels = batch["labels"]
    assert (labels[:, 0] == IGNORED).all(), "a suffix's first token is predicted by the token of another row"
    starts = lengths.cumsum(0) - lengths
    width = mask.shape[1] - 1
    at = starts[:, None] + torch.arange(width, device="cpu")
    for name in ("input_ids", "labels", "kinds"):
        if name in batch:
            batch[name] = batch[name][mask][None]
    return {
        **batch,
        "prefix_ids": batch["prefix_ids"][prefix_mask][None],
        "prefix_lengths": prefix_mask.sum(1).tolist(),
        "prefix_index": batch["prefix_index"].tolist(),
        "suffix_lengths": lengths.tolist(),
        "learned": labels[:, 1:] != IGNORED,
        "padded_at": at.clamp(max=int(lengths.sum()) - 2),
    }
