"""Chooses the rows of each optimizer step, and lays a step out in micro-batches of little padding and equal work.

    batches = PersonaBatches(Lengths.split(rows), 16, world=2, rank=0, seed=42, epochs=3, tokens_per_batch=6144)
    DataLoader(RowsWithBlanks(rows, batches), batch_sampler=batches, collate_fn=collator)

The rows of a step, and so the loss, depend on the seed, the epoch and the batch size alone. Their layout over ranks and
micro-batches changes nothing but the speed. Rows on one transcript stay together.
"""

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers.trainer_pt_utils import BatchRebalanceSampler

from honest_persona.prompts.kinds import SUPERVISED
from honest_persona.prompts.tokens import IGNORED
from honest_persona.training.batching.layout import CHEAPEST, CHEAPEST_THEN_EVEN, EVEN, Ranges, deal, lay_out
from honest_persona.training.batching.lengths import Lengths, MicroBatch, Plan

_AT_ONCE = 2**21  # entries of an array that steps are laid out in


class PersonaBatches(BatchRebalanceSampler):
    """The micro-batches of one rank: lists of row indices, `accumulation` of them per optimizer step.

    Where the last step has fewer rows than micro-batches, each empty micro-batch gets a row without its review, written
    `~index` (see `RowsWithBlanks`): all ranks run equally often, and the loss does not change.

    The Trainer recognizes this parent class: it uses the batches unchanged, and accelerate does not distribute them
    over the ranks again. There must be no attribute `batch_size`: micro-batches of other sizes would be dropped.

    Args:
        batch_size: rows per optimizer step over all ranks.
        epochs: the number of epochs to plan.
        tokens_per_batch: the budget, in tokens of a micro-batch, padding included. `accumulation` is the smallest
            number that keeps the budget in every step of every epoch, except for rows that exceed it by themselves.
        micro_batch: rows of a micro-batch, instead of the budget.
        drop_last: leave out the last rows of an epoch that do not fill a step.
        packed: micro-batches are run without padding.

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
        packed: bool = False,
    ) -> None:
        assert (tokens_per_batch is None) != (micro_batch is None), "give one of tokens_per_batch and micro_batch"
        if batch_size % (world * (micro_batch or 1)):
            raise ValueError(f"batch_size: {batch_size} rows do not divide into {world} rank(s) x {micro_batch or 1}")
        self.row_lengths, self.epochs, self.tokens_per_batch = lengths, epochs, tokens_per_batch
        self.packed = packed
        super().__init__((lengths.prefix + lengths.suffix).tolist(), batch_size, world, 1, True, seed, rank, drop_last)
        if not self.num_global_batches:
            raise ValueError(f"batch_size: {len(self.lengths)} row(s) do not make a step of {batch_size}; lower it")
        if tokens_per_batch is None:
            self._most_rows = micro_batch or 1
            n_bins = batch_size // self._most_rows
        else:  # as many rows as the budget allows for the shortest suffixes
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
        generator = torch.Generator("cpu").manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
        order = torch.randperm(len(groups), generator=generator, device="cpu").tolist()
        return fill([groups[g] for g in order], self.effective_batch_size)[: self.num_global_batches]

    def steps(self, epoch: int) -> Iterator[list[list[MicroBatch]]]:
        """The layout of each optimizer step of an epoch, over all ranks: [micro-step][rank]."""
        assert epoch < self.epochs, f"epoch {epoch} was not planned: there are {self.epochs}"
        n_bins = self.accumulation * self.dp_size
        # without padding most layouts cost the same, and even ones take the least memory
        evenness = CHEAPEST_THEN_EVEN if self.packed else CHEAPEST
        if self.dp_size > 1 and self.tokens_per_batch is not None:
            evenness += EVEN
        for rows in self._sorted_steps(epoch):
            few = min(n_bins, rows.shape[1])
            for bins in lay_out(rows, self._ranges(rows), few, self.dp_size, evenness):
                least = min(bins, key=lambda batch: batch.cost)
                blank = least._replace(rows=[~least.rows[0]])
                yield deal([*bins, *[blank] * (n_bins - len(bins))], self.dp_size)

    def chunks(self, rows: Sequence[int]) -> list[list[int]]:
        """Rows, sorted by length, in batches that are no larger than micro-batches: for passes without gradient."""
        lengths = self.row_lengths.prefix + self.row_lengths.suffix
        chunks: list[list[int]] = []
        for row in sorted(rows, key=lambda row: lengths[row]):
            together = [*chunks[-1], row] if chunks else []
            tokens = lengths[together].sum() if self.packed else len(together) * lengths[row]  # this one is the longest
            fits = 1 < len(together) <= self._most_rows and tokens <= (self.tokens_per_batch or tokens)
            (chunks[-1].append(row) if fits else chunks.append([row]))
        return chunks

    def plan(self) -> Plan:
        """The sums over all planned epochs, the same on every rank."""
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
        )

    def _sorted_steps(self, epoch: int) -> Iterator[np.ndarray]:
        """(B, n): rows of B steps, sorted by prefix length, transcripts together; as many steps as memory allows."""
        prefix, suffix, transcript = self.row_lengths
        shared = np.where(prefix > 0, transcript, -1)  # without prefixes rows are sorted by their suffixes
        at_once = max(1, _AT_ONCE // (self.effective_batch_size * self._most_rows))
        for _, steps in groupby(self.step_rows(epoch), key=len):
            while chunk := list(islice(steps, at_once)):
                rows = np.array(chunk)
                order = np.lexsort((suffix[rows], shared[rows], prefix[rows]), axis=1)
                yield np.take_along_axis(rows, order, axis=1)

    def _ranges(self, rows: np.ndarray) -> Ranges:
        lengths = Lengths(*(values[rows] for values in self.row_lengths))
        return Ranges.of(lengths, min(rows.shape[1], self._most_rows), self.tokens_per_batch, self.packed)


class RowsWithBlanks(Dataset):
    """Rows for the indices of `PersonaBatches`: ~i gives row i cut before its review, with the key `blank`.

    accelerate tells the dataset which epoch begins, and the dataset tells the batches. Where a run resumes within an
    epoch on several ranks, two wrappers hide the batches from accelerate and from transformers (5.23).
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], batches: PersonaBatches) -> None:
        self.rows, self.batches = rows, batches

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        if index >= 0:
            return self.rows[index]
        row = self.rows[~index]
        if "kinds" not in row:  # of feedback: the collator leaves the answers out
            return {**row, "blank": True}
        end = next(i for i, kind in enumerate(row["kinds"]) if kind in SUPERVISED)
        cut = {"input_ids": row["input_ids"][:end], "kinds": row["kinds"][:end], "labels": [IGNORED] * end}
        return {**row, **cut, "blank": True}

    def set_epoch(self, epoch: int) -> None:
        self.batches.set_epoch(epoch)


def fill(groups: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """Whole groups, in order, into steps of exactly `size` rows; the last may be smaller.

    A group that does not fit waits for the next step, and the next group that fits is taken. A group is cut only where
    no group fits, or where it is larger than a step.
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
            if rest := piece[room:]:  # earlier than all others, so the first of its new queue
                queues[len(rest)].appendleft((place, rest))
        steps.append(step)
    return steps
