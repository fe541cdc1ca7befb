"""Rates against scikit-learn. Their intervals are in test_bootstrap.py."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score

from honest_persona.evaluation.baselines import variant_only
from honest_persona.statistics.evaluate_metrics import FlagMetrics
from honest_persona.statistics.rates import COLUMNS, RATES, count_flags


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
