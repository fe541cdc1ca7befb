"""Losses on single answers. Tensors in, a NamedTuple out. Each loss has one value per answer, not reduced."""

from typing import NamedTuple

import torch
from torch import Tensor

from honest_persona.objectives.logprobs import LogProbs, at_least_float32


class AnswerLoss(NamedTuple):
    """N answers."""

    loss: Tensor
    """(N,)"""
    reward: Tensor
    """(N,) what the loss raises or lowers of each answer, scaled as in the loss; detached, for logging"""


def sft(answers: LogProbs) -> AnswerLoss:
    """-log pi(y|x) in nats, summed over the answer's tokens, at least 0. The trainer divides by the tokens of the whole
    step, so that every token has the same weight.
    """
    policy = at_least_float32(answers.policy)
    return AnswerLoss(-policy, policy.detach())


def csft(answers: LogProbs, desirable: Tensor) -> AnswerLoss:
    """As `sft`, of desirable and undesirable answers alike: each stands behind a control token that tells which it is.
    The control token is a part of the context, and is not summed over. Korbak et al. 2023 (arXiv 2302.08582), Sec. 2.
    """
    assert answers.policy.shape == desirable.shape, f"{answers.policy.shape} and {desirable.shape}"
    return sft(answers)


def kto(
    answers: LogProbs,
    desirable: Tensor,
    *,
    kl: Tensor | float,
    beta: float,
    desirable_weight: float,
    undesirable_weight: float,
) -> AnswerLoss:
    """w_d (1 - sigma(beta (r - z))) of a desirable answer, w_u (1 - sigma(beta (z - r))) of another; from 0 to its
    weight. Ethayarajh et al. 2024 (arXiv 2402.01306), Eq. 7, where lambda_y is w_d or w_u. r is the log-ratio.

    Args:
        desirable: (N,) bool.
        kl: () mean log-ratio of mismatched answers, over the whole step on all ranks; z = max(0, kl), detached.
    """
    z = torch.as_tensor(kl, device=answers.policy.device).detach().clamp(min=0)
    reward = beta * answers.ratio
    # 1 - sigma(t) = sigma(-t), which keeps its digits where sigma(t) rounds to 1
    loss = torch.where(
        desirable,
        desirable_weight * torch.sigmoid(beta * z - reward),
        undesirable_weight * torch.sigmoid(reward - beta * z),
    )
    return AnswerLoss(loss, reward.detach())
