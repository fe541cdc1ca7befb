"""Metrics as functions of how often each cluster is drawn: rates of flags, shares, AUROC, calibration error."""

import numpy as np

from honest_persona.statistics import rates
from honest_persona.statistics.bootstrap import Statistic, by_record
from honest_persona.statistics.columns import Clustered, Columns

BINS = 10
"""Of equal mass, for the calibration error. Such bins bias it less than bins of equal width (arXiv 2012.08668)."""


def rate_statistic(columns: Columns, name: str) -> Statistic:
    """One of `rates.RATES`."""
    counts, rate = columns.counts, rates.RATES[name]
    classes = [counts[:, kinds].sum(1) > 0 for kinds in rates.CLASSES[rate]]
    sums = columns.sums(counts)
    return Statistic(lambda w: rate(w @ sums), columns.support(*classes), int(sum(c.sum() for c in classes)))


def share_statistic(columns: Columns, part: np.ndarray, whole: np.ndarray) -> Statistic:
    """Sum of `part` over the sum of `whole`: values of the n records; `whole` is bool."""
    return mean_statistic(columns, part, whole, is_share=True)


def mean_statistic(columns: Clustered, values: np.ndarray, weights: np.ndarray, is_share: bool) -> Statistic:
    """Sum of `values` over the sum of `weights`, (n,) each; records of weight 0 are not counted."""
    sums, counted = columns.sums(np.stack([values, weights], 1).astype(float)), weights > 0
    support = columns.support(counted)
    return Statistic(lambda w: rates.ratio(*(w @ sums).T), support, int(counted.sum()), is_share=is_share)


def auroc_statistic(columns: Columns) -> Statistic:
    """P(a FAIL has the higher score than a PASS) + P(they are equal) / 2, by one sort for all resamples."""
    order, starts = _ties(columns.p_fail)
    failed = columns.failed[order].astype(float)

    def values(weights: np.ndarray) -> np.ndarray:  # (R, n) in the order of the scores
        fails, passes = _grouped(weights * failed, starts), _grouped(weights * (1 - failed), starts)
        below = np.cumsum(passes, 1) - passes / 2
        return rates.ratio((fails * below).sum(1), fails.sum(1) * passes.sum(1))

    support = columns.support(columns.failed, ~columns.failed)
    return Statistic(by_record(columns.cluster[order], values), support, len(failed))


def own_tpr_statistic(columns: Columns, fpr: float) -> Statistic:
    """The highest true positive rate at any threshold with at most `fpr` false positives among the records' own."""
    order, starts = _ties(-columns.p_fail)
    failed = columns.failed[order].astype(float)

    def values(weights: np.ndarray) -> np.ndarray:
        fails, passes = _grouped(weights * failed, starts), _grouped(weights * (1 - failed), starts)
        n_fail, n_pass = fails.sum(1), passes.sum(1)
        allowed = np.cumsum(passes, 1) <= fpr * n_pass[:, None] + 1e-9
        return rates.ratio((fails * allowed).sum(1), n_fail * (n_pass > 0))

    support = columns.support(columns.failed, ~columns.failed)
    return Statistic(by_record(columns.cluster[order], values), support, int(columns.failed.sum()))


def ece_statistic(columns: Columns, bins: int = BINS) -> Statistic:
    """Expected calibration error, sum over bins of |sum of (FAIL - P(FAIL))| / n (Naeini et al. 2015, Eq. 3).

    The bins hold equally many records, up to ties, and are the same in all resamples.
    """
    gaps = np.zeros((len(columns.p_fail), bins))
    gaps[np.arange(len(gaps)), mass_bins(columns.p_fail, bins)] = columns.failed - columns.p_fail
    sums, sizes = columns.sums(gaps), columns.sums(np.ones(len(gaps)))
    centre = gaps.sum(0) / max(1, len(gaps))

    def per_bin(weights: np.ndarray) -> np.ndarray:
        return rates.ratio(weights @ sums, (weights @ sizes)[:, None])

    return Statistic(
        lambda w: np.abs(per_bin(w)).sum(1),
        columns.k,
        len(gaps),
        if_zero=lambda w: np.abs(per_bin(w) - centre).sum(1),
    )


def mass_bins(p_fail: np.ndarray, bins: int = BINS) -> np.ndarray:
    """(n,) the bin of each score, as scikit-learn's `calibration_curve(strategy="quantile")` draws them."""
    if not len(p_fail):
        return np.zeros(0, dtype=int)
    edges = np.percentile(p_fail, np.linspace(0, 1, bins + 1) * 100)
    return np.searchsorted(edges[1:-1], p_fail)


def ece_if_calibrated(p_fail: np.ndarray, seed: int, repeats: int = 100) -> float:
    """The mean calibration error that noise alone gives to n independent records (Broecker and Smith 2007)."""
    bins = mass_bins(p_fail)
    drawn = np.random.default_rng(seed).random((repeats, len(p_fail))) < p_fail
    one_hot = np.eye(BINS)[bins]
    return float(np.abs((drawn - p_fail) @ one_hot).sum(1).mean() / len(p_fail))


def _ties(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The order of the scores, and where each run of equal ones starts; None where all differ."""
    order = np.argsort(scores, kind="stable")
    new = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    return order, None if len(new) == len(order) else new


def _grouped(weights: np.ndarray, starts: np.ndarray | None) -> np.ndarray:
    return weights if starts is None else np.add.reduceat(weights, starts, axis=1)
