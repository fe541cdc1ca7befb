"""Likelihoods are those of a plain forward pass over prompt and answer."""

import pytest
import torch

from honest_persona.evaluation.answers.likelihood import likelihoods
from honest_persona.evaluation.answers.samples import BASE, TRAINED
from honest_persona.modeling.adapters.lora import activation_arguments
from honest_persona.modeling.adapters.tuning import adapter_off
from tests.evaluation.answers.rows import SCOPES, jobs, model_and_form, pairs, settings
from tests.prompts.test_feedback import feedback


def log_prob(model, form, job, answer, base=False):
    ids = torch.tensor([[*job.prompt, *answer]])
    gate = activation_arguments(form.persona.adapter_scope, torch.tensor([job.activation]), ids.shape[1])
    if base:
        with adapter_off(model), torch.no_grad():
            logits = model.get_base_model()(ids).logits
    else:
        with torch.no_grad():
            logits = model(ids, **gate).logits
    found = logits[0, :-1].double().log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
    return found[len(job.prompt) - 1 :].sum().item()


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("frozen_prefix", [True, False])
def test_pairs(scope, frozen_prefix):
    model, form = model_and_form(scope)
    of = jobs(
        [
            *pairs(3),
            feedback(3, answers=({"role": "assistant", "content": "No, it is shut."}, *feedback().answers[:1])),
        ],
        form,
    )
    how = settings(frozen_prefix=frozen_prefix)
    found = likelihoods(model, of, form, how, (TRAINED, BASE))
    own = likelihoods(model, of, form, settings(frozen_prefix=frozen_prefix, against_base=False), (TRAINED, BASE))
    for job, by_policy, its in zip(of, found, own, strict=True):
        chosen, rejected = (log_prob(model, form, job, answer) for answer in (job.chosen, job.rejected))
        base_chosen, base_rejected = (log_prob(model, form, job, a, base=True) for a in (job.chosen, job.rejected))
        assert by_policy[TRAINED].chosen_nll == pytest.approx(-chosen, abs=1e-4)
        assert by_policy[TRAINED].chosen_tokens == len(job.chosen)
        assert by_policy[TRAINED].margin == pytest.approx(chosen - rejected - base_chosen + base_rejected, abs=1e-4)
        assert by_policy[BASE].chosen_nll == pytest.approx(-base_chosen, abs=1e-4)
        assert by_policy[BASE].margin is None, "0 for every pair"
        assert its[TRAINED].margin == pytest.approx(chosen - rejected, abs=1e-4)
        assert its[BASE].margin == pytest.approx(base_chosen - base_rejected, abs=1e-4)
    assert [a[TRAINED] for a in likelihoods(model, of, form, how, (TRAINED,))] == [a[TRAINED] for a in found]


def test_answers_without_a_rejected_one():
    model, form = model_and_form()
    of = jobs([feedback(0, "label"), feedback(1, "response"), feedback(2, "label")], form)
    found = likelihoods(model, of, form, settings(), (TRAINED,))
    assert [a[TRAINED].margin for a in found] == [None] * 3
    assert found[1][TRAINED].chosen_nll == pytest.approx(-log_prob(model, form, of[1], of[1].chosen), abs=1e-4)
