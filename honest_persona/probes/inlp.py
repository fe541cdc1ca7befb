"""Iterated null-space projection: how many directions of the states hold the truth, and what is left without them.

Ravfogel et al. 2020, "Null It Out: Guarding Protected Attributes by Iterative Nullspace Projection", arXiv 2004.07667,
section 4. Each round fits a linear classifier, here ridge regression, on states from which the directions of all
earlier rounds are removed, and removes its own direction too:

    P_k = P_(k-1) - w_k w_k' / |w_k|^2,      w_k fitted on states X P_(k-1)

A ridge solution on X P lies in the range of P, so the removed directions are orthogonal, and P_k = I - W'W with
orthonormal rows W. All rounds need of the states are X'X and X'y.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from honest_persona.probes.moments import Moments
from honest_persona.probes.probe import Readout

STRENGTH_FRAC = 0.1
"""The penalty, as a share of n, which is the diagonal of X'X where X is standardised."""
_NOTHING = 1e-9
"""Below this share of its first length, X'y is nothing but rounding: no classifier can be fitted."""


class Rounds(NamedTuple):
    """The classifiers, one a row: on standardised states, directions in the order of the rounds."""

    weights: Tensor
    """(k, d) float64; each lies where the earlier rounds left something"""

    def projection(self, k: int | None = None) -> Tensor:
        """P (d, d): what remains of standardised states after the first k rounds, all of them for None."""
        chosen = self.weights[:k]
        directions = chosen / chosen.norm(dim=1, keepdim=True)
        return torch.eye(chosen.shape[1], dtype=chosen.dtype) - directions.T @ directions


def iterate(gram: Tensor, product: Tensor, rounds: int, strength: float) -> Rounds:
    """Up to so many rounds; fewer where no linear signal is left in the data.

    Args:
        gram: X'X (d, d) of states with mean 0.
        product: X'y (d,).
        strength: the penalty of each round's ridge regression.
    """
    found: list[Tensor] = []
    a, b, first = gram.clone(), product.clone(), float(product.norm())
    penalty = strength * torch.eye(len(b), dtype=a.dtype)
    for _ in range(min(rounds, len(b))):
        if float(b.norm()) <= _NOTHING * first or not first:
            break
        w = torch.linalg.solve(a + penalty, b)
        for earlier in found:  # orthogonal but for rounding
            w = w - earlier * (earlier @ w) / (earlier @ earlier)
        found.append(w)
        u = w / w.norm()
        au = a @ u
        a = a - torch.outer(u, au) - torch.outer(au, u) + (u @ au) * torch.outer(u, u)  # P A P
        b = b - u * (u @ b)
    return Rounds(torch.stack(found) if found else gram.new_zeros(0, len(b)))


def fit_inlp(moments: Moments, rounds: int) -> tuple[list[Readout], Rounds]:
    """A readout for each number of rounds from 1 on: the sum of these rounds' margins. Not yet log odds.

    Where nothing was left before, the last readouts are equal.
    """
    found = iterate(*moments.standardised(), rounds, STRENGTH_FRAC * moments.n)
    sums = found.weights.cumsum(0)
    zero = moments.mean.new_zeros(1, len(moments.mean))
    return [
        _readout(moments, (sums[k] if k < len(sums) else (sums[-1:] if len(sums) else zero)[0])) for k in range(rounds)
    ], found


def round_readouts(moments: Moments, found: Rounds) -> list[Readout]:
    """The classifier of each round alone: what a linear reader still finds after the rounds before it."""
    return [_readout(moments, weight) for weight in found.weights]


def _readout(moments: Moments, weight: Tensor) -> Readout:
    bias = torch.tensor(moments.label_mean)
    return Readout("inlp", weight.float(), bias.float(), moments.mean.float(), moments.scale.float())
