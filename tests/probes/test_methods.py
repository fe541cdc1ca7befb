"""Each method: its formula on numbers done by hand, and a planted direction that it must find."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from honest_persona.probes.ccs import ccs_loss, fit_ccs
from honest_persona.probes.linear import fit_logistic, fit_ridge, standardised
from honest_persona.probes.probe import auroc, platt
from honest_persona.probes.vinc import eraser, fit_vinc, vinc_matrix
from tests.probes.planted import cosine, planted

SHUFFLE = torch.Generator().manual_seed(1)


def test_ccs_loss_by_hand():
    # consistency: (.9 - .8)^2 = .01 and (.2 - .3)^2 = .01; confidence: min(.9, .2)^2 = min(.2, .7)^2 = .04
    p0, p1 = torch.tensor([0.9, 0.2]), torch.tensor([0.2, 0.7])
    assert float(ccs_loss(p0, p1)) == pytest.approx(0.01 + 0.04, abs=1e-7)
    half = torch.tensor([0.5, 0.5])
    assert float(ccs_loss(half, half)) == 0.25, "knowing nothing is consistent, and costs confidence"
    sure = torch.tensor([0.0, 1.0])
    assert float(ccs_loss(sure, 1 - sure)) == 0


def test_ccs_finds_the_direction_without_labels():
    _, pairs, examples, direction = planted()
    readout = fit_ccs(pairs, examples.fail)
    assert cosine(readout, direction) > 0.9
    assert auroc(readout.score(pairs), examples.fail) > 0.99
    nonsense = examples.fail[torch.randperm(len(examples.fail), generator=SHUFFLE)]
    assert abs(cosine(fit_ccs(pairs, nonsense), direction)) == pytest.approx(cosine(readout, direction), abs=1e-6), (
        "labels decide the sign alone"
    )
    assert cosine(fit_ccs(pairs, ~examples.fail), direction) == pytest.approx(-cosine(readout, direction), abs=1e-6)


def test_ccs_score_is_the_mean_of_the_two_sides():
    _, pairs, examples, _ = planted()
    readout = fit_ccs(pairs, examples.fail, steps=20)
    x = (pairs - pairs.mean(0)) / pairs.std(0, correction=0)
    p = torch.sigmoid(x @ readout.weight + readout.bias)
    assert torch.allclose(readout.score(pairs), (p[:, 1] + 1 - p[:, 0]) / 2, atol=1e-6)


def test_ccs_keeps_the_best_restart_and_is_seeded():
    _, pairs, examples, _ = planted(strength=0.3)
    x, _, _ = standardised(pairs)

    def loss(restarts, seed=0):
        r = fit_ccs(pairs, examples.fail, restarts=restarts, steps=60, seed=seed)
        p = torch.sigmoid(x @ r.weight + r.bias)
        searched = [ccs_loss(p[:, 0], p[:, 1]), ccs_loss(1 - p[:, 0], 1 - p[:, 1])]  # the sign was set afterwards
        return float(min(searched)), r

    best, readout = loss(10)
    assert torch.equal(loss(10)[1].weight, readout.weight)
    singles = [loss(1, seed=s)[0] for s in range(6)]
    assert max(singles) - min(singles) > 1e-3, "the restarts differ"
    assert best < np.mean(singles)
    assert fit_ccs(pairs, examples.fail, steps=5, most_pairs=50).mean.allclose(pairs.mean(0)), "normalised on all pairs"


def test_ridge_equals_scikit_learn_on_both_sides_of_n_equal_d():
    states, _, examples, direction = planted()
    y = np.where(examples.fail, 1.0, -1.0)
    for n in (len(states), 8):  # more records than dimensions, and fewer
        readout = fit_ridge(states[:n], examples.fail[:n], 3.0)
        x, _, _ = standardised(states[:n])
        oracle = Ridge(alpha=3.0).fit(x.double().numpy(), y[:n])
        assert np.allclose(readout.weight, oracle.coef_, atol=1e-5)
        assert np.allclose(readout.margin(states[:n]), oracle.predict(x.double().numpy()), atol=1e-5)
    assert cosine(fit_ridge(states, examples.fail, 1.0), direction) > 0.95


def test_logistic_finds_the_direction():
    states, _, examples, direction = planted()
    readout = fit_logistic(states, examples.fail, 0.1)
    assert cosine(readout, direction) > 0.9
    assert auroc(readout.score(states), examples.fail) > 0.99
    assert readout.score(states).min() >= 0
    assert readout.score(states).max() <= 1


def test_a_coordinate_that_does_not_vary_does_no_harm():
    states, pairs, examples, _ = planted()
    states[:, 3], pairs[:, :, 3] = 7.0, -2.0
    for readout, x in (
        (fit_logistic(states, examples.fail, 1.0), states),
        (fit_ridge(states, examples.fail, 1.0), states),
        (fit_ccs(pairs, examples.fail, steps=200), pairs),
        (fit_vinc(pairs, examples.fail, examples.transcripts), pairs),
    ):
        assert readout.score(x).isfinite().all()
        assert auroc(readout.margin(x), examples.fail) > 0.95


def by_numpy(x, transcripts, neg):
    """The VINC matrix with loops, straight from its words."""
    names = sorted(set(transcripts))
    rows = [[i for i, t in enumerate(transcripts) if t == name] for name in names]
    centroid = np.array([[x[r, side].mean(0) for side in (0, 1)] for r in rows])
    c = centroid - centroid.mean(0)
    m, d = len(names), x.shape[-1]
    intra, cross = np.zeros((d, d)), np.zeros((d, d))
    for j in range(m):
        for side in (0, 1):
            cross += np.outer(c[j, side], c[j, 1 - side]) / (2 * m)
            spread = [np.outer(x[i, side] - centroid[j, side], x[i, side] - centroid[j, side]) for i in rows[j]]
            intra += np.mean(spread, axis=0) / (2 * m)
    return -(1 - neg) * intra - neg * cross


@pytest.mark.parametrize("neg", [0.3, 0.5, 1.0])
def test_vinc_equals_its_formula(neg):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9, 2, 3)) + rng.normal(size=(2, 3))
    transcripts = list("aabbbcdde")  # as many triggers as each has
    matrix = by_numpy(x, transcripts, neg)
    assert np.allclose(vinc_matrix(torch.tensor(x), transcripts, neg), matrix, atol=1e-12)
    # LEACE by its definition: whiten, project the class difference away, unwhiten
    flat = x.reshape(-1, 3)
    sigma = np.cov(flat.T, bias=True)
    values, vectors = np.linalg.eigh(sigma)
    white, unwhite = (vectors @ np.diag(values**power) @ vectors.T for power in (-0.5, 0.5))
    u = white @ (x[:, 1].mean(0) - x[:, 0].mean(0))
    u /= np.linalg.norm(u)
    p = np.eye(3) - unwhite @ np.outer(u, u) @ white
    assert np.allclose(eraser(torch.tensor(x)), p, atol=1e-9)
    assert np.allclose(p @ (x[:, 1].mean(0) - x[:, 0].mean(0)), 0, atol=1e-12)
    # the best of all unit vectors of the plane in which anything is left to vary
    normal = np.linalg.svd(p.T)[2][-1]  # P' takes it to zero
    plane = np.linalg.svd(normal[None])[2][1:]
    angles = np.linspace(0, np.pi, 20001)
    unit = np.stack([np.cos(angles), np.sin(angles)], 1) @ plane
    best = unit[np.argmax(np.einsum("ai,ij,aj->a", unit, p @ matrix @ p.T, unit))]
    readout = fit_vinc(torch.tensor(x).float(), torch.tensor([True, False] * 4 + [True]), transcripts, neg)
    found = readout.weight.numpy() / np.linalg.norm(readout.weight)
    wanted = p.T @ best / np.linalg.norm(p.T @ best)
    assert abs(found @ wanted) == pytest.approx(1, abs=1e-5)


def test_vinc_matrix_on_two_pairs_by_hand():
    # one coordinate: centroids +1 and -1 on one side, -1 and +1 on the other: they move against each other
    x = torch.tensor([[[1.0], [-1.0]], [[-1.0], [1.0]]], dtype=torch.float64)
    assert float(vinc_matrix(x, ["a", "b"], 1.0)) == 1.0  # -XCov = -(-1)
    # as two triggers of one transcript: centroids 0, and Cov_intra = 1 on each side
    assert float(vinc_matrix(x, ["a", "a"], 0.25)) == pytest.approx(-0.75)


def test_vinc_finds_the_direction_without_labels():
    _, pairs, examples, direction = planted(strength=1.0)
    readout = fit_vinc(pairs, examples.fail, examples.transcripts)
    assert cosine(readout, direction) > 0.9
    assert auroc(readout.margin(pairs), examples.fail) > 0.99
    flipped = fit_vinc(pairs, ~examples.fail, examples.transcripts)
    assert torch.equal(flipped.weight, -readout.weight), "labels decide the sign alone"


def test_platt_makes_probabilities():
    g = torch.Generator().manual_seed(0)
    margins = 30 * torch.randn(4000, generator=g)
    fail = torch.rand(4000, generator=g) < torch.sigmoid(0.05 * margins - 0.7)
    slope, intercept = platt(margins, fail)
    assert slope == pytest.approx(0.05, rel=0.1)
    assert intercept == pytest.approx(-0.7, abs=0.15)
    assert platt(margins, ~fail)[0] == 0, "it never turns a readout round"
