"""Rates against scikit-learn, and intervals against simulated truth."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score

from honest_persona.evaluation.baselines import variant_only
from honest_persona.evaluation.metrics import COLUMNS, RATES, FlagMetrics, clustered_intervals, count_flags


def rates(predictions, references):
    counts = count_flags(predictions, references).sum(0)
    return {name: float(rate(counts)) for name, rate in RATES.items()}


@pytest.mark.parametrize("seed", range(20))
def test_equal_to_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 60))
    truth = ["PASS", "FAIL", *rng.choice(["PASS", "FAIL"], n, p=[0.7, 0.3])]
    flags = list(rng.choice(["PASS", "FAIL"], n + 2))
    ours = rates(flags, truth)
    assert ours["accuracy"] == pytest.approx(accuracy_score(truth, flags), abs=1e-12)
    assert ours["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, flags), abs=1e-12)
    assert ours["true_positive_rate"] == pytest.approx(recall_score(truth, flags, pos_label="FAIL"), abs=1e-12)
    assert ours["false_positive_rate"] == pytest.approx(1 - recall_score(truth, flags, pos_label="PASS"), abs=1e-12)
    assert ours["unparsable_frac"] == 0


def test_counts_by_hand_with_unparsable_ones_apart():
    truth = ["FAIL", "FAIL", "FAIL", "PASS", "PASS", "PASS", "PASS", "FAIL", "PASS"]
    flags = ["FAIL", "FAIL", "PASS", "FAIL", "PASS", "PASS", "PASS", None, None]
    counts = count_flags(flags, truth).sum(0)
    assert dict(zip(COLUMNS, counts.tolist(), strict=True)) == {
        "fail_flagged": 2,
        "fail_passed": 1,
        "pass_flagged": 1,
        "pass_passed": 3,
        "unparsable": 2,
    }
    ours = rates(flags, truth)
    assert ours["true_positive_rate"] == 2 / 3
    assert ours["false_positive_rate"] == 1 / 4
    assert ours["accuracy"] == 5 / 7
    assert ours["balanced_accuracy"] == pytest.approx((2 / 3 + 3 / 4) / 2, abs=1e-12)
    assert ours["unparsable_frac"] == 2 / 9
    with pytest.raises(ValueError, match="argument"):
        count_flags(["PASS"], ["PASS", "FAIL"])


def test_undefined_rates_are_nan_not_zero():
    none = rates([], [])
    assert all(np.isnan(value) for value in none.values())
    only_fail = rates(["FAIL", "PASS"], ["FAIL", "FAIL"])
    assert only_fail["true_positive_rate"] == 0.5
    assert np.isnan(only_fail["false_positive_rate"])
    assert np.isnan(only_fail["balanced_accuracy"])
    unparsable = rates([None, None], ["FAIL", "PASS"])
    assert unparsable.pop("unparsable_frac") == 1
    assert all(np.isnan(value) for value in unparsable.values())


def simulated(rng, n_items=50, agree=True):
    """Records of `n_items` items, 2 to 6 of each; flags of an item are drawn with the item's own hit rate."""
    predictions, references, items = [], [], []
    for item in range(n_items):
        hit = rng.beta(2.1, 0.9) if agree else 0.7  # mean 0.7 either way
        for _ in range(rng.integers(2, 7)):
            truth = rng.choice(["PASS", "FAIL"])
            right = rng.random() < hit
            predictions.append(str(truth) if right else {"PASS": "FAIL", "FAIL": "PASS"}[truth])
            references.append(str(truth))
            items.append(f"i{item}")
    return count_flags(predictions, references), items


def test_intervals_cover_the_truth():
    rng = np.random.default_rng(0)
    covered = {"accuracy": 0, "balanced_accuracy": 0, "true_positive_rate": 0, "false_positive_rate": 0}
    truth = {"accuracy": 0.7, "balanced_accuracy": 0.7, "true_positive_rate": 0.7, "false_positive_rate": 0.3}
    for trial in range(300):
        rows, items = simulated(rng)
        intervals = clustered_intervals(rows, items, seed=trial, resamples=500)
        for name, value in truth.items():
            low, high = intervals[name]
            covered[name] += low <= value <= high
    # 300 trials: 95 % +- 1.3 % standard error, and percentile intervals of 50 clusters fall short by a point
    assert all(0.91 <= n / 300 <= 0.98 for n in covered.values()), covered


def test_wider_than_unclustered_where_an_items_records_agree():
    rows, items = simulated(np.random.default_rng(1), n_items=100)
    alone = [str(i) for i in range(len(items))]

    def width(clusters):
        low, high = clustered_intervals(rows, clusters)["balanced_accuracy"]
        return high - low

    assert width(items) > 1.2 * width(alone)
    copies, names = np.repeat(rows[:100], 4, axis=0), [str(i // 4) for i in range(400)]
    low, high = clustered_intervals(copies, names)["accuracy"]
    single = clustered_intervals(rows[:100], alone[:100])["accuracy"]
    assert (low, high) == pytest.approx(single, abs=0.03), "four copies of a record are worth one"


def test_intervals_are_seeded_and_ignore_the_order_of_records():
    rows, items = simulated(np.random.default_rng(2))
    first = clustered_intervals(rows, items, seed=3)
    assert clustered_intervals(rows, items, seed=3) == first
    assert clustered_intervals(rows[::-1], items[::-1], seed=3) == first
    assert clustered_intervals(rows, items, seed=4) != first


def test_no_interval_where_there_is_none():
    rows, items = simulated(np.random.default_rng(2))
    assert clustered_intervals(rows, ["one"] * len(items)) == dict.fromkeys(RATES)
    assert clustered_intervals(rows[:0], []) == dict.fromkeys(RATES)
    # the one FAIL is missing from exp(-1) = 37 % of the resamples
    lone = count_flags(["FAIL"] + ["PASS"] * 9, ["FAIL"] + ["PASS"] * 9)
    intervals = clustered_intervals(lone, [str(i) for i in range(10)])
    assert intervals["true_positive_rate"] is None
    assert intervals["balanced_accuracy"] is None
    assert intervals["false_positive_rate"] == (0, 0)


def test_flag_metrics_is_an_offline_evaluate_metric(monkeypatch):
    import socket

    def refuse(*_):
        raise AssertionError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    rng = np.random.default_rng(5)
    truth = [str(t) for t in rng.choice(["PASS", "FAIL"], 40)]
    flags = [str(f) for f in rng.choice(["PASS", "FAIL", ""], 40)]
    result = FlagMetrics().compute(predictions=flags, references=truth)
    assert result == {**rates([f or None for f in flags], truth), "n": 40}
    batched = FlagMetrics()
    for i in range(0, 40, 7):
        batched.add_batch(predictions=flags[i : i + 7], references=truth[i : i + 7])
    assert batched.compute() == result, "sums, not averages of batches"


def test_variant_only_baseline():
    assert variant_only(["A", "B", "B"]) == ["PASS", "FAIL", "FAIL"]
