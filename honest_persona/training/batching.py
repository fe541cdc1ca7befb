"""Which rows make an optimizer step, and its layout into micro-batches of little padding and equal work.

    batches = PersonaBatches(Lengths.split(rows), 16, world=2, rank=0, seed=42, epochs=3, tokens_per_batch=6144)
    DataLoader(RowsWithBlanks(rows, batches), batch_sampler=batches, collate_fn=collator)

Which rows a step has depends on the seed, the epoch and the batch size alone, and so does the loss; how they are spread
over ranks and micro-batches is a matter of speed. Rows that stand on one transcript stay together.
"""

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, islice, pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch.utils.data import Dataset
from transformers.trainer_pt_utils import BatchRebalanceSampler

from honest_persona.prompts.collator import prefix_key
from honest_persona.prompts.segments import SUPERVISED
from honest_persona.prompts.tokens import IGNORED

SUFFIX_COST = 3
"""A suffix token is run forward and backward, a prefix token forward only."""
_EVENNESS = (0.0, 0.25, 1.0, 4.0)
"""Weights of a micro-batch's squared cost: layouts to choose from where ranks wait for each other."""
_SPLIT = 1e9
"""Weight of running a transcript in one more micro-batch; those of costs are near 1."""
_AT_ONCE = 2**21  # entries of an array that steps are laid out in


class Lengths(NamedTuple):
    """Tokens of N rows; arrays of shape (N,), int64."""

    prefix: np.ndarray
    suffix: np.ndarray
    transcript: np.ndarray
    """Rows with one number share their prefix."""

    @classmethod
    def split(cls, rows: Sequence[Mapping[str, Any]]) -> "Lengths":
        """Of rows that `SplitCollator` cuts at their activation points."""
        numbers: dict[str, int] = {}
        prefix = np.array([row["activation"] for row in rows])
        suffix = np.array([len(row["input_ids"]) for row in rows]) - prefix
        return cls(prefix, suffix, np.array([numbers.setdefault(prefix_key(row), len(numbers)) for row in rows]))

    @classmethod
    def whole(cls, rows: Sequence[Mapping[str, Any]]) -> "Lengths":
        """Of rows that are run as they are: all suffix. They keep their transcripts, and so their order."""
        prefix, suffix, transcript = cls.split(rows)
        return cls(np.zeros_like(prefix), prefix + suffix, transcript)


class MicroBatch(NamedTuple):
    rows: list[int]
    """~i stands for row i without its review."""
    tokens: int
    """Of the padded batch: transcripts x the longest prefix + rows x the longest suffix."""
    cost: int
    """The same with a suffix token counted `SUFFIX_COST` times."""


class Plan(NamedTuple):
    """What the planned epochs amount to, over all ranks."""

    accumulation: int
    """Micro-batches of an optimizer step on each rank."""
    represented_tokens: int
    """Every row's prefix and suffix."""
    computed_tokens: int
    """Each micro-batch's transcripts once, and its suffixes: what the model is run over, padding not counted."""
    padding_tokens: int
    """Padding, and rows without their reviews that keep ranks in step."""
    largest_tokens: int
    """The largest micro-batch, padded."""
    rows_over_budget: int
    """Rows that are longer than the budget and stand alone."""
    waiting_frac: float
    """Share of the ranks' time in which they wait for the one with the costliest micro-batch."""
    imbalance_frac: float
    """1 - least / greatest cost of the ranks in one micro-step, where they differ most."""

    @property
    def padding_frac(self) -> float:
        """Share of padding in all that is run."""
        return self.padding_tokens / (self.computed_tokens + self.padding_tokens)

    def line(self) -> str:
        over = f"; {self.rows_over_budget} rows exceed the budget and stand alone" if self.rows_over_budget else ""
        return (
            f"micro-batches: {self.accumulation} per rank and step, at most {self.largest_tokens:,} tokens each; of "
            f"{self.represented_tokens:,} tokens {self.computed_tokens:,} are run (shared prefixes once), with "
            f"{self.padding_frac:.1%} padding and {self.waiting_frac:.1%} waiting between ranks{over}"
        )


class PersonaBatches(BatchRebalanceSampler):
    """The micro-batches of one rank: lists of row indices, `accumulation` of them per optimizer step.

    Where the last step has fewer rows than micro-batches, each of the others holds a row without its review, given as
    `~index` (see `RowsWithBlanks`): all ranks run equally often, and the loss stays what it is.

    The Trainer passes children of this parent on as they are, and keeps accelerate from sharing them out once more. For
    that there must be no attribute `batch_size`: a micro-batch of another size would be dropped.

    Args:
        batch_size: rows per optimizer step over all ranks.
        epochs: how many to plan for.
        tokens_per_batch: the budget, in tokens of a padded micro-batch. `accumulation` is the least that keeps it in
            every step of every epoch, save for rows that exceed it by themselves.
        micro_batch: rows of a micro-batch, instead of the budget.
        drop_last: leave out the last rows of an epoch that do not fill a step.

    Raises:
        ValueError: a batch_size that does not divide into micro-batches and ranks; no step at all.
    """

    def __init__(
        self,
        lengths: Lengths,
        batch_size: int,
        *,
        world: int,
        rank: int,
        seed: int,
        epochs: int,
        tokens_per_batch: int | None = None,
        micro_batch: int | None = None,
        drop_last: bool = False,
        shuffle: bool = True,
    ) -> None:
        assert (tokens_per_batch is None) != (micro_batch is None), "give one of tokens_per_batch and micro_batch"
        if batch_size % (world * (micro_batch or 1)):
            raise ValueError(f"batch_size: {batch_size} rows do not divide into {world} rank(s) x {micro_batch or 1}")
        self.row_lengths, self.epochs, self.tokens_per_batch = lengths, epochs, tokens_per_batch
        super().__init__(
            (lengths.prefix + lengths.suffix).tolist(), batch_size, world, 1, shuffle, seed, rank, drop_last
        )
        if not self.num_global_batches:
            raise ValueError(f"batch_size: {len(self.lengths)} row(s) do not make a step of {batch_size}; lower it")
        if tokens_per_batch is None:
            self._most_rows = micro_batch or 1
            n_bins = batch_size // self._most_rows
        else:  # as many rows as their suffixes allow, were they the shortest
            most = int((np.sort(lengths.suffix).cumsum() <= tokens_per_batch).sum())
            self._most_rows = min(max(1, most), batch_size)
            chunks = (self._ranges(rows) for epoch in range(epochs) for rows in self._sorted_steps(epoch))
            n_bins = max(int(ranges.fewest_bins().max()) for ranges in chunks)
        self.accumulation = self.grad_accum = -(-n_bins // world)

    def __len__(self) -> int:
        return self.num_global_batches * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps(self.epoch):
            yield from (ranks[self.rank].rows for ranks in step)

    def step_rows(self, epoch: int) -> list[list[int]]:
        """The rows of each optimizer step of an epoch: the same on every rank, whatever the layout."""
        rows: dict[int, list[int]] = defaultdict(list)
        for i, number in enumerate(self.row_lengths.transcript.tolist()):
            rows[number].append(i)
        groups = list(rows.values())
        if self.shuffle:
            generator = torch.Generator("cpu").manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
            groups = [groups[g] for g in torch.randperm(len(groups), generator=generator, device="cpu").tolist()]
        return _fill(groups, self.effective_batch_size)[: self.num_global_batches]

    def steps(self, epoch: int) -> Iterator[list[list[MicroBatch]]]:
        """The layout of each optimizer step of an epoch, over all ranks: [micro-step][rank]."""
        assert epoch < self.epochs, f"epoch {epoch} was not planned: there are {self.epochs}"
        n_bins = self.accumulation * self.dp_size
        for rows in self._sorted_steps(epoch):
            for bins in self._lay_out(rows, min(n_bins, rows.shape[1])):
                least = min(bins, key=lambda batch: batch.cost)
                blank = least._replace(rows=[~least.rows[0]])
                yield _deal([*bins, *[blank] * (n_bins - len(bins))], self.dp_size)

    def plan(self) -> Plan:
        """Lays out all planned epochs and adds them up. Every rank gets the same."""
        prefix, suffix, transcript = (values.tolist() for values in self.row_lengths)
        micro_steps = [ranks for epoch in range(self.epochs) for step in self.steps(epoch) for ranks in step]
        costs = np.array([[batch.cost for batch in ranks] for ranks in micro_steps])
        tokens = [batch.tokens for ranks in micro_steps for batch in ranks]
        rows = [[i for i in batch.rows if i >= 0] for ranks in micro_steps for batch in ranks]
        suffixes = sum(suffix[i] for part in rows for i in part)
        computed = suffixes + sum(sum({transcript[i]: prefix[i] for i in part}.values()) for part in rows)
        return Plan(
            accumulation=self.accumulation,
            represented_tokens=suffixes + sum(prefix[i] for part in rows for i in part),
            computed_tokens=computed,
            padding_tokens=sum(tokens) - computed,
            largest_tokens=max(tokens),
            rows_over_budget=sum(length > (self.tokens_per_batch or length) for length in self.lengths),
            waiting_frac=float(1 - costs.mean() / costs.max(1).mean()),
            imbalance_frac=float((1 - costs.min(1) / costs.max(1)).max()),
        )

    def _sorted_steps(self, epoch: int) -> Iterator[np.ndarray]:
        """(B, n) rows of B steps, from short prefixes to long ones, transcripts together; as many as go at once."""
        prefix, suffix, transcript = self.row_lengths
        shared = np.where(prefix > 0, transcript, -1)  # without prefixes rows go by their suffixes
        at_once = max(1, _AT_ONCE // (self.effective_batch_size * self._most_rows))
        for _, steps in groupby(self.step_rows(epoch), key=len):
            while chunk := list(islice(steps, at_once)):
                rows = np.array(chunk)
                order = np.lexsort((suffix[rows], shared[rows], prefix[rows]), axis=1)
                yield np.take_along_axis(rows, order, axis=1)

    def _ranges(self, rows: np.ndarray) -> "_Ranges":
        lengths = Lengths(*(values[rows] for values in self.row_lengths))
        return _Ranges.of(lengths, min(rows.shape[1], self._most_rows), self.tokens_per_batch)

    def _lay_out(self, rows: np.ndarray, n_bins: int) -> Iterator[list[MicroBatch]]:
        """Cut each of (B, n) sorted rows into the micro-batches that take the ranks least time."""
        ranges = self._ranges(rows)
        choices = _EVENNESS if self.dp_size > 1 and self.tokens_per_batch is not None else _EVENNESS[:1]
        cuts = np.stack([ranges.cut(n_bins, evenness) for evenness in choices])
        costs = np.sort(np.stack([ranges.at(ranges.cost, cut) for cut in cuts]))[..., ::-1]
        best = costs[..., :: self.dp_size].sum(-1).argmin(0)  # a micro-step takes as long as its costliest micro-batch
        ends = cuts[best, np.arange(len(rows))]
        tokens, cost = (ranges.at(values, ends).tolist() for values in (ranges.tokens, ranges.cost))
        for b, step in enumerate(rows.tolist()):
            parts = [step[start:end] for start, end in pairwise([0, *ends[b].tolist()])]
            yield [MicroBatch(*batch) for batch in zip(parts, tokens[b], cost[b], strict=True)]


class RowsWithBlanks(Dataset):
    """Rows for the indices that `PersonaBatches` gives: ~i is row i cut before its review, with the key `blank`.

    accelerate tells a dataset which epoch begins, and this one tells the batches. Neither it nor transformers (5.23)
    reach them behind the two wrappers that they have where a run is resumed within an epoch on several ranks.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], batches: PersonaBatches) -> None:
        self.rows, self.batches = rows, batches

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        if index >= 0:
            return self.rows[index]
        row = self.rows[~index]
        end = next(i for i, kind in enumerate(row["kinds"]) if kind in SUPERVISED)
        cut = {"input_ids": row["input_ids"][:end], "kinds": row["kinds"][:end], "labels": [IGNORED] * end}
        return {**row, **cut, "blank": True}

    def set_epoch(self, epoch: int) -> None:
        self.batches.set_epoch(epoch)


class _Ranges(NamedTuple):
    """Micro-batches that sorted rows can be cut into; at [b, j, k] of the k + 1 rows of step b that end with row j."""

    tokens: np.ndarray
    """(B, n, most rows of a micro-batch)"""
    cost: np.ndarray
    weight: np.ndarray
    """Infinite where it is not allowed, `_SPLIT` where it begins within a transcript, else 0."""
    work: np.ndarray
    """(B, 1, 1) cost of the whole step without padding."""

    @classmethod
    def of(cls, lengths: Lengths, most: int, budget: int | None) -> "_Ranges":
        """Of (B, n) rows. A row alone is always allowed."""
        prefix, suffix, transcript = lengths
        first = (np.diff(transcript, axis=1, prepend=-1) != 0) | (prefix == 0)  # no prefix: nothing to share
        started, n_rows = first.cumsum(1), np.arange(1, most + 1)
        prefixes = (started[:, :, None] - _before(started, most) + 1) * prefix[:, :, None]
        suffixes = n_rows * np.maximum.accumulate(_before(suffix, most), axis=2)
        tokens = prefixes + suffixes
        keeps = True if budget is None else (tokens <= budget) | (n_rows == 1)
        allowed = keeps & (np.arange(1, prefix.shape[1] + 1)[:, None] >= n_rows)
        weight = np.where(allowed, _SPLIT * ~_before(first, most), np.inf)
        work = (prefix * first).sum(1) + SUFFIX_COST * suffix.sum(1)
        return cls(tokens, prefixes + SUFFIX_COST * suffixes, weight, work[:, None, None])

    def fewest_bins(self) -> np.ndarray:
        """(B,) micro-batches that are enough for each step without splitting transcripts that fit in one."""
        steps, n, most = self.weight.shape
        total = np.full((steps, most + n), np.inf)  # of the rows before an edge, behind most - 1 columns of infinity
        total[:, most - 1] = 0
        for j in range(n):
            total[:, most + j] = (total[:, j : most + j][:, ::-1] + self.weight[:, j]).min(1) + 1
        return (total[:, -1] % _SPLIT).astype(np.int64)

    def cut(self, n_bins: int, evenness: float) -> np.ndarray:
        """(B, n_bins) ends of micro-batches that split fewest transcripts, then have least cost + evenness x cost²."""
        steps, n, most = self.weight.shape
        share = self.cost / self.work
        weight = share + evenness * n_bins * share**2 + self.weight
        before = np.full((steps, n), np.inf)  # least weight of the rows before each, in k micro-batches
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
        """(B, n_bins) values of the micro-batches with these ends."""
        return values[np.arange(len(ends))[:, None], ends - 1, np.diff(ends, axis=1, prepend=0) - 1]


def _before(values: np.ndarray, most: int, fill: float = 0) -> np.ndarray:
    """(B, n) to (B, n, most): at [b, j, k] the value at j - k; `fill` before the first."""
    return sliding_window_view(np.pad(values, ((0, 0), (most - 1, 0)), constant_values=fill), most, axis=1)[:, :, ::-1]


def _deal(bins: list[MicroBatch], world: int) -> list[list[MicroBatch]]:
    """Micro-batches of like cost side by side, costly ones first; the costlier to the rank that has less so far."""
    ordered = sorted(bins, key=lambda batch: -batch.cost)
    step, totals = [], np.zeros(world)
    for i in range(0, len(ordered), world):
        step.append([ordered[i + place] for place in totals.argsort(kind="stable").argsort()])
        totals += [batch.cost for batch in step[-1]]
    return step


def _fill(groups: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """Whole groups, in order, into steps of exactly `size` rows; the last may be smaller.

    One that does not fit is put off to the next step, and the next one that fits is taken. A group is cut only where
    none fits, or where it is larger than a step.
    """
    queues: dict[int, deque[tuple[int, Sequence[int]]]] = defaultdict(deque)  # by number of rows: (place, rows)
    for place, piece in enumerate(group[i : i + size] for group in groups for i in range(0, len(group), size)):
        queues[len(piece)].append((place, piece))
    steps: list[list[int]] = []
    while queues:
        step: list[int] = []
        while queues and (room := size - len(step)):
            chosen = min((n > room, queue[0][0], n) for n, queue in queues.items())[-1]
            place, piece = queues[chosen].popleft()
            if not queues[chosen]:
                del queues[chosen]
            step += piece[:room]
            if rest := piece[room:]:  # the first of all in place, so the first of its new queue
                queues[len(rest)].appendleft((place, rest))
        steps.append(step)
    return steps
