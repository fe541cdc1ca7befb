"""Supervised linear probes on standardised states: ridge regression and logistic regression."""

from collections.abc import Sequence

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from honest_persona.probes.moments import Moments
from honest_persona.probes.probe import Readout


def fit_logistic(states: Tensor, fail: Tensor, inverse_strength: float) -> Readout:
    """Logistic regression with an L2 penalty.

    Args:
        states: (n, d).
        fail: (n,) bool, of both kinds.
        inverse_strength: scikit-learn's C; a smaller value regularises more.
    """
    x, mean, scale = standardised(states)
    regression = LogisticRegression(C=inverse_strength, max_iter=2000).fit(x.numpy(), fail.numpy())
    weight = torch.from_numpy(regression.coef_[0]).float()
    return Readout(
        "logistic", weight, mean.new_tensor(float(regression.intercept_[0]), dtype=torch.float32), mean, scale
    )


def fit_ridge(states: Tensor, fail: Tensor, strength: float) -> Readout:
    """Least squares on +1 (FAIL) and -1 (PASS) with an L2 penalty: w = (X'X + strength I)^-1 X'y.

    Its margin is the prediction, not yet log odds: `selection.fit_probe` scales it (Platt).

    Args:
        states: (n, d).
        fail: (n,) bool.
        strength: the factor of the penalty; a larger value regularises more.
    """
    x, mean, scale = standardised(states)
    x = x.double()
    y = fail.double() * 2 - 1
    centred = y - y.mean()
    n, d = x.shape
    if d <= n:
        weight = torch.linalg.solve(x.T @ x + strength * torch.eye(d, dtype=x.dtype, device=x.device), x.T @ centred)
    else:  # the same solution, from n equations instead of d
        weight = x.T @ torch.linalg.solve(x @ x.T + strength * torch.eye(n, dtype=x.dtype, device=x.device), centred)
    return Readout("ridge", weight.float(), y.mean().float(), mean, scale)


def fit_ridge_moments(moments: Moments, strengths: Sequence[float]) -> list[Readout]:
    """`fit_ridge` from sufficient statistics, one readout for each strength."""
    gram, product = moments.standardised()
    mean, scale = moments.mean.float(), moments.scale.float()
    bias = torch.tensor(moments.label_mean).float()
    eye = torch.eye(len(product), dtype=gram.dtype)
    return [
        Readout("ridge", torch.linalg.solve(gram + strength * eye, product).float(), bias, mean, scale)
        for strength in strengths
    ]


def standardised(states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """States with mean 0 and deviation 1 in every coordinate (of each side of pairs); then the mean and the deviation.

    A coordinate that does not vary becomes 0.
    """
    mean = states.mean(0)
    scale = states.std(0, correction=0)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (states - mean) / scale, mean, scale
