"""KTO's mismatched answers: to each row of an optimizer step, the answer of a row with another prompt.

Which answers belong together depends on the rows of the whole step alone, not on ranks and micro-batches. TRL and HALOs
shift answers within a micro-batch, so that their loss depends on its size.
"""

from collections import Counter
from collections.abc import Hashable, Sequence

from honest_persona.base.errors import UserError


def mismatched(prompts: Sequence[Hashable]) -> list[int]:
    """For each row of a step the place of the row whose answer it gets.

    Rows of one prompt stand together, and answers are shifted by the size of the largest prompt. Each answer is then
    taken once, unless one prompt has more than half of the rows.

    Args:
        prompts: names of the rows' prompts.

    Raises:
        ValueError: all rows have one prompt.
    """
    counts = Counter(prompts)
    if len(counts) < 2:
        raise ValueError("all rows have one prompt")
    number = {prompt: i for i, prompt in enumerate(counts)}
    order = sorted(range(len(prompts)), key=lambda row: number[prompts[row]])
    largest = max(counts.values())
    of = [0] * len(prompts)
    for place, row in enumerate(order):
        other = order[(place + largest) % len(order)]
        if prompts[other] == prompts[row]:
            others = [candidate for candidate in order if prompts[candidate] != prompts[row]]
            other = others[place % len(others)]
        of[row] = other
    return of


def check_steps(steps: Sequence[Sequence[int]], prompts: Sequence[Hashable], objective: str, run: int) -> None:
    """Check an epoch before it is run.

    Args:
        steps: the rows of each step.
        prompts: of all rows.
        run: how many of the steps are run.

    Raises:
        UserError: one of these steps has rows of one prompt alone, or all rows have.
    """
    if len(set(prompts)) < 2:
        raise UserError(
            f"dataset: objective {objective} compares each prompt with answers to other prompts, and all rows to train "
            "on have one prompt; add rows with other prompts"
        )
    for number, rows in enumerate(steps[:run], 1):
        if len({prompts[row] for row in rows}) < 2:
            last = (
                ", or leave the last, smaller step out with dataloader_drop_last: true" if number == len(steps) else ""
            )
            raise UserError(
                f"batch_size: objective {objective} compares each prompt with answers to other prompts, and the "
                f"{len(rows)} row(s) of step {number} of an epoch have one prompt. Raise batch_size{last}"
            )
