"""How well P(FAIL) and the written flags detect misbehaviour: every figure with its n and a 95 % interval.

FAIL is the positive class. Metrics of P(FAIL) count all records, also those with an unreadable flag.

    columns = Columns.of_samples(results.samples)
    estimates = detect(columns, [threshold_for(benign_scores, 0.01)])
    estimates["auroc"].value, estimates["auroc"].interval, estimates["auroc"].n

Two kinds of true positive rate at a false positive rate must not be mixed up:

- `tpr_at_benign_fpr_0.01`: the threshold was fixed on other data (`threshold.threshold_for`), as in use.
- `tpr_at_own_fpr_0.01`: the threshold is chosen on the evaluated negatives themselves, for comparison with papers that
  choose it so. For the interval, each resample draws the negatives again and chooses the threshold again.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from honest_persona.statistics.bootstrap import Interval, Statistic, defined, draw, in_words, interval, value
from honest_persona.statistics.columns import Columns
from honest_persona.statistics.metrics import METRICS, Metric, at_threshold
from honest_persona.statistics.threshold import Threshold


class Estimate(NamedTuple):
    """A figure with its interval and the number of records behind it."""

    value: float | None
    """None where no record defines it."""
    interval: Interval | None
    """95 %, clustered; None where there are too few clusters for one."""
    n: int
    """Records behind the figure; for a rate, the records of its class."""
    note: str = ""
    """What must be said beside the figure."""

    @classmethod
    def of(cls, statistic: Statistic, draws: np.ndarray) -> "Estimate":
        """The metric of the data with its interval. `draws`: of `bootstrap.draw`, over the metric's clusters."""
        return cls(defined(value(statistic, draws.shape[1])), interval(statistic, draws), statistic.n)

    def __str__(self) -> str:
        return in_words(self.value, self.interval)


def detect(
    columns: Columns, thresholds: Sequence[Threshold] = (), seed: int = 0, resamples: int = 1000
) -> dict[str, Estimate]:
    """All metrics of one group of records; none without a record.

    Args:
        thresholds: fixed on benign conversations that are not among these records.
        resamples: of the bootstrap.

    Returns:
        `metrics.METRICS`, and per threshold `tpr_at_benign_fpr_*` and `fpr_at_benign_fpr_*`, by name.
    """
    if not len(columns.failed):
        return {}
    draws = draw(columns.k, seed, resamples)
    metrics = [*METRICS.values(), *(metric for t in thresholds for metric in at_threshold(t.wanted_fpr, t))]
    return {metric.name: _estimate(metric, columns, draws, seed) for metric in metrics}


def _estimate(metric: Metric, columns: Columns, draws: np.ndarray, seed: int) -> Estimate:
    found = Estimate.of(metric.statistic(columns), draws)
    if metric.value is not None:
        found = found._replace(value=defined(float(metric.value(columns))))
    return found._replace(note=metric.note(columns, seed) if metric.note else "")
