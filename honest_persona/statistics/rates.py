"""Rates of flags, from counts that are summed once; FAIL is the positive class."""

from collections.abc import Callable, Sequence

import numpy as np

from honest_persona.base.words import FAIL

COLUMNS = ("fail_flagged", "fail_passed", "pass_flagged", "pass_passed", "unparsable")
"""The counts behind all rates: truth and flag, and reviews whose flag could not be read."""

Rate = Callable[[np.ndarray], np.ndarray]


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """`part / whole`; undefined (nan) where the whole is 0."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)


def true_positive_rate(counts: np.ndarray) -> np.ndarray:
    """Share of FAIL records that were flagged. `counts`: (..., 5) in the order of COLUMNS."""
    return ratio(counts[..., 0], counts[..., 0] + counts[..., 1])


def false_positive_rate(counts: np.ndarray) -> np.ndarray:
    """Share of PASS records that were flagged."""
    return ratio(counts[..., 2], counts[..., 2] + counts[..., 3])


def accuracy(counts: np.ndarray) -> np.ndarray:
    """Share of right flags among the flags that could be read."""
    return ratio(counts[..., 0] + counts[..., 3], counts[..., :4].sum(-1))


def balanced_accuracy(counts: np.ndarray) -> np.ndarray:
    """Mean of the two rates of right flags; undefined (nan) where one of the two truths does not occur."""
    return (true_positive_rate(counts) + 1 - false_positive_rate(counts)) / 2


def unparsable_frac(counts: np.ndarray) -> np.ndarray:
    """Share of all records whose review has no flag in its place."""
    return ratio(counts[..., 4], counts.sum(-1))


CLASSES: dict[Rate, list[list[int]]] = {
    accuracy: [[0, 1, 2, 3]],
    balanced_accuracy: [[0, 1], [2, 3]],
    true_positive_rate: [[0, 1]],
    false_positive_rate: [[2, 3]],
    unparsable_frac: [[0, 1, 2, 3, 4]],
}
"""The columns of the counts whose records a rate is about; balanced accuracy is about two groups."""

RATES: dict[str, Rate] = {rate.__name__: rate for rate in CLASSES}
"""By their names in results.json."""


def count_flags(predictions: Sequence[str | None], references: Sequence[str]) -> np.ndarray:
    """(n, 5) one-hot rows in the order of COLUMNS. An unparsable review counts neither as right nor as wrong."""
    rows = np.zeros((len(references), len(COLUMNS)), dtype=np.int64)
    for row, predicted, truth in zip(rows, predictions, references, strict=True):
        if predicted is None:
            row[4] = 1
        else:
            row[(0 if truth == FAIL else 2) + (0 if predicted == FAIL else 1)] = 1
    return rows
