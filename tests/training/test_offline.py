"""Offline GRPO and PPO: whole groups whatever the layout, PPO's value head in checkpoints, one process resumed."""

import pytest
import torch
from safetensors.torch import load_file

from honest_persona.data.feedback import Feedback, FeedbackRows
from honest_persona.data.feedback_views import Views, view
from honest_persona.modeling.adapters.tuning import HEAD
from honest_persona.prompts.feedback import encode_feedback
from tests.feedback import series, trained
from tests.tiny import form_of

OBJECTIVES = ("grpo_offline", "ppo_offline")
LAYOUTS = {
    "micro-batch of 1": {"per_device_train_batch_size": 1},
    "whole rows of 8": {"frozen_prefix": False, "per_device_train_batch_size": 8},
    "padded, of 4": {"padding_free": False, "per_device_train_batch_size": 4},
}
AWAY = {"std": 0.3, "clip_range": 0.1}
"""A policy that is not the reference, so that some ratios are clipped."""
FIGURES = ("policy_loss", "kl", "clipped_frac", "chosen_nll", "nll_rise")


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Trainings of 3 steps with micro-batches of 2, by objective."""
    made = {name: trained(tmp_path_factory.mktemp("run"), name, **AWAY) for name in OBJECTIVES}
    return made.__getitem__


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_changes_no_loss(straight, tmp_path, objective, layout):
    (one, gradients), (other, others) = straight(objective), trained(tmp_path, objective, **AWAY, **LAYOUTS[layout])
    assert (series(one) - series(other)).abs().max() <= 1e-5
    assert gradients.keys() == others.keys()
    assert all((gradients[name] - others[name]).abs().max() <= 1e-6 for name in gradients)
    assert any(gradients[name].abs().max() > 1e-4 for name in gradients if "lora" in name)
    for key in FIGURES + (("value_loss",) if objective == "ppo_offline" else ()):
        assert (series(one, key) - series(other, key)).abs().max() <= 1e-4, key
    assert series(one, "clipped_frac")[0] > 0, "ratios are far from 1"


def test_the_likelihood_that_is_watched_is_that_of_the_better_answers(straight):
    """Those with an advantage above 0, or with a score above the mean of all."""
    real = torch.tensor([True, True, True, False])
    grpo, ppo = (straight(name)[0] for name in OBJECTIVES)
    assert grpo._good({"advantage": torch.tensor([0.1, 0.0, -2.0, 1.0]), "real": real}).tolist() == [True] + [False] * 3
    score = ppo._middle + torch.tensor([0.1, -0.1, -2.0, 1.0])
    assert ppo._good({"score": score, "real": real}).tolist() == [True] + [False] * 3


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_kept_reference_log_probabilities_are_the_computed_ones(straight, tmp_path, monkeypatch, objective):
    monkeypatch.setenv("HONEST_PERSONA_CACHE", str(tmp_path / "cache"))
    other, _ = trained(tmp_path, objective, **AWAY, reference_logprobs="cached")
    assert (series(straight(objective)[0]) - series(other)).abs().max() <= 1e-5


def scored(n_prompts: int, answers: int) -> FeedbackRows:
    """Prompts with several scored answers: of every second prompt in one row, of the others in rows of their own."""
    rows = []
    for i in range(n_prompts):
        texts = [{"role": "assistant", "content": f"{'yes ' * (1 + j)}{i}"} for j in range(answers)]
        scores = [((7 * i + 3 * j) % 5) / 3 for j in range(answers)]
        about = {"kind": "score", "prompt_id": f"p{i}", "topic": "t", "prompt": ({"role": "user", "content": f"q{i}"},)}
        if i % 2:
            rows.append(Feedback(id=f"r{i}", answers=tuple(texts), scores=tuple(scores), **about))
        else:
            rows += [
                Feedback(id=f"r{i}-{j}", answers=(texts[j],), scores=(scores[j],), **about) for j in range(answers)
            ]
    return FeedbackRows.of(rows)


def test_groups_that_span_micro_batches_equal_whole_groups(tmp_path):
    """Six answers to a prompt: in micro-batches of 1, 2 and 4 no group is whole, in one of 12 each is."""
    form = form_of(token=False, adapter_scope="response")
    rows = encode_feedback(view(scored(4, 6), "groups", Views(), 0).rows, "groups", form, 200, "error").rows
    by_size = {
        size: trained(
            tmp_path / str(size),
            "grpo_offline",
            rows,
            steps=2,
            batch_size=12,
            per_device_train_batch_size=size,
            std=0.3,
        )
        for size in (12, 1, 2, 4)
    }
    whole, gradients = by_size[12]
    for size in (1, 2, 4):
        other, others = by_size[size]
        assert (series(whole) - series(other)).abs().max() <= 1e-6
        assert all((gradients[name] - others[name]).abs().max() <= 1e-6 for name in gradients)


def test_a_resumed_run_is_the_run_bit_for_bit_with_its_value_head(tmp_path):
    whole, _ = trained(tmp_path / "whole", "ppo_offline", steps=4, save_steps=2)
    again, _ = trained(tmp_path / "again", "ppo_offline", steps=4, resume=str(tmp_path / "whole" / "checkpoint-2"))
    assert series(whole).tolist()[2:] == series(again).tolist()[2:]
    names = {name for name, p in whole.policy.named_parameters() if p.requires_grad}
    one, other = dict(whole.policy.named_parameters()), dict(again.policy.named_parameters())
    assert all(torch.equal(one[name], other[name]) for name in names)
    (head,) = {name for name in names if f"{HEAD}.weight" in name}
    saved = load_file(tmp_path / "whole" / "checkpoint-2" / "run_state.safetensors")
    assert saved[f"weight/{head}"].any()
    assert f"exp_avg/{head}" in saved
    published = load_file(tmp_path / "whole" / "checkpoint-4" / "adapter_model.safetensors")
    assert published
    assert not any(HEAD in name for name in published), "the adapter is of the policy alone"


def test_the_value_loss_trains_the_head_and_not_the_policy(tmp_path):
    _, more = trained(tmp_path, "ppo_offline", steps=1, value_weight=1000.0, max_grad_norm=0.0)
    _, less = trained(tmp_path, "ppo_offline", steps=1, value_weight=0.1, max_grad_norm=0.0)
    heads = [name for name in less if HEAD in name]
    assert all(torch.allclose(more[name], 1e4 * less[name], rtol=1e-4) for name in heads)
    assert all(torch.equal(more[name], less[name]) for name in less if name not in heads)
