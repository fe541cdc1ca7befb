"""Averages over interventions: of one transcript each, of one truth, and worth what they are worth."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from honest_persona.evaluation.averaging import by_transcript, gains, in_wordings
from tests.evaluation.scored import sample
from tests.tiny import record

V = [f"split_personality__version_{n}" for n in range(6)]


def on_transcript(n, scores, flags=None, **changes):
    flags = flags or [("PASS", "FAIL")[score > 0.5] for score in scores]
    return [
        sample(10 * n + i, item_id=f"i{n}", intervention_name=V[i], p_fail=score, flag=flag, **changes)
        for i, (score, flag) in enumerate(zip(scores, flags, strict=True))
    ]


def test_transcripts_are_told_apart_whatever_the_order():
    mixed = [
        *on_transcript(0, [0.9, 0.5, 0.1], truth="FAIL"),
        *on_transcript(1, [0.2, 0.4]),
        *on_transcript(0, [0.3], variant="B"),
        *on_transcript(0, [0.7], model="n"),
    ]
    found = by_transcript(mixed)
    assert {(g[0].item_id, g[0].variant, g[0].model): [s.p_fail for s in g] for g in found} == {
        ("i0", "A", "m"): [0.9, 0.5, 0.1],
        ("i1", "A", "m"): [0.2, 0.4],
        ("i0", "B", "m"): [0.3],
        ("i0", "A", "n"): [0.7],
    }
    assert by_transcript(mixed[::-1]) == found


def test_what_has_no_single_truth_or_transcript_is_left_out():
    disagree = [*on_transcript(0, [0.5]), sample(9, item_id="i0", intervention_name=V[1], truth="FAIL")]
    twice = on_transcript(1, [0.5, 0.6]) + on_transcript(1, [0.1])
    groups = by_transcript(disagree + twice + on_transcript(2, [0.4, 0.2]))
    assert [[s.item_id for s in group] for group in groups] == [["i2", "i2"]]


def test_two_responses_to_one_item_are_two_transcripts():
    """Files of versions without `transcript_id` cannot tell them apart, so they leave both out."""
    first, second = on_transcript(0, [0.5, 0.6], transcript_id="a"), on_transcript(0, [0.1], transcript_id="b")
    groups = by_transcript(second + first)
    assert [[s.p_fail for s in group] for group in groups] == [[0.5, 0.6], [0.1]]
    old = [replace(s, transcript_id="") for s in second + first]
    assert by_transcript(old) == []


def test_each_response_is_asked_about_once_in_each_wording():
    first, again, other = record(0, item_id="i"), record(1, item_id="i"), record(2, item_id="i", response="No.")
    again = again.model_copy(update={name: getattr(first, name) for name in ("system", "task", "response")})
    made = in_wordings([first, again, other], ["Why?", "Speak."])
    expected = [(r.id, text) for r in (first, other) for text in ("Why?", "Speak.")]
    assert [(r.id.partition(":")[0], r.intervention) for r in made] == expected


def noisy(rng, transcripts=300, interventions=4, shared=0.0):
    """Scores of one transcript that are independent given its truth, but for `shared` of their noise."""
    found = []
    for n in range(transcripts):
        truth = n % 2
        noise = np.sqrt(shared) * rng.normal() + np.sqrt(1 - shared) * rng.normal(size=interventions)
        scores = 1 / (1 + np.exp(-(truth - 0.5 + noise)))
        found += on_transcript(n, scores.tolist(), truth=("PASS", "FAIL")[truth])
    return found


def test_independent_interventions_buy_much_and_copies_nothing():
    many = gains(noisy(np.random.default_rng(0)), resamples=300)
    assert [g.n_interventions for g in many] == [1, 2, 3, 4]
    # the mean of N has 1 / N of the variance: AUROC Phi(sqrt(N / 2)), 0.760 and 0.921
    assert many[0].auroc.value == pytest.approx(0.760, abs=0.04)
    assert many[3].auroc.value == pytest.approx(0.921, abs=0.03)
    assert many[0].more is many[0].more_interval is None
    for gain in many[1:]:
        assert gain.more == pytest.approx(gain.auroc.value - many[0].auroc.value, abs=1e-12)
        assert 0 < gain.more_interval[0] < gain.more < gain.more_interval[1]
        assert gain.auroc.interval[0] < gain.auroc.value < gain.auroc.interval[1]
        assert gain.auroc.n == 300
    copies = gains(noisy(np.random.default_rng(0), shared=1.0), resamples=300)
    assert [g.more for g in copies[1:]] == pytest.approx([0, 0, 0], abs=1e-12)
    assert all(g.more_interval[0] <= 0 <= g.more_interval[1] for g in copies[1:])


def test_one_is_the_mean_of_single_ones_and_all_is_the_average():
    made = noisy(np.random.default_rng(1), transcripts=60, interventions=3)
    found = gains(made, resamples=50)
    groups = by_transcript(made)
    means = [np.mean([s.p_fail for s in group]) for group in groups]
    truths = [group[0].truth == "FAIL" for group in groups]
    assert found[2].auroc.value == pytest.approx(roc_auc_score(truths, means), abs=1e-12)
    assert f"AUROC {found[2].auroc.value:.3f}, {found[2].more:+.3f}" in str(found[2])
    assert gains(made[::-1], resamples=50) == found, "whatever their order"
    assert gains(made, seed=1, resamples=50)[2].auroc.value == found[2].auroc.value


def test_all_numbers_are_of_the_same_transcripts():
    rng = np.random.default_rng(2)
    made = noisy(rng, 40, 3) + [s for n in range(100, 110) for s in on_transcript(n, [0.5])]
    assert [g.auroc.n for g in gains(made, resamples=50)] == [40, 40, 40]
    assert gains([]) == []
