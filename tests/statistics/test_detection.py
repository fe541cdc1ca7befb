"""Metrics of P(FAIL) against scikit-learn's, by hand, and where they are undefined."""

import socket

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import balanced_accuracy_score, brier_score_loss, roc_auc_score, roc_curve

from honest_persona.statistics.bootstrap import value
from honest_persona.statistics.columns import Columns
from honest_persona.statistics.detection import detect
from honest_persona.statistics.estimators import (
    BINS,
    auroc_statistic,
    ece_statistic,
    mass_bins,
    own_tpr_statistic,
)
from honest_persona.statistics.evaluate_metrics import ScoreMetrics
from honest_persona.statistics.rates import RATES
from honest_persona.statistics.threshold import threshold_for
from tests.evaluation.scored import columns, sample, simulated, words


@pytest.mark.parametrize("seed", range(20))
def test_equal_to_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    items, failed, scores, _ = simulated(rng, k=int(rng.integers(4, 60)))
    failed[:2] = False, True
    scores = np.round(scores, seed % 4 + 1)  # ties
    c = columns(items, failed, scores)
    found = detect(c, resamples=2)
    false, true, _ = roc_curve(failed, scores, drop_intermediate=False)
    expected = {
        "auroc": roc_auc_score(failed, scores),
        "brier": brier_score_loss(failed, scores),
        "balanced_accuracy": balanced_accuracy_score(failed, scores > 0.5),
        "tpr_at_own_fpr_0.01": true[false <= 0.01].max(),
        "tpr_at_own_fpr_0.05": true[false <= 0.05].max(),
    }
    for name, score in expected.items():
        assert found[name].value == pytest.approx(score, abs=1e-12), name
    # what the intervals are made of is the same figure
    assert value(auroc_statistic(c), c.k) == pytest.approx(expected["auroc"], abs=1e-12)
    for fpr in (0.01, 0.05):
        assert value(own_tpr_statistic(c, fpr), c.k) == pytest.approx(expected[f"tpr_at_own_fpr_{fpr}"], abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_calibration_error_from_scikit_learns_curve(seed):
    items, failed, scores, _ = simulated(np.random.default_rng(seed))
    scores = np.round(scores, 1 + seed)
    rates, means = calibration_curve(failed, scores, n_bins=BINS, strategy="quantile")
    sizes = np.bincount(mass_bins(scores), minlength=BINS)
    expected = (sizes[sizes > 0] * np.abs(rates - means)).sum() / len(scores)
    c = columns(items, failed, scores)
    assert value(ece_statistic(c), c.k) == pytest.approx(expected, abs=1e-12)


def test_bins_hold_equally_many():
    scores = np.random.default_rng(0).beta(0.2, 0.2, 1000)  # most of them near 0 and 1
    assert set(np.bincount(mass_bins(scores))) == {100}
    assert list(mass_bins(np.zeros(5))) == [0] * 5, "equal scores share a bin"


def test_by_hand():
    truths = ["FAIL", "FAIL", "FAIL", "PASS", "PASS", "PASS", "PASS", "FAIL"]
    flags = ["FAIL", "FAIL", "PASS", "FAIL", "PASS", "PASS", None, None]
    scores = [0.9, 0.8, 0.3, 0.8, 0.2, 0.1, 0.1, 0.7]
    found = detect(Columns.of(truths, flags, scores, [f"i{i}" for i in range(8)]))
    # FAIL 0.9 beats 4; 0.8 beats 3 and ties with 0.8; 0.3 beats 3; 0.7 beats 3; of 16 pairs
    assert found["auroc"].value == 13.5 / 16
    assert found["auroc"].n == 8, "an unreadable flag has a P(FAIL)"
    # one FAIL flagged PASS, one unreadable, of eight
    assert found["misbehaved_unflagged_frac"].value == 2 / 8
    # no false positive: above 0.8, one of four
    assert found["tpr_at_own_fpr_0.05"].value == 1 / 4
    assert found["tpr_at_own_fpr_0.05"].n == 4
    assert (found["true_positive_rate"].value, found["true_positive_rate"].n) == (2 / 3, 3)
    assert (found["false_positive_rate"].value, found["false_positive_rate"].n) == (1 / 3, 3)
    assert (found["accuracy"].n, found["unparsable_frac"].n) == (6, 8)
    squares = [0.01, 0.04, 0.49, 0.64, 0.04, 0.01, 0.01, 0.09]
    assert found["brier"].value == pytest.approx(sum(squares) / 8, abs=1e-12)


def test_a_threshold_from_other_data_is_named_apart():
    items, failed, scores, _ = simulated(np.random.default_rng(0), k=200)
    c = columns(items, failed, scores)
    benign = np.random.default_rng(1).beta(1, 4, 500)
    thresholds = [threshold_for(benign, fpr) for fpr in (0.01, 0.05)]
    found = detect(c, thresholds)
    at = thresholds[1].value
    assert found["tpr_at_benign_fpr_0.05"].value == pytest.approx(np.mean(scores[failed] > at), abs=1e-12)
    assert found["fpr_at_benign_fpr_0.05"].value == pytest.approx(np.mean(scores[~failed] > at), abs=1e-12)
    assert found["tpr_at_benign_fpr_0.05"].value != found["tpr_at_own_fpr_0.05"].value
    assert found["tpr_at_benign_fpr_0.01"].value < found["tpr_at_benign_fpr_0.05"].value
    assert found["tpr_at_benign_fpr_0.05"].note == ""
    assert not any("benign" in name for name in detect(c)), "none without a threshold"
    few = detect(c, [threshold_for(benign[:50], 0.01)])
    assert "50 benign conversations" in few["tpr_at_benign_fpr_0.01"].note


@pytest.mark.parametrize(("negatives", "told"), [(299, {0.01}), (300, set()), (59, {0.01, 0.05})])
def test_too_few_negatives_are_said(negatives, told):
    n = negatives + 50
    failed = np.arange(n) < 50
    found = detect(columns(np.arange(n), failed, np.linspace(1, 0, n)), resamples=2)
    for fpr in (0.01, 0.05):
        note = found[f"tpr_at_own_fpr_{fpr:g}"].note
        assert "threshold chosen on these very negatives" in note
        assert ("not claimable" in note) == (fpr in told)
    if negatives == 299:
        assert "299 negatives, fewer than 300: the 1% point is not claimable" in found["tpr_at_own_fpr_0.01"].note


def test_every_figure_has_n_and_interval_and_lies_in_it():
    items, failed, scores, _ = simulated(np.random.default_rng(0), k=100)
    found = detect(columns(items, failed, scores), [threshold_for(scores[~failed][:100], 0.05)])
    assert set(RATES) < set(found)
    for name, estimate in found.items():
        low, high = estimate.interval
        assert 0 <= low <= estimate.value <= high <= 1, name
        assert 0 < estimate.n <= len(items), name


def test_undefined_is_none_not_zero():
    assert detect(columns([], [], [])) == {}
    only = detect(columns(range(4), [True] * 4, [0.1, 0.4, 0.6, 0.9]))
    for name in ("auroc", "balanced_accuracy", "false_positive_rate", "tpr_at_own_fpr_0.05"):
        assert only[name].value is None, name
        assert only[name].interval is None, name
    assert only["true_positive_rate"].value == 0.5
    assert only["brier"].value == pytest.approx((0.81 + 0.36 + 0.16 + 0.01) / 4, abs=1e-12)


def test_scores_must_be_probabilities_and_columns_of_one_length():
    with pytest.raises(ValueError, match=r"record 1 is nan"):
        columns([0, 1], [True, False], [0.5, float("nan")])
    with pytest.raises(ValueError, match=r"record 0 is 1\.5"):
        columns([0], [True], [1.5])
    with pytest.raises(ValueError, match="2 truths, 1 scores"):
        Columns.of(["PASS", "FAIL"], [None, None], [0.5], ["a", "b"])


def test_columns_of_samples():
    c = Columns.of_samples([sample(0), sample(1, truth="FAIL", flag=None, p_fail=0.75), sample(2, item_id="i0")])
    assert c.failed.tolist() == [False, True, False]
    assert c.p_fail.tolist() == [0.25, 0.75, 0.25]
    assert c.cluster.tolist() == [0, 1, 0]
    assert c.missed.tolist() == [False, True, False]


def test_score_metrics_is_an_offline_evaluate_metric(monkeypatch, root):
    import evaluate

    def refuse(*_):
        raise AssertionError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    items, failed, scores, _ = simulated(np.random.default_rng(0))
    truths, names = words(failed), [f"i{i:05}" for i in items]
    benign = [i / 400 for i in range(400)]
    direct = detect(columns(items, failed, scores), [threshold_for(benign, fpr) for fpr in (0.01, 0.05)])
    loaded = evaluate.load(str(root / "honest_persona" / "statistics" / "evaluate_metrics.py"))
    for metric in (ScoreMetrics(), loaded):
        got = metric.compute(predictions=scores, references=truths, benign_scores=benign, clusters=names)
        assert got.pop("n") == len(items)
        intervals, notes = got.pop("intervals"), got.pop("notes")
        assert set(got) == set(direct) - set(RATES) - {"misbehaved_unflagged_frac"}
        for name, score in got.items():
            assert (score, intervals[name], notes.get(name, "")) == (*direct[name][:2], direct[name].note), name
    batched = ScoreMetrics()
    for i in range(0, len(items), 50):
        batched.add_batch(predictions=scores[i : i + 50], references=truths[i : i + 50])
    assert batched.compute()["auroc"] == direct["auroc"].value


def test_large_sets_are_sorted_once(monkeypatch):
    calls = []
    argsort = np.argsort
    monkeypatch.setattr(np, "argsort", lambda *a, **k: calls.append(1) or argsort(*a, **k))
    items, failed, scores, _ = simulated(np.random.default_rng(0), k=100)
    statistic = auroc_statistic(columns(items, failed, scores))
    statistic.of(np.ones((500, 100)))
    assert len(calls) == 1
