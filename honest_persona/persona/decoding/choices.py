"""How a token is chosen from logits, and where a continuation ends."""

from collections.abc import Callable, Collection

from torch import Tensor

Choose = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits (B, V), the rows' places among the prompts (B,), each row's step (B,)) -> ids (B,), int64.

It may not wait for the device: a step is recorded once, and replayed there."""
See = Callable[[Tensor, Tensor, Tensor], None]
"""Gets what `Choose` gets, whatever is chosen."""


def likeliest(logits: Tensor, rows: Tensor, step: Tensor) -> Tensor:
    return logits.argmax(-1)  # a NaN wins, and whoever looks at its logit finds it


def up_to(ends: Collection[int], row: list[int]) -> list[int]:
    """The row up to and with its first end."""
    n = next((i for i, token in enumerate(row) if token in ends), len(row) - 1)
    return row[: n + 1]
