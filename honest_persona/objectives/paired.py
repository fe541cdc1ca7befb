"""Losses on pairs: a chosen and a rejected answer to one prompt. Tensors in, a NamedTuple out.

Each loss has one value per pair, not reduced. The trainer divides their sum by the number of pairs of the whole step.

Notation: r = log pi(y|x) - log pi_ref(y|x), l = log pi(y|x), both summed over the answer's tokens; |y| is their number;
c and r as indices are the chosen and the rejected answer.
"""

from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from honest_persona.objectives.logprobs import LogProbs, at_least_float32


class PairLoss(NamedTuple):
    """N pairs. A reward is what the loss compares of the two answers, scaled as in the loss; detached, for logging."""

    loss: Tensor
    """(N,)"""
    chosen_reward: Tensor
    """(N,)"""
    rejected_reward: Tensor
    """(N,)"""


def dpo(chosen: LogProbs, rejected: LogProbs, *, beta: float) -> PairLoss:
    """-log sigma(beta (r_c - r_r)), above 0. Rafailov et al. 2023 (arXiv 2305.18290), Eq. 7."""
    return cdpo(chosen, rejected, beta=beta, label_smoothing=0.0)


def cdpo(chosen: LogProbs, rejected: LogProbs, *, beta: float, label_smoothing: float) -> PairLoss:
    """-(1 - e) log sigma(h) - e log sigma(-h), with h = beta (r_c - r_r) and e = `label_smoothing`, the assumed share
    of swapped pairs. At least the entropy of e, where sigma(h) = 1 - e. Mitchell 2023 ("A note on DPO with noisy
    preferences & relationship to IPO", https://ericmitchell.ai/cdpo.pdf), Eq. 3.
    """
    chosen_reward, rejected_reward = beta * chosen.ratio, beta * rejected.ratio
    h = chosen_reward - rejected_reward
    loss = -(1 - label_smoothing) * logsigmoid(h) - label_smoothing * logsigmoid(-h)
    return PairLoss(loss, chosen_reward.detach(), rejected_reward.detach())


def ipo(chosen: LogProbs, rejected: LogProbs, *, tau: float) -> PairLoss:
    """(r_c/|c| - r_r/|r| - 1/(2 tau))^2, at least 0. Azar et al. 2023 (arXiv 2310.12036), Eq. 17, with log-ratios per
    token in place of sums: the form that its authors used, as they told TRL (comment in TRL's dpo_trainer.py).
    """
    chosen_reward, rejected_reward = chosen.per_token(chosen.ratio), rejected.per_token(rejected.ratio)
    loss = (chosen_reward - rejected_reward - 1 / (2 * tau)) ** 2
    return PairLoss(loss, chosen_reward.detach(), rejected_reward.detach())


def simpo(chosen: LogProbs, rejected: LogProbs, *, beta: float, gamma_ratio: float) -> PairLoss:
    """-log sigma(beta (l_c/|c| - l_r/|r| - gamma_ratio)), above 0. Meng et al. 2024 (arXiv 2405.14734), Eq. 6;
    `gamma_ratio` is gamma / beta of the paper.
    """
    chosen_reward = beta * chosen.per_token(at_least_float32(chosen.policy))
    rejected_reward = beta * rejected.per_token(at_least_float32(rejected.policy))
    loss = -logsigmoid(chosen_reward - rejected_reward - beta * gamma_ratio)
    return PairLoss(loss, chosen_reward.detach(), rejected_reward.detach())


def slic(chosen: LogProbs, rejected: LogProbs, *, delta: float, nll_weight: float) -> PairLoss:
    """max(0, delta - l_c + l_r) - nll_weight l_c/|c|, at least 0. Zhao et al. 2023 (arXiv 2305.10425), Eq. 1, where the
    answer whose likelihood is kept is the chosen one, per token.
    """
    chosen_reward, rejected_reward = at_least_float32(chosen.policy), at_least_float32(rejected.policy)
    loss = relu(delta - chosen_reward + rejected_reward) - nll_weight * chosen.per_token(chosen_reward)
    return PairLoss(loss, chosen_reward.detach(), rejected_reward.detach())
