"""Losses on hidden states: signs, bounds, finite gradients, and formulas written down a second time."""

from functools import partial

import numpy as np
import pytest
import torch

from honest_persona.objectives.logprobs import LogProbs
from honest_persona.objectives.representation import (
    PairStates,
    repr_direction,
    repr_mse,
    repr_rank,
    state_figures,
)
from tests.objectives.inputs import answers

D = 48
MSE = partial(repr_mse, beta=0.1, repr_dpo_weight=0.0, repr_retain_weight=0.5, repr_schedule="constant", progress=0.0)
DIRECTION = partial(repr_direction, beta=0.1, repr_dpo_weight=0.0, repr_slope=1.0, repr_orthogonal_weight=0.5)
RANK = partial(repr_rank, beta=0.1, repr_dpo_weight=0.0, repr_slope=1.0)
LOSSES = {"repr_mse": MSE, "repr_direction": DIRECTION, "repr_rank": RANK}


def normal(*shape, seed=0):
    return torch.tensor(np.random.default_rng(seed).normal(size=shape), dtype=torch.float32)


def equal_answers(n):
    zeros = torch.zeros(n)
    return LogProbs(zeros, zeros, torch.ones(n))


def value(loss, states, chosen=None, rejected=None):
    n = len(states[0].chosen)
    return loss(chosen or equal_answers(n), rejected or equal_answers(n), states=states).loss


def scattered(n, dtype, seed=0):
    """Four states of n pairs, each of a scale of its own between 1e-6 and 1e6."""
    scales = torch.tensor(10 ** np.random.default_rng(seed).uniform(-6, 6, (4, n, 1)), dtype=torch.float32)
    states = (normal(4, n, D, seed=seed + 1) * scales).to(dtype)
    return PairStates(*(one.clone().requires_grad_(i < 2) for i, one in enumerate(states)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", LOSSES)
def test_at_least_zero_and_finite_at_every_scale(name, dtype):
    states = scattered(10_000, dtype)
    found = value(LOSSES[name], [states])
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    assert (found >= 0).all()
    found.sum().backward()
    assert states.chosen.grad.isfinite().all()
    assert states.rejected.grad.isfinite().all()
    assert states.chosen.grad.any()


@pytest.mark.parametrize("name", LOSSES)
def test_finite_where_policy_and_reference_are_equal(name):
    chosen, rejected = normal(8, D, seed=1), normal(8, D, seed=2)
    policy = [chosen.clone().requires_grad_(), rejected.clone().requires_grad_()]
    found = value(LOSSES[name], [PairStates(*policy, chosen, rejected)])
    start = {"repr_mse": 0.5, "repr_direction": np.log(2), "repr_rank": np.log(2)}[name]
    assert torch.allclose(found, torch.tensor(start, dtype=torch.float32), atol=1e-5)
    found.sum().backward()
    for one in policy:
        assert one.grad.isfinite().all()
    assert policy[1].grad.abs().sum() > 1e-3, "and it moves"
    # the original's log distance has gradients of 5e5 here: a pull of at most one |d| for each |d| is left
    size = (chosen - rejected).norm(dim=-1)
    assert (policy[0].grad.norm(dim=-1) <= 1.5 / size + 1).all()


@pytest.mark.parametrize("name", ["repr_mse", "repr_direction"])
def test_the_scale_of_states_does_not_count(name):
    states = PairStates(*normal(4, 16, D))
    larger = PairStates(*(1e4 * one for one in states))
    assert torch.allclose(value(LOSSES[name], [states]), value(LOSSES[name], [larger]), rtol=1e-4)
    assert torch.allclose(value(RANK, [states]), value(RANK, [larger]), rtol=1e-4)


def stepped(loss, steps=20, lr=0.5):
    """Free states before and after plain gradient descent from policy = reference, disturbed a little."""
    reference = PairStates(*normal(4, 32, D)).chosen, normal(32, D, seed=9)
    policy = [(one + 0.3 * normal(32, D, seed=3 + i)).requires_grad_() for i, one in enumerate(reference)]
    before = [one.detach().clone() for one in policy]
    optimizer = torch.optim.SGD(policy, lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        value(loss, [PairStates(*policy, *reference)]).sum().backward()
        optimizer.step()
    return PairStates(*before, *reference), PairStates(*(one.detach() for one in policy), *reference)


def parts(states):
    """Along d, and across it in units of |d|."""
    d = states.reference_chosen - states.reference_rejected
    difference = states.chosen - states.rejected
    s = (difference * d).sum(-1) / d.square().sum(-1)
    return s, (difference - s[:, None] * d).norm(dim=-1) / d.norm(dim=-1)


def test_direction_moves_along_and_not_across():
    before, after = stepped(DIRECTION)
    (s, across), (s_after, across_after) = parts(before), parts(after)
    assert (s_after > s).all()
    assert (across_after < across).all()
    figures = state_figures([after])
    assert torch.allclose(figures.along, s_after, atol=1e-5)
    d = after.reference_chosen - after.reference_rejected
    assert torch.allclose(figures.norm, d.norm(dim=-1))
    assert torch.allclose(figures.separation, (after.chosen - after.rejected).norm(dim=-1) / d.norm(dim=-1))
    assert (figures.along > state_figures([before]).along).all()


def test_mse_moves_the_rejected_answer_to_the_chosen_one_and_holds_that():
    before, after = stepped(MSE)
    for moved in ("chosen", "rejected"):
        far, near = ((getattr(one, moved) - one.reference_chosen).norm(dim=-1) for one in (before, after))
        assert (near < far).all(), moved


def test_rank_raises_the_chosen_ones_dimensions_in_it_and_lowers_them_in_the_other():
    before, after = stepped(RANK)

    def expected(states, which):
        scale = states.reference_chosen.square().mean(-1, keepdim=True).sqrt()
        p = (states.reference_chosen / scale).softmax(-1)
        return (p * (getattr(states, which) / scale).log_softmax(-1)).sum(-1)

    assert (expected(after, "chosen") > expected(before, "chosen")).all()
    assert (expected(after, "rejected") < expected(before, "rejected")).all()


def softplus(x):
    return np.logaddexp(0, x)


def test_formulas_written_a_second_time():
    chosen, rejected = answers(1, 64), answers(2, 64)
    sites = [PairStates(*normal(4, 64, D, seed=seed).double()) for seed in (3, 4)]
    theta = (chosen.ratio - rejected.ratio).detach().numpy()
    dpo = softplus(-0.2 * theta)
    mse, direction, rank = [], [], []
    for c, r, cr, rr in ([one.numpy() for one in site] for site in sites):
        d = cr - rr
        size = np.linalg.norm(d, axis=1)
        kept, moved = np.linalg.norm(c - cr, axis=1) / size, np.linalg.norm(r - cr, axis=1) / size
        a = 0.3 * 0.75
        mse.append(a * kept + (1 - a) * moved)
        s = np.sum((c - r) * d, 1) / size**2
        across = np.linalg.norm((c - r) - s[:, None] * d, axis=1) / size
        direction.append(softplus(-2 * (s - 1)) + 0.7 * across)
        scale = np.sqrt(np.mean(cr**2, 1, keepdims=True))
        q = [x / scale - np.log(np.exp(x / scale).sum(1, keepdims=True)) for x in (c, r, cr, rr)]
        gain = np.sum(np.exp(q[2]) * ((q[0] - q[2]) - (q[1] - q[3])), 1)
        rank.append(softplus(-2 * gain))
    shared = {"states": sites, "beta": 0.2, "repr_dpo_weight": 0.5}
    found = {
        "mse": repr_mse(chosen, rejected, **shared, progress=0.75, repr_retain_weight=0.3, repr_schedule="linear"),
        "direction": repr_direction(chosen, rejected, **shared, repr_slope=2.0, repr_orthogonal_weight=0.7),
        "rank": repr_rank(chosen, rejected, **shared, repr_slope=2.0),
    }
    for name, by_site in {"mse": mse, "direction": direction, "rank": rank}.items():
        expected = np.mean(by_site, 0) + 0.5 * dpo
        assert np.allclose(found[name].loss.detach().numpy(), expected, rtol=1e-6, atol=1e-6), name
        assert torch.allclose(found[name].chosen_reward, 0.2 * chosen.ratio)


def test_the_dpo_term_is_strongest_where_the_pair_is_lost():
    """The original's grows without bound, and fastest, where the pair is won."""
    states = [PairStates(*normal(4, 2, D))]
    policy = torch.tensor([100.0, -100.0], requires_grad=True)
    chosen, rejected = LogProbs(policy, torch.zeros(2), torch.ones(2)), equal_answers(2)
    with_dpo = repr_direction(
        chosen, rejected, states=states, beta=1.0, repr_dpo_weight=1.0, repr_slope=1.0, repr_orthogonal_weight=0.0
    )
    without = repr_direction(
        chosen, rejected, states=states, beta=1.0, repr_dpo_weight=0.0, repr_slope=1.0, repr_orthogonal_weight=0.0
    )
    term = (with_dpo.loss - without.loss).detach()
    assert term[0] == pytest.approx(0, abs=1e-5)
    assert term[1] == pytest.approx(100, abs=1e-4)
    (slope,) = torch.autograd.grad(with_dpo.loss.sum(), policy)
    assert slope[0] == pytest.approx(0, abs=1e-6)
    assert slope[1] == pytest.approx(-1, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_a_site_at_which_the_two_answers_are_the_same_is_left_out(name):
    good, same = PairStates(*normal(4, 3, D)), PairStates(*normal(4, 3, D, seed=5))
    same = same._replace(reference_rejected=same.reference_chosen * (1 + 1e-6))
    assert torch.allclose(value(LOSSES[name], [good, same]), value(LOSSES[name], [good]))
    assert value(LOSSES[name], [same]).tolist() == [0, 0, 0]
    figures = state_figures([good, same])
    assert figures.same.tolist() == [[False] * 3, [True] * 3]
    assert figures.counted.all()
    assert not state_figures([same]).counted.any()
    just = good._replace(reference_rejected=good.reference_chosen * (1 + 2e-4))
    assert state_figures([just]).counted.all(), "what differs by more than 1e-4 of its size counts"
    blank = PairStates(*(torch.zeros(3, D, requires_grad=i < 2) for i in range(4)))
    value(LOSSES[name], [blank]).sum().backward()
    assert not blank.chosen.grad.any(), "a row without its answers"
