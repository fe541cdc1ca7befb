"""Log-probabilities of whole answers, from those of their tokens."""

from typing import NamedTuple

import torch
from torch import Tensor


class LogProbs(NamedTuple):
    """Log-probabilities in nats of N answers, summed over their tokens, the end of turn included."""

    policy: Tensor
    """(N,) log pi(y|x), with gradient"""
    reference: Tensor | None
    """(N,) log pi_ref(y|x), without gradient; None where the loss has no reference"""
    tokens: Tensor
    """(N,) tokens that are summed over; 0 in a blank row"""

    @property
    def ratio(self) -> Tensor:
        """(N,) log pi(y|x) - log pi_ref(y|x), in float32 at least."""
        assert self.reference is not None, "this loss needs a reference"
        return at_least_float32(self.policy) - at_least_float32(self.reference.detach())

    def per_token(self, values: Tensor) -> Tensor:
        """(N,) values divided by the number of tokens; 0 in a blank row, so that its gradient is a number too."""
        return values / self.tokens.clamp(min=1)


def answer_log_probs(token_log_probs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over each answer's tokens, and how many tokens they are.

    Args:
        token_log_probs: (N, T) log-probability of each token in nats, in any number format.
        mask: (N, T) true at the answer's tokens. The other values are not used, even if they are not finite.

    Returns:
        (N,) sums in float32 at least: in bfloat16 a sum over 300 tokens is off by whole nats. (N,) counts.
    """
    return at_least_float32(token_log_probs).masked_fill(~mask, 0.0).sum(1), mask.sum(1)


def at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
