"""States are those of the base model, whatever stands beside them in a batch, and reading them changes nothing."""

import pytest
import torch

from honest_persona.base.errors import UserError
from honest_persona.probes.features import READING, Position, Site, contrast_states, read_states, spread_layers
from honest_persona.probes.selection import prompts_of
from honest_persona.prompts.kinds import Kind
from honest_persona.prompts.tokens import apply_intervention
from tests.tiny import base_model, conversation, form_of, random_adapter, record

FORM = form_of()
RECORDS = [record(5), record(0), record(2), record(5, id="again", intervention="Something else: was that all true?")]
LAYERS = [0, 1, 2]


def by_hand(model, ids, layer):
    with torch.no_grad():
        return model(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer][0]


def test_positions_by_hand():
    model = base_model()
    form = form_of(elicitation_type="ur")  # here the turn is closed, and a user turn opened, before the trigger
    [prompt] = prompts_of([record(3)], form)
    states = read_states(model, [prompt], form, LAYERS)
    responses = [i for i, kind in enumerate(prompt.kinds) if kind == Kind.RESPONSE]
    trigger = prompt.kinds.index(Kind.INTERVENTION)
    assert len(responses) > 2
    assert responses[-1] < trigger - 1
    for layer in LAYERS:
        whole = by_hand(model, prompt.input_ids, layer)
        wanted = {
            Position.RESPONSE_END: whole[responses[-1]],
            Position.RESPONSE_MEAN: whole[responses].mean(0),
            Position.BEFORE_TRIGGER: whole[trigger - 1],
        }
        for position in READING:
            assert torch.allclose(states[Site(layer, position)][0], wanted[position], atol=1e-5)


def test_the_last_response_counts():
    turns = [
        *conversation(0),
        {"role": "user", "content": "And now?"},
        {"role": "assistant", "content": "Now no more."},
    ]
    prompt = apply_intervention(turns, "Be honest.", FORM)
    [mean] = read_states(base_model(), [prompt], FORM, [2], at=[Position.RESPONSE_MEAN]).values()
    run = [i for i, kind in enumerate(prompt.kinds) if kind == Kind.RESPONSE]
    last = [i for i in run if i > max(j for j in range(run[-1]) if prompt.kinds[j] == Kind.USER)]
    assert len(last) < len(run)
    assert torch.allclose(mean[0], by_hand(base_model(), prompt.input_ids, 2)[last].mean(0), atol=1e-5)


@pytest.mark.parametrize("family", ["builtin", "gemma3_text", "qwen3"])
def test_a_ragged_batch_equals_one_by_one(family):
    prompts = prompts_of(RECORDS, FORM)
    assert len({len(prompt.input_ids) for prompt in prompts}) == 4
    for model in (base_model(family), random_adapter(base_model(family), FORM, family)):
        for read in (read_states, contrast_states):
            together = read(model, prompts, FORM, LAYERS)
            for i, prompt in enumerate(prompts):
                for site, alone in read(model, [prompt], FORM, LAYERS).items():
                    assert torch.allclose(together[site][i], alone[0], atol=1e-5), (site, i)


@pytest.mark.parametrize("family", ["builtin", "gemma3_text", "mistral"])
def test_contrast_pairs_by_prefix_equal_whole_rows_and_by_hand(family):
    base = base_model(family)
    prompts = prompts_of(RECORDS, FORM)
    whole = contrast_states(base, prompts, FORM, LAYERS)  # a bare model takes whole rows
    split = contrast_states(random_adapter(base_model(family), FORM, family), prompts, FORM, LAYERS)
    for site in whole:
        assert whole[site].shape == (4, 2, base.config.hidden_size)
        assert torch.allclose(whole[site], split[site], atol=1e-5)
    for side, flag in enumerate(("PASS", "FAIL")):
        ids = prompts[1].input_ids + FORM.tokenizer("\nFLAG: " + flag, add_special_tokens=False)["input_ids"]
        assert torch.allclose(whole[Site(2, Position.FLAG)][1, side], by_hand(base, ids, 2)[-1], atol=1e-5)


def test_states_are_the_base_models_and_the_adapter_stays_as_it_was():
    prompts = prompts_of(RECORDS, FORM)
    adapted = random_adapter(base_model(), FORM).train()
    adapted.base_model.model.model.layers[0].eval()
    ids = torch.tensor([prompts[0].input_ids])
    offsets = {"alora_offsets": [5]}

    def snapshot():
        with torch.no_grad():
            active = adapted(ids, **offsets).logits
            with adapted.disable_adapter():
                base = adapted(ids).logits
        for name, parameter in adapted.named_parameters():  # PEFT has just made all of it trainable
            parameter.requires_grad_(name in trained)
        return active, base

    trained = {name for name, p in adapted.named_parameters() if "lora_A" in name}
    active, base = snapshot()
    modes = {name: module.training for name, module in adapted.named_modules()}
    states = read_states(adapted, prompts, FORM, LAYERS) | contrast_states(adapted, prompts, FORM, LAYERS)
    assert {name for name, p in adapted.named_parameters() if p.requires_grad} == trained
    assert {name: module.training for name, module in adapted.named_modules()} == modes
    active_after, base_after = snapshot()
    assert torch.equal(active, active_after)
    assert torch.equal(base, base_after)
    assert not torch.equal(active, base), "negative control: the adapter acts"
    bare = base_model()
    expected = read_states(bare, prompts, FORM, LAYERS) | contrast_states(bare, prompts, FORM, LAYERS)
    for site, wanted in expected.items():
        assert not states[site].requires_grad
        assert states[site].dtype == torch.float32
        assert torch.allclose(states[site], wanted, atol=1e-5)


def test_the_state_before_the_trigger_does_not_know_the_trigger():
    one, other = record(1), record(1, intervention="Quite another question.")
    prompts = prompts_of([one, other], FORM)
    assert prompts[0].input_ids != prompts[1].input_ids
    for states in read_states(base_model(), prompts, FORM, [2]).values():
        assert torch.equal(states[0], states[1])
    [pairs] = contrast_states(base_model(), prompts, FORM, [2]).values()
    assert not torch.allclose(pairs[0], pairs[1], atol=1e-3), "negative control: behind the trigger it is known"


def test_half_precision_models_give_float32():
    model = base_model(dtype=torch.bfloat16)
    prompts = prompts_of(RECORDS, FORM)
    states = read_states(model, prompts, FORM, [1]) | contrast_states(model, prompts, FORM, [1])
    assert {s.dtype for s in states.values()} == {torch.float32}


def test_states_that_are_not_finite_are_no_states():
    model = base_model()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = float("inf")
    prompts = prompts_of(RECORDS, FORM)
    for read in (read_states, contrast_states):
        with pytest.raises(UserError, match="hidden states are not finite"):
            read(model, prompts, FORM, LAYERS)
        assert read(model, prompts, FORM, [0, 1]), "negative control: below the broken layer"


def test_what_cannot_be_read_is_refused():
    [prompt] = prompts_of([record(0)], FORM)
    with pytest.raises(UserError, match=r"layers: \[3\] are not in this model; it has 0 \(the embeddings\) to 2"):
        read_states(base_model(), [prompt], FORM, [1, 3])
    silent = apply_intervention([*conversation(0)[:1], {"role": "assistant", "content": ""}], "Be honest.", FORM)
    with pytest.raises(UserError, match="prompt 1: the response is empty"):
        read_states(base_model(), [prompt, silent], FORM, [1])


def test_layers_are_spread_and_end_with_the_last():
    model = base_model()
    assert spread_layers(model) == [1, 2]
    model.config.num_hidden_layers = 36
    assert spread_layers(model) == [1, 6, 11, 16, 21, 26, 31, 36]
    assert spread_layers(model, at_most=1)[-1] == 36
