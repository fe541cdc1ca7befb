"""Lengths of rows, the cost of a micro-batch, and the figures of a plan of micro-batches."""

from typing import Literal, NamedTuple

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset

SUFFIX_COST = 3
"""A suffix token is run forward and backward, a prefix token forward only."""


Layout = Literal["whole", "split", "packed"]
"""How rows are run: whole; split at their activation points, prefixes and suffixes each padded to one length; or split
and packed, one behind the other without padding."""


class Lengths(NamedTuple):
    """Tokens of N rows; arrays of shape (N,), int64."""

    prefix: np.ndarray
    suffix: np.ndarray
    transcript: np.ndarray
    """Rows with one number share their prefix."""

    @classmethod
    def split(cls, rows: Dataset) -> "Lengths":
        """Lengths of rows that `SplitCollator` cuts at their activation points."""
        columns = rows.data
        numbered = columns["prefix_key"].combine_chunks().dictionary_encode()  # in the order in which they occur
        transcript, prefix, length = (
            values.to_numpy().astype(np.int64)
            for values in (numbered.indices, columns["activation"], pc.list_value_length(columns["input_ids"]))
        )
        return cls(prefix, length - prefix, transcript)

    @classmethod
    def whole(cls, rows: Dataset) -> "Lengths":
        """Lengths of rows that are run whole: all suffix. They keep their transcripts, and so their order."""
        prefix, suffix, transcript = cls.split(rows)
        return cls(np.zeros_like(prefix), prefix + suffix, transcript)


def record_lengths(rows: Dataset, form: object, layout: Layout) -> Lengths:
    """Lengths of the persona's rows."""
    return Lengths.whole(rows) if layout == "whole" else Lengths.split(rows)


class MicroBatch(NamedTuple):
    rows: list[int]
    """Indices; ~i stands for row i without its review."""
    tokens: int
    """Tokens that are run. Padded: transcripts x the longest prefix + rows x the longest suffix; packed: the sum."""
    cost: int
    """The same, but a suffix token counts `SUFFIX_COST` times."""


class Plan(NamedTuple):
    """Figures of all planned epochs, over all ranks."""

    accumulation: int
    """Micro-batches of an optimizer step on each rank."""
    represented_tokens: int
    """Every row's prefix and suffix."""
    computed_tokens: int
    """Tokens that are run, without padding: of each micro-batch the transcripts once, and the suffixes."""
    padding_tokens: int
    """Tokens of padding, and of the rows without reviews that keep ranks in step."""
    largest_tokens: int
    """The largest micro-batch, padding included."""
    rows_over_budget: int
    """Rows that are longer than the budget and stand alone."""
    waiting_frac: float
    """Share of time that ranks spend waiting for the rank with the costliest micro-batch."""

    @property
    def padding_frac(self) -> float:
        """Share of padding in all tokens that are run."""
        return self.padding_tokens / (self.computed_tokens + self.padding_tokens)

    def line(self) -> str:
        over = f"; {self.rows_over_budget} rows exceed the budget and stand alone" if self.rows_over_budget else ""
        return (
            f"micro-batches: {self.accumulation} per rank and step, at most {self.largest_tokens:,} tokens each; of "
            f"{self.represented_tokens:,} tokens {self.computed_tokens:,} are run (shared prefixes once), with "
            f"{self.padding_frac:.1%} padding and {self.waiting_frac:.1%} waiting between ranks{over}"
        )
