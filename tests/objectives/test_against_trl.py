"""Losses and gradients against TRL's own code, on 1,000 random rows in float64.

TRL computes its losses inside its trainers. Here a trainer's method runs without a trainer: `self` holds the settings
that the method reads, and the model gives the log-probabilities of tokens that the test made up.
"""

import warnings
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from trl import DPOTrainer, KTOTrainer

from honest_persona.objectives.logprobs import LogProbs, answer_log_probs
from honest_persona.objectives.paired import dpo, ipo, simpo, slic
from honest_persona.objectives.unpaired import kto, sft
from tests.objectives.inputs import N, answers, labels

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that the class is experimental
    from trl.experimental.cpo import CPOTrainer

LONGEST = 8


@pytest.fixture
def rows():
    """Log-probabilities of 2 N answers' tokens, which of them are there, and the reference's sums."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(LONGEST) < torch.randint(1, LONGEST + 1, (2 * N, 1), generator=generator)
    tokens = -6 * torch.rand(2 * N, LONGEST, generator=generator, dtype=torch.float64) * mask
    reference = tokens.sum(1) + 4 * torch.randn(2 * N, generator=generator, dtype=torch.float64)
    return tokens.requires_grad_(), mask, reference


def bare(**settings):
    """What TRL's methods read of their trainer."""
    unchanged = SimpleNamespace(device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x)
    common = {"aux_loss_enabled": False, "precompute_ref_logps": True, "_total_train_tokens": 0, "_tp_size": 1}
    metrics = defaultdict(lambda: defaultdict(list))
    model = SimpleNamespace(training=True)
    return SimpleNamespace(accelerator=unchanged, model=model, _metrics=metrics, **common, **settings)


def model_of(tokens, mask):
    """As a model with TRL's fused head: log-probabilities, 0 where nothing is supervised, and figures for the log."""

    def forward(**_):
        zeros = torch.zeros_like(tokens)
        return SimpleNamespace(log_probs=tokens * mask, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())

    return forward


def inputs_of(mask, **more):
    ids = torch.zeros(len(mask), LONGEST + 1, dtype=torch.long)  # a prompt of one token, and the answer
    completion = torch.cat([torch.zeros(len(mask), 1, dtype=torch.long), mask.long()], 1)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": completion, **more}


def trl_dpo(rows, kind, beta):
    """TRL's mean loss, and its gradient at the log-probabilities of tokens."""
    tokens, mask, reference = rows
    settings = {"loss_types": [kind], "loss_weights": [1.0], "f_divergence_type": "reverse_kl"}
    trainer = bare(beta=beta, ld_alpha=None, use_weighting=False, **settings)
    inputs = inputs_of(mask, ref_chosen_logps=reference[:N], ref_rejected_logps=reference[N:])
    loss = DPOTrainer._compute_loss(trainer, model_of(tokens, mask), inputs, False)
    return loss.detach(), torch.autograd.grad(loss, tokens)[0]


def pairs_of(rows):
    tokens, mask, reference = rows
    sums, counts = answer_log_probs(tokens, mask)
    return LogProbs(sums[:N], reference[:N], counts[:N]), LogProbs(sums[N:], reference[N:], counts[N:])


def equal(ours, rows, theirs):
    loss, gradient = theirs
    torch.testing.assert_close(ours.detach(), loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(torch.autograd.grad(ours, rows[0])[0], gradient, rtol=1e-6, atol=1e-18)


def test_dpo(rows):
    equal(dpo(*pairs_of(rows), beta=0.3).loss.mean(), rows, trl_dpo(rows, "sigmoid", 0.3))


def test_ipo(rows):
    equal(ipo(*pairs_of(rows), tau=0.3).loss.mean(), rows, trl_dpo(rows, "ipo", 0.3))


def test_sft_on_the_chosen(rows):
    chosen, _ = pairs_of(rows)
    equal(sft(chosen).loss.sum() / chosen.tokens.sum(), rows, trl_dpo(rows, "sft", 0.3))


def test_slic_is_the_hinge_without_a_reference_and_with_the_likelihood_of_the_chosen(rows):
    """TRL's margin is 1: beta is 1 / delta, and the loss is 1 / delta of ours."""
    tokens, mask, reference = rows
    loss, gradient = trl_dpo((tokens, mask, torch.zeros_like(reference)), "hinge", 1 / 7)
    equal(slic(*pairs_of(rows), delta=7.0, nll_weight=0.0).loss.mean(), rows, (7 * loss, 7 * gradient))
    chosen, _ = pairs_of(rows)
    nll = (sft(chosen).loss / chosen.tokens).mean()
    both = 7 * loss + 0.25 * nll.detach(), 7 * gradient + 0.25 * torch.autograd.grad(nll, tokens)[0]
    equal(slic(*pairs_of(rows), delta=7.0, nll_weight=0.25).loss.mean(), rows, both)


@pytest.mark.parametrize("kind", ["simpo", "hinge"])
def test_losses_of_cpo(kind):
    """TRL's `simpo_gamma` is divided by beta; its hinge has no likelihood inside."""
    chosen, rejected = answers(6), answers(7)
    means = [x.policy / x.tokens if kind == "simpo" else x.policy for x in (chosen, rejected)]
    settings = {"alpha": 0.0, "label_smoothing": 0.0, "simpo_gamma": 0.75 * 2.5}
    theirs, _, _ = CPOTrainer.cpo_loss(bare(loss_type=kind, beta=2.5 if kind == "simpo" else 1.0, **settings), *means)
    expected = [theirs, *torch.autograd.grad(theirs.sum(), [chosen.policy, rejected.policy])]
    if kind == "simpo":
        ours = simpo(chosen, rejected, beta=2.5, gamma_ratio=0.75).loss
    else:
        ours = slic(chosen, rejected, delta=1.0, nll_weight=0.0).loss
    found = [ours, *torch.autograd.grad(ours.sum(), [chosen.policy, rejected.policy])]
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-18)


@pytest.mark.parametrize("kl", [0.9, -0.9], ids=["kl above 0", "kl below 0"])
def test_kto_with_equal_kl(rows, kl):
    tokens, mask, reference = rows
    good = labels(2 * N)
    weights = {"desirable_weight": 1.2, "undesirable_weight": 0.7}
    trainer = bare(beta=0.3, loss_type="kto", calculate_KL=True, **weights)
    trainer._compute_kl_logps = lambda model, batch: torch.full((2 * N,), kl, dtype=torch.float64)
    inputs = inputs_of(mask, label=good, ref_logps=reference, ref_KL_logps=torch.zeros(2 * N, dtype=torch.float64))
    theirs = KTOTrainer._compute_loss(trainer, model_of(tokens, mask), inputs, False)
    sums, counts = answer_log_probs(tokens, mask)
    ours = kto(LogProbs(sums, reference, counts), good, kl=torch.tensor(kl), beta=0.3, **weights).loss.mean()
    equal(ours, rows, (theirs.detach(), torch.autograd.grad(theirs, tokens)[0]))
