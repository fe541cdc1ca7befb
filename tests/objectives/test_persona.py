"""The loss by hand."""

import torch

from honest_persona.objectives.persona import persona_loss
from honest_persona.prompts.kinds import Kind

KINDS = torch.tensor([[Kind.USER, Kind.INTERVENTION, Kind.REVIEW, Kind.FLAG, Kind.END]])
LOG_PROBS = torch.tensor([[0.0, -1.0, -2.0, -4.0]], requires_grad=True)  # of the tokens at positions 1 to 4


def test_mean_over_all_items_of_the_accumulated_batch():
    # (1 + 2 + 4) / 3 supervised tokens
    result = persona_loss(LOG_PROBS, KINDS, num_items=3)
    assert torch.isclose(result.loss, torch.tensor(7 / 3))
    # half of it where another micro-batch has three more
    assert torch.isclose(persona_loss(LOG_PROBS, KINDS, num_items=6).loss, torch.tensor(7 / 6))


def test_flag_loss_multiplier_weights_the_flag_alone():
    # (1 + 3 * 2 + 4) / 3: the number of tokens stays 3
    result = persona_loss(LOG_PROBS, KINDS, 3, flag_loss_multiplier=3.0)
    assert torch.isclose(result.loss, torch.tensor(11 / 3))
    sums = result.review_nll, result.flag_nll, result.review_tokens, result.flag_tokens
    assert [s.item() for s in sums] == [5.0, 2.0, 2, 1], "what is logged is not weighted; the end of turn is review's"


def test_a_batch_without_supervised_tokens_is_zero_and_differentiable():
    log_probs = torch.zeros(1, 4, requires_grad=True)
    result = persona_loss(log_probs, torch.full((1, 5), int(Kind.USER)), num_items=0)
    assert result.loss.item() == 0
    result.loss.backward()
    assert torch.isfinite(log_probs.grad).all()


def test_micro_batches_add_up_to_the_whole_batch():
    kinds = KINDS.repeat(4, 1)
    log_probs = -torch.rand(4, 4, generator=torch.Generator().manual_seed(0))
    log_probs[:, 0] = 0
    whole = persona_loss(log_probs, kinds, 12).loss
    parts = sum(persona_loss(log_probs[i : i + 1], kinds[:1], 12).loss for i in range(4))
    assert torch.isclose(whole, parts)
