"""An answer depends on its prompt, the seed and the model alone; the adapter acts as in training."""

import pytest
import torch

from honest_persona.evaluation.answers.samples import BASE, TRAINED
from honest_persona.evaluation.answers.writing import Written, _sampler, ends_of, write_answers
from honest_persona.modeling.adapters.tuning import adapter_off
from honest_persona.prompts.feedback import prompt_tokens
from honest_persona.prompts.persona_token import ControlTokens
from honest_persona.prompts.tokens import TokenFormat
from tests.evaluation.answers.rows import SCOPES, jobs, model_and_form, pairs, settings
from tests.tiny import form_of

BOTH = (TRAINED, BASE)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_neither_batch_nor_way_changes_an_answer(scope, temperature):
    model, form = model_and_form(scope)
    of = jobs(pairs(5), form)
    how = settings(temperature=temperature)
    together = write_answers(model, of, form, how, BOTH)
    alone = [write_answers(model, [job], form, how, BOTH)[0] for job in of[::-1]][::-1]
    whole = write_answers(model, of, form, settings(temperature=temperature, frozen_prefix=False), BOTH)
    assert together == alone == whole
    assert [by_policy[TRAINED] for by_policy in together] != [by_policy[BASE] for by_policy in together]
    longer = write_answers(model, of, form, settings(temperature=temperature, max_new_tokens=9), (TRAINED,))
    assert all(b[TRAINED].text.startswith(a[TRAINED].text) for a, b in zip(together, longer, strict=True))


def test_seeds_differ():
    model, form = model_and_form()
    of = jobs(pairs(3), form)
    first, again, other = (write_answers(model, of, form, settings(seed=seed), (TRAINED,)) for seed in (0, 0, 1))
    assert first == again != other


def test_prompts_do_not_share_their_random_numbers():
    """One draw for all prompts would make all answers of an evaluation lucky together."""
    of = jobs(pairs(64), form_of(token=False, adapter_scope="response"))
    choose = _sampler(of, settings(), [settings().seed] * len(of), torch.device("cpu"))
    equally_likely = torch.zeros(len(of), 8)
    drawn = choose(equally_likely, torch.arange(len(of)), 0).tolist()
    assert set(drawn) == set(range(8))
    assert drawn == choose(equally_likely, torch.arange(len(of)), 0).tolist()


@pytest.mark.parametrize("scope", SCOPES)
def test_greedy_answers_are_those_of_generate(scope):
    """The adapter acts from the answer's prefix on, which is part of every prompt; the base model has none."""
    model, form = model_and_form(scope)
    of = jobs(pairs(2), form)
    written = write_answers(model, of, form, settings(temperature=0), BOTH)
    for job, answers in zip(of, written, strict=True):
        ids = torch.tensor([prompt_tokens(job.row.messages, form).ids])
        assert ids[0].tolist() == list(job.prompt)
        gate = {} if scope == "all" else {"alora_offsets": [len(form.answer_prefix)]}
        for policy, found in answers.items():
            arguments = {"input_ids": ids, "max_new_tokens": 6, "do_sample": False, "eos_token_id": list(ends_of(form))}
            if policy == BASE:
                with adapter_off(model):
                    out = model.get_base_model().generate(**arguments)
            else:
                out = model.generate(**arguments, **gate)
            text = form.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
            assert found.text == text


def test_an_answer_ends_with_its_turn(monkeypatch):
    model, form = model_and_form()
    end = form.chat.end_token("assistant")
    assert end in ends_of(form)
    of = jobs(pairs(1), form)
    head = model.get_base_model().get_output_embeddings()
    with head.register_forward_hook(lambda *_: torch.nn.functional.one_hot(torch.tensor([[end]]), 2048) * 100.0):
        assert write_answers(model, of, form, settings(), (TRAINED,)) == [{TRAINED: Written("", True)}]


def test_the_trained_model_is_asked_behind_the_control_token():
    """And the base model is not: it never saw the token."""
    model, form = model_and_form()
    of = jobs(pairs(3), form)
    plain = write_answers(model, of, form, settings(temperature=0), BOTH)
    control = TokenFormat(form.tokenizer, form.persona, form.chat, ControlTokens(9, 11))
    found = write_answers(model, of, control, settings(temperature=0), BOTH)
    assert [a[BASE] for a in found] == [a[BASE] for a in plain]
    assert [a[TRAINED] for a in found] != [a[TRAINED] for a in plain]
