"""Paired differences of metrics between two detectors on the same records.

Whole clusters are drawn, the same for both, so that records that are hard for both do not widen the interval.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from honest_persona.statistics.bootstrap import Interval, Statistic, defined, difference_interval, draw, value
from honest_persona.statistics.columns import Columns
from honest_persona.statistics.metrics import Place, shown

Statistics = Mapping[str, Statistic | None]
"""By the metric's name; None where one side cannot have it."""


@dataclass(frozen=True)
class Difference:
    """One metric of A, of B, and B - A."""

    a: float | None
    b: float | None
    difference: float | None
    interval: Interval | None
    """95 %, of the difference; None where there are too few clusters for one."""
    n: int
    """Records behind the figure; where A and B differ, the smaller number."""

    @property
    def resolved(self) -> bool:
        """The interval excludes 0."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


def differences(a: Columns, b: Columns, scored: bool, seed: int, resamples: int) -> dict[str, Difference]:
    """B - A of the metrics of `Place.COMPARED`, by name.

    Args:
        a, b: of the same records in the same order.
        scored: whether both have P(FAIL); without it, metrics of P(FAIL) are undefined.
    """
    left, right = (
        {m.name: m.statistic(side) if scored or not m.of_scores else None for m in shown(Place.COMPARED)}
        for side in (a, b)
    )
    return between(left, right, a.k, seed, resamples)


def between(
    a: Statistics, b: Statistics, n_clusters: int, seed: int = 0, resamples: int = 1000
) -> dict[str, Difference]:
    """B - A of statistics of the same records, over the same clusters."""
    draws = draw(n_clusters, seed, resamples)
    return {name: _difference(of_a, b[name], draws) for name, of_a in a.items()}


def _difference(of_a: Statistic | None, of_b: Statistic | None, draws: np.ndarray) -> Difference:
    if of_a is None or of_b is None:
        return Difference(None, None, None, None, 0)
    k = draws.shape[1]
    at_a, at_b = value(of_a, k), value(of_b, k)
    return Difference(
        a=defined(at_a),
        b=defined(at_b),
        difference=defined(at_b - at_a),
        interval=difference_interval(of_a, of_b, draws),
        n=min(of_a.n, of_b.n),
    )
