"""Training on suffixes behind a frozen prefix is training on whole sequences, and costs what it should."""

from contextlib import nullcontext

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoConfig

from benchmarks.common import flop_counter
from honest_persona.modeling.adapters.lora import activation_arguments
from honest_persona.modeling.adapters.tuning import ADAPTER, ungated
from honest_persona.modeling.prefix.frozen import (
    checkpoint_with_prefix,
    positions,
    run_prefix,
    run_suffixes,
    suffix_arguments,
    why_not_frozen,
    why_not_split,
)
from honest_persona.prompts.collator import PersonaCollator, SplitCollator
from honest_persona.prompts.rows import training_row
from honest_persona.prompts.tokens import encode_record
from tests.tiny import FAMILIES, base_model, form_of, random_adapter, record

FORM = form_of()
OTHER = "Something else: was that the whole truth? Say so now."


def rows_of(form, *records):
    return [training_row(r.id, encode_record(r, form)) for r in records]


def ragged(form):
    """Three transcripts of three lengths, the first with two interventions: four rows."""
    return rows_of(form, record(5), record(0), record(5, id="again", intervention=OTHER), record(2))


def on_whole_rows(model, rows, form=FORM):
    batch = PersonaCollator(form.pad_id, form.persona.sp_token_id)(rows)
    ids = batch["input_ids"]
    gate = activation_arguments("persona", batch["activation"], ids.shape[1])
    logits = model(ids, attention_mask=batch["attention_mask"], use_cache=False, **gate).logits
    return logits, batch["labels"]


def on_suffixes(model, rows, form=FORM):
    batch = SplitCollator(form.pad_id, form.persona.sp_token_id)(rows)
    prefix = run_prefix(model, batch["prefix_ids"], batch["prefix_mask"], adapter_on=False)
    behind = suffix_arguments(prefix, batch["attention_mask"], batch["prefix_index"])
    return model(batch["input_ids"], **behind).logits, batch["labels"]


def gradients(family, way, dtype=torch.float32, checkpointed=False, form=FORM, attention=None):
    """Loss and LoRA gradients over ragged rows, by one of the two ways."""
    base = base_model(family, dtype)
    if attention:
        base.set_attn_implementation(attention)
    model = random_adapter(base, form, family).train()
    if checkpointed:
        model.activation_checkpointing_enable()
        checkpoint_with_prefix(model)
    with ungated(model) if way is on_suffixes else nullcontext():
        logits, labels = way(model, ragged(form), form)
        loss = cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten())
        loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def distance(a, b):
    """Relative, over all gradients together."""
    difference = sum((a[name].double() - b[name].double()).square().sum() for name in b)
    return (difference / sum(g.double().square().sum() for g in b.values())).sqrt().item()


@pytest.mark.parametrize("checkpointed", [False, True], ids=["stored", "checkpointed"])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_equal_those_of_whole_sequences(family, checkpointed):
    """Llama, Qwen3, Gemma-3, Mistral, Phi-3, OLMo-2, GPT-OSS and a mixture of experts; windows shorter than a row."""
    whole, expected = gradients(family, on_whole_rows)
    loss, found = gradients(family, on_suffixes, checkpointed=checkpointed)
    assert loss == pytest.approx(whole, rel=1e-6)
    assert found.keys() == expected.keys()
    assert all(g.any() for g in found.values())
    assert distance(found, expected) < 1e-5


@pytest.mark.parametrize("elicitation", ["up", "ur"])
@pytest.mark.parametrize("token", [True, False])
def test_other_elicitations(elicitation, token):
    form = form_of(token, elicitation_type=elicitation)
    _, expected = gradients("qwen3", on_whole_rows, form=form)
    assert distance(gradients("qwen3", on_suffixes, form=form)[1], expected) < 1e-5


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_kernels(attention):
    _, expected = gradients("gemma3_text", on_whole_rows, attention="eager")
    assert distance(gradients("gemma3_text", on_suffixes, attention=attention)[1], expected) < 1e-5


@pytest.mark.parametrize("family", ["builtin", "gemma3_text"])
def test_bfloat16_agrees_to_its_rounding(family):
    """Both ways are as far from float32 as each other."""
    _, exact = gradients(family, on_whole_rows)
    whole = distance(gradients(family, on_whole_rows, torch.bfloat16)[1], exact)
    split = distance(gradients(family, on_suffixes, torch.bfloat16)[1], exact)
    assert split < 1.5 * whole + 1e-3


def test_a_prefix_run_with_the_adapter_is_seen():
    """The negative control: this is what scope all would do, and the comparison above would catch it."""
    model = random_adapter(base_model(), FORM).eval()
    batch = SplitCollator(FORM.pad_id, FORM.persona.sp_token_id)(ragged(FORM))
    with ungated(model):
        off = run_prefix(model, batch["prefix_ids"], batch["prefix_mask"], adapter_on=False)
        on = run_prefix(model, batch["prefix_ids"], batch["prefix_mask"], adapter_on=True)
    assert (off.layers[1][0] - on.layers[1][0]).abs().max() > 1e-3


def test_the_prefix_is_the_base_models_bit_for_bit():
    base, model = base_model().eval(), random_adapter(base_model(), FORM).train()
    batch = SplitCollator(FORM.pad_id, FORM.persona.sp_token_id)(ragged(FORM))
    ids, mask = batch["prefix_ids"], batch["prefix_mask"]
    cache = base(ids, attention_mask=mask, position_ids=positions(mask), use_cache=True).past_key_values
    prefix = run_prefix(model, ids, mask, adapter_on=False)
    for layer, (keys, values) in zip(cache.layers, prefix.layers, strict=True):
        assert torch.equal(layer.keys, keys)
        assert torch.equal(layer.values, values)
        assert not keys.requires_grad


def test_what_was_on_or_off_or_training_stays_so():
    model = random_adapter(base_model(), FORM).train()
    batch = SplitCollator(FORM.pad_id, FORM.persona.sp_token_id)(ragged(FORM))
    inputs = batch["prefix_ids"], batch["prefix_mask"]
    training = {name: module.training for name, module in model.named_modules()}
    trainable = {name: p.requires_grad for name, p in model.named_parameters()}
    with model.disable_adapter():
        run_prefix(model, *inputs, adapter_on=False)
        assert all(m.disable_adapters for m in model.modules() if hasattr(m, "lora_variant"))
    run_prefix(model, *inputs, adapter_on=False)
    assert not any(m.disable_adapters for m in model.modules() if hasattr(m, "lora_variant"))
    assert {name: module.training for name, module in model.named_modules()} == training
    assert {name: p.requires_grad for name, p in model.named_parameters()} == trainable


def test_the_gate_comes_back():
    model = random_adapter(base_model(), FORM).eval()
    expected, _ = on_whole_rows(model, ragged(FORM))
    tokens = model.peft_config[ADAPTER].alora_invocation_tokens
    with ungated(model), ungated(model):
        assert model.peft_config[ADAPTER].alora_invocation_tokens is None
    with pytest.raises(ZeroDivisionError), ungated(model):
        1 / 0  # noqa: B018
    assert model.peft_config[ADAPTER].alora_invocation_tokens == tokens
    assert torch.equal(on_whole_rows(model, ragged(FORM))[0], expected)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_lined_up_for_generation(family):
    """The last token behind the aligned cache has the logits that it has in the whole row."""
    model = random_adapter(base_model(family), FORM, family).eval()
    rows = ragged(FORM)
    logits, _ = on_whole_rows(model, rows)
    batch = SplitCollator(FORM.pad_id, FORM.persona.sp_token_id)(rows)
    suffixes = [row["input_ids"][row["activation"] :] for row in rows]
    for chosen in (suffixes, [suffix[:1] for suffix in suffixes]):  # one token: nothing to feed before it
        with ungated(model):
            prefix = run_prefix(model, batch["prefix_ids"], batch["prefix_mask"], adapter_on=False)
            mask, cache = run_suffixes(model, prefix, chosen, batch["prefix_index"].tolist(), FORM.pad_id)
            last = torch.tensor([[suffix[-1]] for suffix in chosen])
            place = positions(mask)[:, -1:]
            found = model(last, attention_mask=mask, position_ids=place, past_key_values=cache, use_cache=True).logits
        assert mask.shape[1] == cache.get_seq_length() == max(mask.sum(1))
        ends = [row["activation"] + len(suffix) - 1 for row, suffix in zip(rows, chosen, strict=True)]
        expected = torch.stack([logits[i, end] for i, end in enumerate(ends)])
        torch.testing.assert_close(found[:, -1], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss"])
def test_routers_that_were_saved_with_their_loss_on(family):
    """Their loss wants a mask of the tokens that the routers see; behind a prefix the mask is longer."""
    base = base_model(family)
    base.config.output_router_logits = True
    with ungated(model := random_adapter(base, FORM, family).train()):
        logits, labels = on_suffixes(model, ragged(FORM))
    assert labels.shape == logits.shape[:2]


def flops(run):
    with flop_counter() as counter:
        run()
    return counter.get_total_flops()


def test_a_transcript_is_computed_once_however_many_suffixes_it_has():
    model = random_adapter(base_model(), FORM).train()
    long = record(30)
    one, four = rows_of(FORM, long), rows_of(FORM, *[long] * 4)

    def step(way, rows):
        logits, labels = way(model, rows)
        cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()).backward()

    whole = flops(lambda: step(on_whole_rows, one))
    assert flops(lambda: step(on_whole_rows, four)) == 4 * whole
    batch = SplitCollator(FORM.pad_id, FORM.persona.sp_token_id)(one)
    backbone = model.get_base_model().model
    with ungated(model), torch.no_grad(), model.disable_adapter():
        base_forward = flops(lambda: backbone(batch["prefix_ids"], attention_mask=batch["prefix_mask"]))
    with ungated(model):
        prefix = flops(lambda: run_prefix(model, batch["prefix_ids"], batch["prefix_mask"], adapter_on=False))
        assert prefix == base_forward, "nothing but one forward pass of the base model"
        split = flops(lambda: step(on_suffixes, one))
        assert flops(lambda: step(on_suffixes, four)) - prefix == 4 * (split - prefix)
    n_prefix, n_suffix = batch["prefix_ids"].shape[1], batch["input_ids"].shape[1]
    expected = 4 * (n_prefix + n_suffix) / (2 * n_prefix + 4 * n_suffix)
    assert whole / split > 0.9 * expected > 1.3


class TestWhyNot:
    def test_a_module_that_trains_elsewhere(self):
        model = random_adapter(base_model(), FORM)
        assert why_not_frozen(model) is None
        model.get_input_embeddings().weight.requires_grad_(True)
        assert "embed_tokens.weight is trained too" in why_not_frozen(model)

    @pytest.mark.parametrize(
        ("family", "reason"),
        [
            ("qwen3_next", "layers of type linear_attention"),
            ("mamba", "layers of type linear_attention"),
            ("rwkv", "keep a state"),
            ("gemma3n_text", "share keys and values"),
            ("t5", "encoder-decoder"),
        ],
    )
    def test_other_memories(self, family, reason):
        assert reason in why_not_split(AutoConfig.for_model(family))

    @pytest.mark.parametrize("family", FAMILIES)
    def test_none_for_attention(self, family):
        assert why_not_split(base_model(family).config) is None
