"""The layout of a step: sorted rows cut into micro-batches that take the ranks least time."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from honest_persona.training.batching.lengths import SUFFIX_COST, Lengths, MicroBatch

CHEAPEST: tuple[float, ...] = (0.0,)
CHEAPEST_THEN_EVEN: tuple[float, ...] = (1e-3,)
EVEN: tuple[float, ...] = (0.25, 1.0, 4.0)
"""Weights of a micro-batch's squared cost: each gives a layout to choose from."""
_SPLIT = 1e9
"""Weight of running a transcript in one more micro-batch; the weights of costs are near 1."""


def lay_out(
    rows: np.ndarray, ranges: "Ranges", n_bins: int, world: int, evenness: Sequence[float]
) -> Iterator[list[MicroBatch]]:
    """Cut each of (B, n) sorted rows into the micro-batches that take the ranks least time.

    Args:
        evenness: weights to choose from: 0 for least cost; more for micro-batches of more equal cost, which helps where
            ranks wait for each other.
    """
    cuts = np.stack([ranges.cut(n_bins, weight) for weight in evenness])
    costs = np.sort(np.stack([ranges.at(ranges.cost, cut) for cut in cuts]))[..., ::-1]
    best = costs[..., ::world].sum(-1).argmin(0)  # a micro-step takes as long as its costliest micro-batch
    ends = cuts[best, np.arange(len(rows))]
    tokens, cost = (ranges.at(values, ends).tolist() for values in (ranges.tokens, ranges.cost))
    for b, step in enumerate(rows.tolist()):
        parts = [step[start:end] for start, end in pairwise([0, *ends[b].tolist()])]
        yield [MicroBatch(*batch) for batch in zip(parts, tokens[b], cost[b], strict=True)]


def deal(bins: list[MicroBatch], world: int) -> list[list[MicroBatch]]:
    """Micro-batches of similar cost run together, costly ones first; the rank with less work gets the costlier one."""
    ordered = sorted(bins, key=lambda batch: -batch.cost)
    step, totals = [], np.zeros(world)
    for i in range(0, len(ordered), world):
        step.append([ordered[i + place] for place in totals.argsort(kind="stable").argsort()])
        totals += [batch.cost for batch in step[-1]]
    return step


class Ranges(NamedTuple):
    """Possible micro-batches of sorted rows; [b, j, k] is the one of k + 1 rows of step b that ends with row j."""

    tokens: np.ndarray
    """(B, n, most rows of a micro-batch)"""
    cost: np.ndarray
    weight: np.ndarray
    """Infinite for a forbidden micro-batch, `_SPLIT` for one that begins within a transcript, else 0."""
    work: np.ndarray
    """(B, 1, 1): the cost of the whole step without padding."""

    @classmethod
    def of(cls, lengths: Lengths, most: int, budget: int | None, packed: bool = False) -> "Ranges":
        """The micro-batches of (B, n) rows. A row alone is always allowed.

        Args:
            packed: whether rows are run without padding.
        """
        prefix, suffix, transcript = lengths
        first = (np.diff(transcript, axis=1, prepend=-1) != 0) | (prefix == 0)  # no prefix: nothing to share
        started, n_rows = first.cumsum(1), np.arange(1, most + 1)
        if packed:  # of the transcripts that begin after the first row, and the first row's
            begun = (prefix * first).cumsum(1)
            prefixes = begun[:, :, None] - _before(begun, most) + _before(prefix, most)
            suffixes = _before(suffix, most).cumsum(2)
        else:
            prefixes = (started[:, :, None] - _before(started, most) + 1) * prefix[:, :, None]
            suffixes = n_rows * np.maximum.accumulate(_before(suffix, most), axis=2)
        tokens = prefixes + suffixes
        keeps = True if budget is None else (tokens <= budget) | (n_rows == 1)
        allowed = keeps & (np.arange(1, prefix.shape[1] + 1)[:, None] >= n_rows)
        weight = np.where(allowed, _SPLIT * ~_before(first, most), np.inf)
        work = (prefix * first).sum(1) + SUFFIX_COST * suffix.sum(1)
        return cls(tokens, prefixes + SUFFIX_COST * suffixes, weight, work[:, None, None])

    def fewest_bins(self) -> np.ndarray:
        """(B,): the fewest micro-batches for each step that split no transcript which fits in one."""
        steps, n, most = self.weight.shape
        total = np.full((steps, most + n), np.inf)  # of the rows before an edge, after most - 1 columns of infinity
        total[:, most - 1] = 0
        for j in range(n):
            total[:, most + j] = (total[:, j : most + j][:, ::-1] + self.weight[:, j]).min(1) + 1
        return (total[:, -1] % _SPLIT).astype(np.int64)

    def cut(self, n_bins: int, evenness: float) -> np.ndarray:
        """(B, n_bins): ends of micro-batches that split fewest transcripts, then have least cost + evenness x cost²."""
        steps, n, most = self.weight.shape
        share = self.cost / self.work
        weight = share + evenness * n_bins * share**2 + self.weight
        before = np.full((steps, n), np.inf)  # least weight of the rows before each row, in k micro-batches
        before[:, 0] = 0
        taken = []
        for _ in range(n_bins):
            sums = _before(before, most, np.inf) + weight
            taken.append(sums.argmin(2))
            before = np.pad(sums.min(2)[:, :-1], ((0, 0), (1, 0)), constant_values=np.inf)
        ends = np.full((steps, n_bins), n)
        for k in range(n_bins - 1, 0, -1):
            ends[:, k - 1] = ends[:, k] - 1 - taken[k][np.arange(steps), ends[:, k] - 1]
        return ends

    @staticmethod
    def at(values: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """(B, n_bins): the values of the micro-batches with these ends."""
        return values[np.arange(len(ends))[:, None], ends - 1, np.diff(ends, axis=1, prepend=0) - 1]


def _before(values: np.ndarray, most: int, fill: float = 0) -> np.ndarray:
    """(B, n) to (B, n, most): at [b, j, k] the value at j - k; `fill` before the first."""
    return sliding_window_view(np.pad(values, ((0, 0), (most - 1, 0)), constant_values=fill), most, axis=1)[:, :, ::-1]
