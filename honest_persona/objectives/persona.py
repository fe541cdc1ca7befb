"""Objectives: tensors in, a NamedTuple of tensors out. No model, trainer or config here."""

from typing import NamedTuple

import torch

from honest_persona.prompts.kinds import Kind


class PersonaLoss(NamedTuple):
    """The loss to differentiate, and sums for logging: reduce them over batches and ranks before dividing."""

    loss: torch.Tensor
    """Scalar: sum of the weighted -log p over supervised tokens / `num_items`."""
    review_nll: torch.Tensor
    """Unweighted sum of -log p in nats over the review's tokens, end of turn included."""
    flag_nll: torch.Tensor
    """The same over the flag's tokens."""
    review_tokens: torch.Tensor
    """How many tokens `review_nll` is summed over."""
    flag_tokens: torch.Tensor


def persona_loss(
    log_probs: torch.Tensor, kinds: torch.Tensor, num_items: torch.Tensor | int, flag_loss_multiplier: float = 1.0
) -> PersonaLoss:
    """Mean -log p of the honest persona's tokens: review, flag and the first end-of-turn token.

    Args:
        log_probs: (B, T - 1) log p of the token at position t + 1, zero where that token is not supervised.
        kinds: (B, T) `Kind` of each token; the next-token shift is taken here.
        num_items: supervised tokens of the whole accumulated batch on all ranks.
        flag_loss_multiplier: weight of the flag's tokens; their number still counts once in `num_items`.

    A batch without supervised tokens gives zero, differentiable, so that ranks stay in step.
    """
    target = kinds[:, 1:]
    nll = -log_probs
    is_flag = target == Kind.FLAG
    is_review = (target == Kind.REVIEW) | (target == Kind.END)
    weighted = torch.where(is_flag, nll * flag_loss_multiplier, nll)
    loss = weighted.sum() / torch.as_tensor(num_items, device=log_probs.device).clamp(min=1)
    with torch.no_grad():
        # no `nll[is_review]`: the host would wait for the number of places
        review, flag = (torch.where(chosen, nll, 0).sum() for chosen in (is_review, is_flag))
        return PersonaLoss(loss, review, flag, is_review.sum(), is_flag.sum())
