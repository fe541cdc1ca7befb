"""Weighted metrics against literal resamples, and intervals against simulated truth."""

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score, roc_curve

from honest_persona.statistics.bootstrap import Statistic, difference_interval, draw, exact, in_words, interval, value
from honest_persona.statistics.estimators import (
    auroc_statistic,
    ece_statistic,
    mass_bins,
    own_tpr_statistic,
    rate_statistic,
    share_statistic,
)
from honest_persona.statistics.rates import RATES
from tests.evaluation.scored import columns, simulated, truths


def all_statistics(c, threshold=0.8):
    every = np.ones(len(c.failed), dtype=bool)
    return {name: rate_statistic(c, name) for name in RATES} | {
        "misbehaved_unflagged_frac": share_statistic(c, c.missed, every),
        "auroc": auroc_statistic(c),
        "brier": share_statistic(c, (c.p_fail - c.failed) ** 2, every),
        "ece": ece_statistic(c),
        "tpr_at_own_fpr_0.05": own_tpr_statistic(c, 0.05),
        "tpr_at_benign_fpr_0.05": share_statistic(c, (c.p_fail > threshold) & c.failed, c.failed),
    }


@pytest.mark.parametrize("seed", range(8))
def test_a_weighted_resample_is_the_literal_one(seed):
    rng = np.random.default_rng(seed)
    items, failed, scores, _ = simulated(rng, k=12)
    scores = np.round(scores, 1 if seed % 2 else 9)  # ties, across the truths and the items, in every other set
    c = columns(items, failed, scores)
    bins = mass_bins(scores)
    draws = draw(12, seed, 20)
    weighted = {name: s.of(draws) for name, s in all_statistics(c).items()}
    for r, times in enumerate(draws.astype(int)):
        rows = np.concatenate([np.repeat(np.flatnonzero(items == i)[None], n, 0).ravel() for i, n in enumerate(times)])
        y, p = failed[rows], scores[rows]
        if y.all() or not y.any():
            assert np.isnan(weighted["auroc"][r])
            continue
        counts = c.counts[rows].sum(0)
        false, true, _ = roc_curve(y, p, drop_intermediate=False)
        literal = {name: float(rate(counts)) for name, rate in RATES.items()} | {
            "misbehaved_unflagged_frac": np.mean(y & ~(p > 0.5)),
            "auroc": roc_auc_score(y, p),
            "brier": brier_score_loss(y, p),
            "ece": np.abs(np.bincount(bins[rows], y - p)).sum() / len(rows),
            "tpr_at_own_fpr_0.05": true[false <= 0.05].max(),
            "tpr_at_benign_fpr_0.05": np.mean(p[y] > 0.8),
        }
        for name, expected in literal.items():
            assert weighted[name][r] == pytest.approx(expected, abs=1e-12), name


def test_blocks_of_memory_change_nothing(monkeypatch):
    c = columns(*simulated(np.random.default_rng(0), k=12)[:3])
    whole = auroc_statistic(c).of(draw(12))
    monkeypatch.setattr("honest_persona.statistics.bootstrap._CHUNK_VALUES", 7 * len(c.failed))
    assert np.array_equal(auroc_statistic(c).of(draw(12)), whole)


def test_intervals_are_seeded_and_ignore_the_order_of_records():
    items, failed, scores, _ = simulated(np.random.default_rng(1))
    c, turned = columns(items, failed, scores), columns(items[::-1], failed[::-1], scores[::-1])
    for name, statistic in all_statistics(c).items():
        first = interval(statistic, draw(c.k, 3))
        assert interval(statistic, draw(c.k, 3)) == first
        assert interval(all_statistics(turned)[name], draw(c.k, 3)) == pytest.approx(first, abs=1e-9)
        if name != "unparsable_frac":
            assert interval(statistic, draw(c.k, 4)) != first


def test_wider_than_unclustered_where_an_items_records_agree():
    items, failed, scores, _ = simulated(np.random.default_rng(1), k=100, sizes=(4, 5))

    def width(clusters, name):
        c = columns(clusters, failed, scores)
        low, high = interval(all_statistics(c)[name], draw(c.k))
        return high - low

    # the rate of FAIL records flagged depends on the item's own score: 2 of an item's 4 records, correlated 0.7
    assert width(items, "true_positive_rate") > 1.15 * width(np.arange(len(items)), "true_positive_rate")
    four = columns(np.repeat(items, 4), np.repeat(failed, 4), np.repeat(scores, 4))
    once = columns(items, failed, scores)
    for name in ("auroc", "brier", "accuracy"):
        assert interval(all_statistics(four)[name], draw(100)) == pytest.approx(
            interval(all_statistics(once)[name], draw(100)), abs=1e-9
        ), "four copies of a record are worth one"


def test_a_perfect_score_is_not_certain():
    failed = np.arange(40) % 2 == 1
    c = columns(np.arange(40), failed, np.where(failed, 0.9, 0.1))
    for name in ("auroc", "balanced_accuracy", "true_positive_rate", "tpr_at_own_fpr_0.05"):
        # 20 items of each flag, none wrong: 0.025 ** (1 / 20)
        assert interval(all_statistics(c)[name], draw(40)) == pytest.approx((0.8316, 1.0), abs=1e-4), name
    assert interval(all_statistics(c)["false_positive_rate"], draw(40)) == pytest.approx((0.0, 0.1684), abs=1e-4)
    assert interval(all_statistics(c)["unparsable_frac"], draw(40)) == pytest.approx((0.0, 0.0881), abs=1e-4)


def test_exact_interval_of_clopper_and_pearson():
    from scipy.stats import binomtest

    for x, m in ((0, 9), (3, 10), (10, 10), (50, 300)):
        expected = binomtest(x, m).proportion_ci(0.95, "exact")
        assert exact(x / m, m) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_no_interval_where_there_is_none():
    items, failed, scores, _ = simulated(np.random.default_rng(2))
    one = columns(np.zeros_like(items), failed, scores)
    assert {interval(s, draw(one.k)) for s in all_statistics(one).values()} == {None}
    # the items with the only two FAIL records are both missing from exp(-2) = 14 % of the resamples
    rare = columns(np.arange(20), np.arange(20) < 2, np.linspace(0, 1, 20))
    assert interval(auroc_statistic(rare), draw(20)) is None
    assert difference_interval(auroc_statistic(rare), auroc_statistic(rare), draw(20)) is None
    assert interval(rate_statistic(rare, "false_positive_rate"), draw(20)) is not None


def test_a_difference_is_narrower_than_its_parts_and_signed():
    items, failed, scores, better = simulated(np.random.default_rng(3), k=200)
    a, b = columns(items, failed, scores), columns(items, failed, better)
    draws = draw(200)
    for build in (auroc_statistic, lambda c: rate_statistic(c, "balanced_accuracy")):
        low, high = difference_interval(build(a), build(b), draws)
        other = interval(build(b), draws)
        assert high - low < other[1] - other[0], "pairing takes away what is hard for both"
        assert low < value(build(b), 200) - value(build(a), 200) < high
        assert difference_interval(build(b), build(a), draws) == pytest.approx((-high, -low), abs=1e-12)


def test_no_disagreement_in_few_items_is_not_equality():
    c = columns(*simulated(np.random.default_rng(4), k=10)[:3])
    low, high = difference_interval(auroc_statistic(c), auroc_statistic(c), draw(10))
    assert low == -high
    assert high == pytest.approx(1 - 0.025 ** (1 / auroc_statistic(c).support), abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("sets", "slack"), [(300, 0.02), pytest.param(2000, 0.0, marks=pytest.mark.long)])
def test_intervals_cover_the_truth(sets, slack):
    true, k = truths(), 50
    rng = np.random.default_rng(0)
    covered, missing = dict.fromkeys(true, 0), 0
    threshold = 1 / (1 + np.exp(-1.5 * 1.5 * (1.6448536 - 0.75)))  # P(FAIL) at the 95 % point of PASS
    for trial in range(sets):
        items, failed, scores, better = simulated(rng, k)
        first, second = (all_statistics(columns(items, failed, s), threshold) for s in (scores, better))
        draws = draw(k, trial, 400)
        for name, truth in true.items():
            of = name.removeprefix("second_")
            statistic = first[of]
            found = interval(statistic, draws) if of == name else difference_interval(statistic, second[of], draws)
            missing += found is None
            covered[name] += found is not None and found[0] <= truth <= found[1]
    assert missing == 0
    # a standard error of 0.5 % with 2,000 sets, 1.3 % with 300; the calibration error's upper end is on the safe side
    at_most = dict.fromkeys(true, 0.97) | {"ece": 0.985}
    assert all(0.93 - slack <= n / sets <= at_most[name] + slack for name, n in covered.items()), covered


@pytest.mark.slow
def test_calibrated_scores_have_a_calibration_error_of_0_within_the_interval():
    rng = np.random.default_rng(0)
    found = []
    for trial in range(300):
        items, failed, scores, _ = simulated(rng, k=60, slope=1.0)
        found.append(interval(ece_statistic(columns(items, failed, scores)), draw(60, trial, 400)))
    # 97.5 % +- 0.9 %: one-sided, as no error is below 0
    assert np.mean([low == 0 for low, _ in found]) >= 0.94
    over = [simulated(rng, k=60, slope=4.0)[:3] for _ in range(50)]
    assert all(interval(ece_statistic(columns(*o)), draw(60))[0] > 0 for o in over), "and it does see a large one"


@pytest.mark.slow
def test_shuffled_labels_are_a_coin_toss_within_the_interval():
    rng = np.random.default_rng(0)
    hits = {"auroc": 0, "balanced_accuracy": 0}
    for trial in range(1000):
        items, failed, scores, _ = simulated(rng)
        statistics = all_statistics(columns(items, rng.permutation(failed), scores))
        for name in hits:
            low, high = interval(statistics[name], draw(50, trial, 400))
            hits[name] += low <= 0.5 <= high
    assert all(0.93 <= n / 1000 <= 0.97 for n in hits.values()), hits
    items, failed, scores, _ = simulated(rng)
    assert interval(auroc_statistic(columns(items, failed, scores)), draw(50))[0] > 0.5, "and true labels are not"


def test_a_statistic_needs_two_clusters():
    lone = Statistic(lambda w: w.sum(1), support=1, n=1)
    assert interval(lone, draw(5)) is None


def test_a_figure_in_words():
    assert in_words(0.99, (0.97, 1.0)) == "0.990 (0.97-1.00)"
    assert in_words(-0.2, (-0.54, -0.01)) == "-0.200 (-0.54 to -0.01)"
    assert in_words(0.5, None) == "0.500"
    assert in_words(None, None) == "-"
