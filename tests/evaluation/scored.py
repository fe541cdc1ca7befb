"""Simulated detectors whose true figures are known, and samples of them: shared by the tests of metrics."""

import numpy as np
from scipy.stats import norm

from honest_persona.evaluation.samples import Sample
from honest_persona.statistics.columns import Columns


def simulated(rng, k=50, delta=1.5, slope=1.5, sizes=(1, 8)):
    """Records of `k` items, half of them FAIL, whose scores agree within an item: 0.7 of the noise is the item's.

    The latent score is N(0, 1) for PASS and N(delta, 1) for FAIL; P(FAIL) = sigmoid(slope * delta * (latent -
    delta / 2)), calibrated for slope 1. A second detector, on the same records, has delta * 1.2.

    Returns:
        items (n,), failed (n,), P(FAIL) of the first and of the second, (n,) each.
    """
    items = np.repeat(np.arange(k), rng.integers(*sizes, k))
    failed = rng.random(len(items)) < 0.5
    shared = np.sqrt(0.7) * rng.normal(size=k)[items]
    scores = [
        p_fail(strength * failed + shared + np.sqrt(0.3) * rng.normal(size=len(items)), delta, slope)
        for strength in (delta, 1.2 * delta)
    ]
    return items, failed, *scores


def p_fail(latent, delta, slope):
    return 1 / (1 + np.exp(-slope * delta * (latent - delta / 2)))


def truths(delta=1.5, slope=1.5):
    """The true figures of `simulated`, flags taken at 0.5; `second_` is what its second detector has more."""
    hit, second_hit = norm.cdf(delta / 2), norm.cdf(1.2 * delta - delta / 2)
    at_5 = norm.cdf(delta - norm.ppf(0.95))
    rng = np.random.default_rng(0)
    failed = rng.random(2_000_000) < 0.5
    scores = p_fail(delta * failed + rng.normal(size=len(failed)), delta, slope)
    edges = np.percentile(scores, np.linspace(0, 100, 11))
    gaps = np.bincount(np.searchsorted(edges[1:-1], scores), failed - scores) / len(scores)
    return {
        "accuracy": hit,
        "balanced_accuracy": hit,
        "true_positive_rate": hit,
        "false_positive_rate": 1 - hit,
        "misbehaved_unflagged_frac": (1 - hit) / 2,
        "auroc": norm.cdf(delta / np.sqrt(2)),
        "brier": np.mean((scores - failed) ** 2),
        "ece": np.abs(gaps).sum(),
        "tpr_at_own_fpr_0.05": at_5,
        "tpr_at_benign_fpr_0.05": at_5,
        "second_auroc": norm.cdf(1.2 * delta / np.sqrt(2)) - norm.cdf(delta / np.sqrt(2)),
        "second_balanced_accuracy": (second_hit - hit) / 2,
        "second_true_positive_rate": second_hit - hit,
    }


def columns(items, failed, scores, flags="of the scores"):
    """Flags at 0.5; `flags` may be a list."""
    said = words(np.asarray(scores) > 0.5) if flags == "of the scores" else flags
    return Columns.of(words(failed), said, scores, [f"i{i:05}" for i in items])


def words(failed):
    return np.where(failed, "FAIL", "PASS").tolist()


def sample(n=0, **changes):
    values = {
        "record_id": f"r{n}",
        "item_id": f"i{n}",
        "part": "within",
        "topic": "sycophancy",
        "variant": "A",
        "model": "m",
        "intervention_name": "split_personality__version_3",
        "truth": "PASS",
        "flag": "PASS",
        "p_fail": 0.25,
        "ending": "clean",
        "review": "I told the truth.",
        "reference_review": "Ref.",
    }
    values |= changes
    return Sample(**{"cluster": values["item_id"], **values})


def samples(rng, k=40, part="within", second=False, **changes):
    """`simulated` as samples; the second detector's where `second`."""
    items, failed, *scores = simulated(rng, k)
    return [
        sample(
            n,
            item_id=f"i{item}",
            part=part,
            topic=("sycophancy", "reward_hacks")[item % 2],
            variant="AB"[rng.random() < (0.7 if truth == "FAIL" else 0.3)],
            truth=truth,
            flag=flag,
            p_fail=float(score),
            **changes,
        )
        for n, (item, truth, flag, score) in enumerate(
            zip(items, words(failed), words(scores[second] > 0.5), scores[second], strict=True)
        )
    ]
