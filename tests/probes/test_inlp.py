"""Iterated null-space projection: its formula step by step, and nothing left behind it for another linear reader."""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score

from honest_persona.probes.inlp import STRENGTH_FRAC, fit_inlp, iterate
from honest_persona.probes.layers import fit_site, fold_of
from honest_persona.probes.linear import standardised
from honest_persona.probes.moments import Moments
from tests.probes.planted import column, planted


def test_each_round_equals_a_fit_on_projected_states():
    states, _, examples, _ = planted(n=80)
    _, rounds = fit_inlp(Moments.of(states, examples.fail), 4)
    x, _, _ = standardised(states.double())
    x, y = x.numpy(), np.where(examples.fail, 1.0, -1.0)
    p = np.eye(12)
    for k in range(4):
        weight = Ridge(alpha=STRENGTH_FRAC * 80).fit(x @ p, y).coef_
        assert np.allclose(rounds.weights[k], weight, atol=1e-6)
        row_space = np.linalg.pinv(weight[None]) @ weight[None]
        p = p @ (np.eye(12) - row_space)
        assert np.allclose(rounds.projection(k + 1), p, atol=1e-6)
    whole = rounds.projection().numpy()
    stacked = rounds.weights.numpy()
    assert np.allclose(whole, np.eye(12) - np.linalg.pinv(stacked) @ stacked, atol=1e-6), "onto the null space of all"
    assert np.allclose(whole @ whole, whole, atol=1e-9)


def test_a_planted_signal_is_found_and_then_gone():
    """0.9 before, chance after, for a reader that INLP does not know, on groups that it has not seen."""
    states, _, examples, _ = planted(n=2400, strength=1.5)
    known, new = torch.arange(1200), torch.arange(1200, 2400)
    moments = Moments.of(states[known], examples.fail[known])
    _, rounds = fit_inlp(moments, 8)
    x = ((states.double() - moments.mean) / moments.scale).numpy()

    def area(k):
        shown = x @ rounds.projection(k).numpy()
        reader = LogisticRegression().fit(shown[known], examples.fail[known])
        return roc_auc_score(examples.fail[new], reader.decision_function(shown[new]))

    assert area(0) >= 0.9
    assert abs(area(8) - 0.5) <= 0.05
    control = torch.linalg.qr(torch.randn(12, 8, generator=torch.Generator().manual_seed(0)).double())[0].numpy()
    blind = x - x @ control @ control.T
    reader = LogisticRegression().fit(blind[known], examples.fail[known])
    assert roc_auc_score(examples.fail[new], reader.decision_function(blind[new])) > 0.6, (
        "negative control: eight other directions leave some of it"
    )


def test_no_round_is_fitted_on_nothing():
    assert len(iterate(torch.eye(3).double(), torch.zeros(3).double(), 4, 1.0).weights) == 0
    one = iterate(torch.eye(3).double() * 9, torch.tensor([0.0, 2.0, 0.0]).double(), 4, 1.0)
    assert torch.allclose(one.weights, torch.tensor([[0.0, 0.2, 0.0]]).double()), "of white states one round takes all"
    assert torch.allclose(one.projection(), torch.diag(torch.tensor([1.0, 0.0, 1.0]).double()))


def test_the_probe_says_what_each_round_leaves():
    states, _, examples, _ = planted(n=400)
    fitted = fit_site("inlp", column(states), examples, fold_of(examples), seed=0)
    assert fitted.auroc > 0.95
    assert fitted.left[0] > 0.95
    assert min(fitted.left[2:]) < 0.6
    assert len(fitted.each_round) == len(fitted.left)
    assert fitted.readout.score(states).sub(examples.fail.float()).abs().mean() < 0.1, "scaled to probabilities"
