"""Sampling from a model in memory: the same answers whatever stands beside a prompt."""

import numpy as np
import pytest
import torch

from honest_persona.base.errors import UserError
from honest_persona.config.persona import Persona
from honest_persona.generation.local_model import LocalModel, choose, uniforms
from honest_persona.generation.sampling import How, Prompt
from honest_persona.modeling.builtin import tiny_model, tiny_tokenizer
from honest_persona.prompts.segments import prompt_segments
from honest_persona.prompts.tokens import TokenFormat

PROMPTS = [
    Prompt("<SYSTEM> Be brief.<SYSTEM> ", "What is the capital of Ghana?"),
    Prompt("<SYSTEM> Be brief.<SYSTEM> ", "And of the Netherlands, which is a country in Europe?"),
    Prompt("<SYSTEM> Lie.<SYSTEM> ", "What is the capital of Ghana?", begun="It is"),
    Prompt("", "Why?"),
]


@pytest.fixture(scope="module")
def model():
    return LocalModel(tiny_model(), tiny_tokenizer())


def sample(model, prompts, **how):
    answers = {}
    model.sample(
        prompts, How(**{"n": 3, "max_new_tokens": 8, "temperature": 0.7, "seed": 1} | how), answers.__setitem__
    )
    return answers


def test_answers_do_not_depend_on_the_batch(model):
    together = sample(model, PROMPTS)
    assert list(map(len, together.values())) == [3] * 4
    assert together == {p: a for prompt in PROMPTS for p, a in sample(model, [prompt]).items()}
    one_by_one = LocalModel(tiny_model(), tiny_tokenizer(), rows=1)
    assert sample(one_by_one, PROMPTS[::-1]) == together
    more = sample(model, PROMPTS, n=5)
    assert {prompt: answers[:3] for prompt, answers in more.items()} == together


def test_answers_depend_on_seed_prompt_and_number(model):
    first = sample(model, PROMPTS)
    texts = [answer.text for answers in first.values() for answer in answers]
    assert len(set(texts)) == len(texts)
    assert sample(model, PROMPTS, seed=2) != first
    assert sample(model, PROMPTS) == first


@pytest.mark.parametrize("prompt", PROMPTS)
def test_temperature_0_is_greedy_generation(model, prompt):
    ids = torch.tensor([model.encode(prompt)])
    out = model.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, eos_token_id=model.form.end_id
    )
    text = tiny_tokenizer().decode(out[0, ids.shape[1] :], skip_special_tokens=True)
    answers = sample(model, PROMPTS, temperature=0)[prompt]
    assert [answer.text for answer in answers] == [text] * 3


def test_the_prompt_is_that_of_a_training(model):
    persona = Persona(system_tag="<SYSTEM> ", sp_token_id=3)
    form = TokenFormat.of(tiny_tokenizer(), persona)
    for begun in ("It is Accra.", ""):
        prompt = Prompt("<SYSTEM> Be brief.<SYSTEM> ", "Why?", begun)
        turns = [("system", "Be brief."), ("user", "Why?"), ("assistant", begun)]
        messages = [{"role": role, "content": text} for role, text in turns]
        tokens = form.encode(prompt_segments(messages, "trigger", persona, form.chat))
        assert model.encode(prompt) == tokens.input_ids[: tokens.activation]


def test_a_turn_that_ends_is_told_apart(model, monkeypatch):
    def end_at_once(logits, numbers, temperature):
        return torch.full((len(logits),), model.form.end_id)

    monkeypatch.setattr("honest_persona.generation.local_model.choose", end_at_once)
    assert {tuple(answers) for answers in sample(model, PROMPTS).values()} == {(("", True),) * 3}


def test_rows_that_end_leave_the_others_as_they_are(model, monkeypatch):
    """Each row ends at a length of its own; what it wrote before is what it writes when nothing ends."""
    whole = sample(model, PROMPTS, n=8)
    plain, calls = choose, []

    def some_end(logits, numbers, temperature):
        calls.append(len(logits))
        token = plain(logits, numbers, temperature)
        return torch.where(numbers < 0.3, torch.tensor(model.form.end_id), token)

    monkeypatch.setattr("honest_persona.generation.local_model.choose", some_end)
    cut = sample(model, PROMPTS, n=8)
    assert calls[0] == 32
    assert calls[-1] < 24
    pairs = [pair for prompt in PROMPTS for pair in zip(cut[prompt], whole[prompt], strict=True)]
    assert any(a.ended for a, _ in pairs)
    assert all(b.text.startswith(a.text.rstrip("\ufffd")) for a, b in pairs)


def test_tokens_are_drawn_with_their_shares():
    logits = torch.tensor([[0.0, 2.0, 1.0]]).log_softmax(-1).repeat(4000, 1)
    numbers = torch.from_numpy(np.random.default_rng(0).random(4000))
    shares = torch.bincount(choose(logits, numbers, 1.0), minlength=3) / 4000
    torch.testing.assert_close(shares, logits[0].exp(), atol=0.03, rtol=0)
    assert choose(logits, numbers, 0).unique().tolist() == [1]
    assert choose(logits[:2], torch.tensor([0.0, 1 - 2**-53]), 1.0).tolist() == [1, 0]
    with pytest.raises(UserError, match="not finite"):
        choose(logits * float("nan"), numbers, 1.0)


def test_numbers_of_a_prompt_are_its_own():
    how = How(2, 4, 0.7, 1)
    numbers = uniforms(PROMPTS[0], how)
    assert numbers.shape == (2, 4)
    assert (uniforms(PROMPTS[0], how._replace(n=5))[:2] == numbers).all()
    for prompt in (PROMPTS[1], Prompt(PROMPTS[0].system, PROMPTS[0].task, "It")):
        assert (uniforms(prompt, how) != numbers).all()
