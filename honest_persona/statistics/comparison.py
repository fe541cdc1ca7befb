"""Paired differences of metrics between two detectors on the same records.

Whole clusters are drawn, the same for both, so that records that are hard for both do not widen the interval.
"""

from dataclasses import dataclass

import numpy as np

from honest_persona.statistics.bootstrap import Interval, defined, difference_interval, draw, value
from honest_persona.statistics.columns import Columns
from honest_persona.statistics.metrics import Metric, Place, shown


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
    draws = draw(a.k, seed, resamples)
    undefined = Difference(None, None, None, None, 0)
    return {
        metric.name: _difference(metric, a, b, draws) if scored or not metric.of_scores else undefined
        for metric in shown(Place.COMPARED)
    }


def _difference(metric: Metric, a: Columns, b: Columns, draws: np.ndarray) -> Difference:
    of_a, of_b = metric.statistic(a), metric.statistic(b)
    at_a, at_b = value(of_a, a.k), value(of_b, b.k)
    return Difference(
        a=defined(at_a),
        b=defined(at_b),
        difference=defined(at_b - at_a),
        interval=difference_interval(of_a, of_b, draws),
        n=min(of_a.n, of_b.n),
    )
