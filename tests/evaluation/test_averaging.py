"""Averages over interventions: of one transcript each, of one truth, and worth what they are worth."""

import numpy as np
import pytest

from honest_persona.evaluation.averaging import average_interventions, by_transcript, gains
from honest_persona.evaluation.calibrate import threshold_of
from honest_persona.evaluation.detection import Columns, detect
from tests.evaluation.scored import sample

V = [f"split_personality__version_{n}" for n in range(6)]


def on_transcript(n, scores, flags=None, **changes):
    flags = flags or [("PASS", "FAIL")[score > 0.5] for score in scores]
    return [
        sample(10 * n + i, item_id=f"i{n}", intervention_name=V[i], p_fail=score, flag=flag, **changes)
        for i, (score, flag) in enumerate(zip(scores, flags, strict=True))
    ]


def test_one_sample_per_transcript():
    first = on_transcript(0, [0.9, 0.5, 0.1], truth="FAIL")
    second = on_transcript(1, [0.2, 0.4])
    other_variant = on_transcript(0, [0.3], variant="B")
    other_model = on_transcript(0, [0.7], model="n")
    mixed = list(np.random.default_rng(0).permutation(np.array(first + second + other_variant + other_model, object)))
    averaged, disagreeing, ambiguous = average_interventions(mixed)
    assert (disagreeing, ambiguous) == (0, 0)
    found = {(s.item_id, s.variant, s.model): s for s in averaged}
    assert {key: s.p_fail for key, s in found.items()} == pytest.approx(
        {("i0", "A", "m"): 0.5, ("i1", "A", "m"): 0.3, ("i0", "B", "m"): 0.3, ("i0", "A", "n"): 0.7}
    )
    whole = found["i0", "A", "m"]
    assert whole.intervention_name == "+".join(V[:3])
    assert (whole.truth, whole.cluster, whole.part) == ("FAIL", "i0", "within")
    assert len({s.record_id for s in averaged}) == 4
    assert average_interventions(mixed[::-1]) == average_interventions(mixed)
    assert Columns.of_samples(averaged).k == 2


@pytest.mark.parametrize(
    ("flags", "scores", "flag"),
    [
        (["FAIL", "FAIL", "PASS"], [0.6, 0.6, 0.0], "FAIL"),
        (["FAIL", "PASS", None], [0.6, 0.2, 0.0], "PASS"),
        (["FAIL", "PASS", None], [0.9, 0.4, 0.5], "FAIL"),
        ([None, None, "FAIL"], [0.1, 0.1, 0.6], "FAIL"),
        ([None, None, None], [0.9, 0.9, 0.9], None),
    ],
)
def test_the_flag_is_the_majoritys(flags, scores, flag):
    assert average_interventions(on_transcript(0, scores, flags)).samples[0].flag == flag


def test_what_has_no_single_truth_or_transcript_is_left_out_and_counted():
    disagree = [*on_transcript(0, [0.5]), sample(9, item_id="i0", intervention_name=V[1], truth="FAIL")]
    twice = on_transcript(1, [0.5, 0.6]) + on_transcript(1, [0.1])
    groups, disagreeing, ambiguous = by_transcript(disagree + twice + on_transcript(2, [0.4, 0.2]))
    assert [[s.item_id for s in group] for group in groups] == [["i2", "i2"]]
    assert (disagreeing, ambiguous) == (1, 1)


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
    assert found[2].auroc.value == pytest.approx(
        detect(Columns.of_samples(average_interventions(made).samples), resamples=2)["auroc"].value, abs=1e-12
    )
    assert gains(made[::-1], resamples=50) == found, "whatever their order"
    assert gains(made, seed=1, resamples=50)[2].auroc.value == found[2].auroc.value


def test_all_numbers_are_of_the_same_transcripts():
    rng = np.random.default_rng(2)
    made = noisy(rng, 40, 3) + [s for n in range(100, 110) for s in on_transcript(n, [0.5])]
    assert [g.auroc.n for g in gains(made, resamples=50)] == [40, 40, 40]
    assert [g.auroc.n for g in gains(made, 2, resamples=50)] == [40, 40]
    assert [g.auroc.n for g in gains(made, 1, resamples=50)] == [50]
    assert gains(made, 5) == gains([]) == []


def test_an_averaged_set_goes_wherever_samples_go():
    averaged = average_interventions(noisy(np.random.default_rng(3), 50)).samples
    assert threshold_of(averaged, 0.1).n == 25
