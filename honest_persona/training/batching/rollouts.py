"""Chooses the prompts of each optimizer step, for trainings that write their answers themselves.

    batches = RolloutBatches(prompt_tokens, answers_per_step=96, group=8, world=2, micro_batch=8, epochs=3, seed=42)
    DataLoader(RowsOfEpoch(rows, batches), sampler=batches, batch_size=batches.accumulation * 8)

A step has whole groups: `group` answers to each of its prompts. TRL's trainers ask for the rows of a step once for each
micro-batch, and write answers to the first ones alone; so a step's rows are repeated as often.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.data import Dataset, Sampler

from honest_persona.base.console import counted
from honest_persona.base.errors import UserError


class RolloutPlan(NamedTuple):
    prompts: int
    group: int
    accumulation: int
    left_out: int
    """Prompts of an epoch that fill no step; other ones in each epoch."""

    def line(self) -> str:
        left = f"; {counted(self.left_out, 'prompt')} of an epoch fill no step" if self.left_out else ""
        return (
            f"a step: {self.group} answers to each of {counted(self.prompts, 'prompt')}; micro-batches per rank: "
            f"{self.accumulation}{left}"
        )


class RolloutBatches(Sampler[int]):
    """The rows of each step, over all ranks, epoch by epoch; the order depends on seed and epoch alone.

    Args:
        prompt_tokens: of each row.
        answers_per_step: over all ranks.
        group: answers to one prompt.
        micro_batch: answers of a micro-batch on a rank.
        epochs: the number of epochs to plan.

    Raises:
        UserError: answers that make no whole groups, or too few prompts for a step.
    """

    def __init__(
        self,
        prompt_tokens: Sequence[int],
        answers_per_step: int,
        *,
        group: int,
        world: int,
        micro_batch: int,
        epochs: int,
        seed: int,
    ) -> None:
        if answers_per_step % group:
            raise UserError(
                f"num_generations: {answers_per_step} answers per step (batch_size) are no whole groups of {group} "
                f"answers to one prompt; set batch_size to a multiple of {group}"
            )
        self.prompt_tokens, self.group, self.epochs, self.seed, self.epoch = prompt_tokens, group, epochs, seed, 0
        self.effective_batch_size, self.micro_batch = answers_per_step, micro_batch
        self.accumulation = answers_per_step // (world * micro_batch)
        self.prompts = answers_per_step // group
        self.num_global_batches = len(prompt_tokens) // self.prompts
        if not self.num_global_batches:
            raise UserError(
                f"batch_size: {counted(len(prompt_tokens), 'prompt')} to train on are too few for one step, which asks "
                f"{self.prompts} (batch_size {answers_per_step} / num_generations {group}); lower batch_size, or give "
                "more prompts"
            )

    def __len__(self) -> int:
        return self.num_global_batches * self.effective_batch_size * self.accumulation

    def __iter__(self) -> Iterator[int]:
        for prompts in self.step_rows(self.epoch):
            for _ in range(self.accumulation):
                yield from (row for row in prompts for _ in range(self.group))

    def step_rows(self, epoch: int) -> list[list[int]]:
        """The prompts of each optimizer step of an epoch."""
        generator = torch.Generator("cpu").manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
        order = torch.randperm(len(self.prompt_tokens), generator=generator, device="cpu").tolist()
        return [order[i * self.prompts : (i + 1) * self.prompts] for i in range(self.num_global_batches)]

    def plan(self) -> RolloutPlan:
        left = len(self.prompt_tokens) - self.num_global_batches * self.prompts
        return RolloutPlan(self.prompts, self.group, self.accumulation, left)


class RowsOfEpoch(Dataset[Any]):
    """The rows for `RolloutBatches`.

    accelerate tells the dataset which epoch begins, and the dataset tells the batches; a sampler with a method
    `set_epoch` is hidden by the wrappers of a run that resumes within an epoch.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], batches: RolloutBatches) -> None:
        self.rows, self.batches = rows, batches

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self.rows[index]

    def set_epoch(self, epoch: int) -> None:
        self.batches.epoch = epoch
