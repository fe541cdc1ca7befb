"""What linear fits need of states, in place of the states: counts, means and scatter matrices, batch by batch.

    moments = Moments.zero(d)
    moments.add(states, fail)               # any number of times, in float64
    moments + others                        # of other examples: folds are merged, not read again

Batches are merged by the pairwise formula of Chan, Golub and LeVeque (1983), "Algorithms for Computing the Sample
Variance", which loses no digits where means are large beside deviations. Memory is d^2, whatever the number of states.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_NOISE = 1e-14
"""A variance below this share of the squared mean is the rounding of float32 states: the coordinate does not vary."""


@dataclass(frozen=True)
class Moments:
    """Of n states (d,) and their labels, +1 for FAIL and -1 for PASS."""

    n: int
    mean: Tensor
    """(d,) float64"""
    scatter: Tensor
    """(d, d): sum of (x - mean)(x - mean)'"""
    label_mean: float
    product: Tensor
    """(d,): sum of (x - mean)(y - label_mean)"""

    @classmethod
    def zero(cls, d: int) -> "Moments":
        new = torch.zeros(d, dtype=torch.float64, device="cpu")
        return cls(0, new, new.new_zeros(d, d), 0.0, new)

    @classmethod
    def of(cls, states: Tensor, fail: Tensor) -> "Moments":
        """Of states (n, d) and (n,) bool."""
        if not len(states):
            return cls.zero(states.shape[1])
        x, y = states.double(), fail.double() * 2 - 1
        mean, label_mean = x.mean(0), y.mean()
        x = x - mean
        return cls(len(x), mean, x.T @ x, float(label_mean), x.T @ (y - label_mean))

    def __add__(self, other: "Moments") -> "Moments":
        n = self.n + other.n
        if not n:
            return self
        step, label_step = other.mean - self.mean, other.label_mean - self.label_mean
        weight = self.n * other.n / n
        return Moments(
            n,
            self.mean + step * (other.n / n),
            self.scatter + other.scatter + weight * torch.outer(step, step),
            self.label_mean + label_step * (other.n / n),
            self.product + other.product + weight * label_step * step,
        )

    @property
    def scale(self) -> Tensor:
        """(d,) standard deviations; 1 where a coordinate does not vary."""
        return _deviation(self.scatter.diagonal() / max(self.n, 1), self.mean)

    def standardised(self) -> tuple[Tensor, Tensor]:
        """X'X (d, d) and X'y (d,) of states with mean 0 and deviation 1."""
        scale, varies = self.scale, self.scatter.diagonal() / max(self.n, 1) > _NOISE * self.mean**2
        factor = torch.where(varies, 1 / scale, torch.zeros_like(scale))
        return self.scatter * factor[:, None] * factor, self.product * factor


@dataclass(frozen=True)
class PairMoments:
    """Of n contrast pairs (2, d) of m items; pairs of one item are rewordings of one question."""

    n: int
    mean: Tensor
    """(2, d) float64"""
    within: Tensor
    """(d, d): sum over both sides of (x - mean of the side)(x - mean of the side)'"""
    m: int
    centre: Tensor
    """(2, d): mean of the items' centroids"""
    cross: Tensor
    """(d, d): sum over items of (PASS side's centroid - centre)(FAIL side's centroid - centre)'"""
    around: Tensor
    """(d, d): sum over items and sides of the covariance of the item's states around their centroid"""

    @classmethod
    def zero(cls, d: int) -> "PairMoments":
        sides = torch.zeros(2, d, dtype=torch.float64, device="cpu")
        square = sides.new_zeros(d, d)
        return cls(0, sides, square, 0, sides, square, square)

    @classmethod
    def of(cls, pairs: Tensor, items: Sequence[str]) -> "PairMoments":
        """Of pairs (n, 2, d); an item must be here with all of its pairs."""
        if not len(pairs):
            return cls.zero(pairs.shape[-1])
        x = pairs.double()
        names = {name: i for i, name in enumerate(dict.fromkeys(items))}
        index = torch.tensor([names[name] for name in items], device="cpu")
        m, d = len(names), x.shape[-1]
        counts = torch.bincount(index, minlength=m).double()
        centroids = x.new_zeros(m, 2, d).index_add_(0, index, x) / counts[:, None, None]
        mean, centre = x.mean(0), centroids.mean(0)
        centred = centroids - centre
        around = ((x - centroids[index]) / counts[index, None, None].sqrt()).reshape(-1, d)
        spread = (x - mean).reshape(-1, d)
        return cls(len(x), mean, spread.T @ spread, m, centre, centred[:, 0].T @ centred[:, 1], around.T @ around)

    def __add__(self, other: "PairMoments") -> "PairMoments":
        n, m = self.n + other.n, self.m + other.m
        if not n:
            return self
        step, centre_step = other.mean - self.mean, other.centre - self.centre
        weight, item_weight = self.n * other.n / n, self.m * other.m / m
        return PairMoments(
            n,
            self.mean + step * (other.n / n),
            self.within + other.within + weight * step.T @ step,
            m,
            self.centre + centre_step * (other.m / m),
            self.cross + other.cross + item_weight * torch.outer(centre_step[0], centre_step[1]),
            self.around + other.around,
        )


@dataclass(frozen=True)
class Spread:
    """Mean and variance of each coordinate of n states, of any shape."""

    n: int
    mean: Tensor
    squares: Tensor
    """Sum of squared distances from the mean."""

    @classmethod
    def zero(cls, shape: Sequence[int]) -> "Spread":
        new = torch.zeros(*shape, dtype=torch.float64, device="cpu")
        return cls(0, new, new)

    @classmethod
    def of(cls, states: Tensor) -> "Spread":
        if not len(states):
            return cls.zero(states.shape[1:])
        x = states.double()
        mean = x.mean(0)
        return cls(len(x), mean, ((x - mean) ** 2).sum(0))

    def __add__(self, other: "Spread") -> "Spread":
        n = self.n + other.n
        if not n:
            return self
        step = other.mean - self.mean
        squares = self.squares + other.squares + self.n * other.n / n * step**2
        return Spread(n, self.mean + step * (other.n / n), squares)

    @property
    def scale(self) -> Tensor:
        """Standard deviations; 1 where a coordinate does not vary."""
        return _deviation(self.squares / max(self.n, 1), self.mean)


def _deviation(variance: Tensor, mean: Tensor) -> Tensor:
    return torch.where(variance > _NOISE * mean**2, variance.sqrt(), torch.ones_like(variance))
