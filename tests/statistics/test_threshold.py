"""A threshold keeps its promise on new conversations, and says where it cannot promise."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from honest_persona.base.errors import UserError
from honest_persona.evaluation.designs import benign_records
from honest_persona.statistics.threshold import Threshold, enough_for, threshold_for
from tests.tiny import record


def test_by_hand():
    scores = [i / 1000 for i in range(400)]
    # (j + 1) / 401 <= 0.01 for j = 3: above 0.396 are 0.397, 0.398 and 0.399
    threshold = threshold_for(scores, 0.01)
    assert threshold.value == 0.396
    assert threshold.achieved_fpr == 3 / 400
    assert (threshold.n, threshold.n_clusters, threshold.wanted_fpr) == (400, 400, 0.01)
    # binom.test(3, 400) in R: 0.00155 to 0.02176
    assert threshold.interval == pytest.approx((0.00155, 0.02176), abs=1e-5)
    assert threshold.note == ""
    assert threshold.flags([0.396, 0.3961, 1.0]).tolist() == [False, True, True]
    assert threshold_for(scores[::-1], 0.01) == threshold, "whatever their order"


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("fpr", [0.01, 0.05, 0.2])
def test_never_above_the_wanted_rate_on_its_own_data_and_no_lower_than_need_be(seed, fpr):
    rng = np.random.default_rng(seed)
    scores = np.round(rng.beta(0.5, 2, rng.integers(1, 500)), seed % 4)  # ties, at 0 and 1 too
    threshold = threshold_for(scores, fpr)
    assert threshold.flags(scores).mean() == threshold.achieved_fpr <= fpr
    assert threshold.value in scores
    below = scores[scores < threshold.value]
    if len(below):
        flagged = (scores > below.max()).sum()  # the next lower threshold would promise too much
        assert (flagged + 1) / (len(scores) + 1) > fpr


@pytest.mark.parametrize(("n", "fpr"), [(120, 0.01), (150, 0.01), (300, 0.01), (40, 0.05), (500, 0.05)])
def test_the_expected_rate_on_new_conversations_is_kept(n, fpr):
    """Scores are uniform, so that the true rate of a threshold t is 1 - t."""
    rng = np.random.default_rng(0)
    thresholds = [threshold_for(rng.random(n), fpr) for _ in range(4000)]
    rates = np.array([1 - t.value for t in thresholds])
    error = rates.std() / np.sqrt(len(rates))
    assert rates.mean() <= fpr + 3 * error
    assert rates.mean() >= fpr - 1 / (n + 1) - 3 * error, "and not thrown away"
    low, high = np.array([t.interval for t in thresholds]).T
    covered = np.mean((low <= rates) & (rates <= high))
    assert covered >= 0.94
    # the naive quantile, with fpr of the benign scores above it, does not keep it
    naive = np.array([1 - np.sort(rng.random(n))[::-1][int(fpr * n)] for _ in range(4000)])
    assert naive.mean() > fpr + 3 * error


def test_clusters_count_once():
    rng = np.random.default_rng(0)
    rates, naive = [], []
    for _ in range(2000):
        items = rng.normal(size=60)
        scores = 1 / (1 + np.exp(-(items.repeat(5) + 0.3 * rng.normal(size=300))))
        at_new = 1 / (1 + np.exp(-np.sqrt(1 + 0.3**2) * rng.normal(size=4000)))
        names = [str(i) for i in range(60) for _ in range(5)]
        threshold = threshold_for(scores, 0.05, names)
        assert threshold.achieved_fpr <= 0.05
        rates.append((at_new > threshold.value).mean())
        naive.append((at_new > threshold_for(scores, 0.05).value).mean())
    assert np.mean(rates) <= 0.05
    assert np.mean(naive) > np.mean(rates)
    assert (threshold.n, threshold.n_clusters) == (300, 60)
    note = threshold_for(scores, 0.01, names).note
    assert "300 benign conversations of 60 items cannot show" in note
    assert "that takes 300 items" in note
    wide, narrow = threshold.interval, threshold_for(scores, 0.05).interval
    assert wide[1] - wide[0] > narrow[1] - narrow[0]


@pytest.mark.parametrize(("n", "fpr", "enough"), [(299, 0.01, False), (300, 0.01, True), (60, 0.05, True)])
def test_enough(n, fpr, enough):
    assert enough_for(fpr, n) is enough
    assert (threshold_for(np.linspace(0, 0.4, n), fpr).note == "") is enough


def test_too_few_conversations_are_said():
    few = threshold_for(np.linspace(0, 0.5, 98), 0.01)
    assert few.value == 0.5
    assert few.achieved_fpr == 0
    assert few.interval == pytest.approx((0, 1 - 0.025 ** (1 / 98)), abs=1e-12)
    assert "cannot fix a threshold for a false positive rate of 0.01" in few.note
    assert "an expected rate of 0.01 or less; 99 conversations are the fewest that can" in few.note
    assert "that takes 300 conversations, even with none flagged" in few.note
    some = threshold_for(np.linspace(0, 0.5, 99), 0.01)
    assert "cannot fix" not in some.note
    assert "99 benign conversations cannot show a false positive rate of 0.01 or less at 95 %" in some.note


def test_saturated_scores_can_flag_nothing():
    threshold = threshold_for([1.0] * 10 + [0.0] * 390, 0.01)
    assert threshold.value == 1.0
    assert not threshold.flags([1.0, 0.5]).any()
    assert "nothing can be flagged" in threshold.note


def test_benign_conversations_taken_for_fail_are_said():
    threshold = threshold_for(np.linspace(0.2, 1, 400), 0.05)
    assert "62% of 400 benign conversations have P(FAIL) above 0.5" in threshold.note
    assert "wording" in threshold.note
    assert threshold_for(np.linspace(0, 0.6, 400), 0.05).note == ""


def test_bad_input_is_refused():
    for scores, fpr, message in (
        ([], 0.01, "no benign conversation"),
        ([0.5], 0, "between 0 and 1"),
        ([0.5], 1, "between 0 and 1"),
        ([0.5, float("nan")], 0.1, "no probability"),
        ([1.5], 0.1, "no probability"),
    ):
        with pytest.raises(UserError, match=message):
            threshold_for(scores, fpr)
    with pytest.raises(UserError, match="2 scores but 1 clusters"):
        threshold_for([0.1, 0.2], 0.1, ["a"])


def test_it_is_read_back_from_json():
    threshold = threshold_for(np.linspace(0, 0.9, 50), 0.05, [str(i // 2) for i in range(50)])
    assert Threshold.from_dict(json.loads(json.dumps(asdict(threshold)))) == threshold
    assert Threshold.from_dict({**asdict(threshold), "intervention": "Be honest."}) == threshold


def test_benign_is_pass_without_bias():
    cases = [("A", "PASS"), ("A", "FAIL"), ("B", "PASS"), ("B", "FAIL")]
    records = [record(n, variant=v, system="Be.", flag=f) for n, (v, f) in enumerate(cases)]
    assert [r.id for r in benign_records(records)] == ["r0"]
