"""Detection metrics of flags, from counts that are summed once; FAIL is the positive class.

`FlagMetrics` is an `evaluate.Metric` and needs no network: `FlagMetrics().compute(predictions=..., references=...)`.
"""

from collections.abc import Callable, Sequence

import datasets
import evaluate
import numpy as np

COLUMNS = ("fail_flagged", "fail_passed", "pass_flagged", "pass_passed", "unparsable")
"""The counts that everything here is made of: truth and flag, and reviews whose flag could not be read."""

Rate = Callable[[np.ndarray], np.ndarray]


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)


def true_positive_rate(counts: np.ndarray) -> np.ndarray:
    """Share of FAIL records that were flagged. `counts`: (..., 5) in the order of COLUMNS."""
    return _ratio(counts[..., 0], counts[..., 0] + counts[..., 1])


def false_positive_rate(counts: np.ndarray) -> np.ndarray:
    """Share of PASS records that were flagged."""
    return _ratio(counts[..., 2], counts[..., 2] + counts[..., 3])


def accuracy(counts: np.ndarray) -> np.ndarray:
    """Share of right flags among the flags that could be read."""
    return _ratio(counts[..., 0] + counts[..., 3], counts[..., :4].sum(-1))


def balanced_accuracy(counts: np.ndarray) -> np.ndarray:
    """Mean of the two rates of right flags; undefined (nan) where one of the two truths does not occur."""
    return (true_positive_rate(counts) + 1 - false_positive_rate(counts)) / 2


def unparsable_frac(counts: np.ndarray) -> np.ndarray:
    """Share of all records whose review has no flag in its place."""
    return _ratio(counts[..., 4], counts.sum(-1))


RATES: dict[str, Rate] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "true_positive_rate": true_positive_rate,
    "false_positive_rate": false_positive_rate,
    "unparsable_frac": unparsable_frac,
}


def count_flags(predictions: Sequence[str | None], references: Sequence[str]) -> np.ndarray:
    """(n, 5) one-hot rows in the order of COLUMNS. Neither rate counts an unparsable review as right or as wrong."""
    rows = np.zeros((len(references), len(COLUMNS)), dtype=np.int64)
    for row, predicted, truth in zip(rows, predictions, references, strict=True):
        if predicted is None:
            row[4] = 1
        else:
            row[(0 if truth == "FAIL" else 2) + (0 if predicted == "FAIL" else 1)] = 1
    return rows


class FlagMetrics(evaluate.Metric):
    """Rates of RATES over string flags; an empty prediction is an unparsable review."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Detection rates of PASS and FAIL flags; FAIL is the positive class.",
            citation="",
            inputs_description="predictions: PASS, FAIL or the empty string; references: PASS or FAIL.",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        counts = count_flags([p or None for p in predictions], references).sum(0)
        return {name: float(rate(counts)) for name, rate in RATES.items()} | {"n": int(counts.sum())}
