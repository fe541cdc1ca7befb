"""Where the adapter acts, exactly; and that one which does not act, or does not fit, is refused."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from honest_persona.base.errors import UserError
from honest_persona.base.tensors import pad_with_mask
from honest_persona.config.persona import Persona
from honest_persona.modeling.adapters.active import check_active
from honest_persona.modeling.adapters.card import AdapterCard
from honest_persona.modeling.adapters.folder import CARD_FILE
from honest_persona.modeling.adapters.load import load_adapter
from honest_persona.modeling.adapters.lora import activation_arguments, add_adapter
from honest_persona.modeling.builtin import tiny_config
from honest_persona.modeling.fingerprint import base_fingerprint
from honest_persona.prompts.kinds import Kind, Segment
from honest_persona.prompts.tokens import apply_intervention, encode_record
from tests.tiny import FAMILIES, base_model, conversation, form_of, random_adapter, record

MIXTURES = ("qwen3_moe", "gpt_oss")
LENGTHS = (5, 0, 2)
"""Which records make the batch: rows of three lengths, with three activation points, the longest first."""


def batch(form, side):
    """Ragged rows padded on one side: model inputs, activation points in the padded rows, and pads per row."""
    rows = [encode_record(record(n), form) for n in LENGTHS]
    length = max(len(row.input_ids) for row in rows)
    pads = [length - len(row.input_ids) for row in rows]
    assert len(set(pads)) == len(pads)
    assert len({row.activation for row in rows}) == len(rows)

    def pad(values, filling, n):
        return [filling] * n + values if side == "left" else values + [filling] * n

    mask = torch.tensor([pad([1] * len(row.input_ids), 0, n) for row, n in zip(rows, pads, strict=True)])
    inputs = {
        "input_ids": torch.tensor([pad(row.input_ids, form.pad_id, n) for row, n in zip(rows, pads, strict=True)]),
        "attention_mask": mask,
        "position_ids": (mask.cumsum(-1) - 1).clamp(min=0),
        "use_cache": False,
    }
    shifts = pads if side == "left" else [0] * len(pads)
    activation = torch.tensor([row.activation + n for row, n in zip(rows, shifts, strict=True)])
    return inputs, activation, mask.bool()


def adapted(model, form, inputs, activation):
    gate = activation_arguments(form.persona.adapter_scope, activation, inputs["input_ids"].shape[1])
    return model(**inputs, **gate).logits


def assert_base_before_and_other_behind(base, logits, activation, mask, exact=True):
    position = torch.arange(mask.shape[1])
    for row, start in enumerate(activation.tolist()):
        before, behind = mask[row] & (position < start), mask[row] & (position >= start)
        assert before.any()
        assert behind.any()
        if exact:
            assert torch.equal(logits[row, before], base[row, before]), "base untouched, bit for bit"
        else:
            torch.testing.assert_close(logits[row, before], base[row, before])
        assert (logits[row, behind] != base[row, behind]).any(-1).all(), "the adapter acts from the activation point on"


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_scope_persona_leaves_the_prefix_bit_for_bit(family, dtype, side):
    # the suffix's routing, which the adapter changes, decides with how many tokens of the prefix an expert computes:
    # the last bit may differ on some processors. The prefix alone is exact there too (`TestCheckActive`).
    exact = family not in MIXTURES
    form = form_of()
    base = base_model(family, dtype)  # never had an adapter
    model = random_adapter(base_model(family, dtype), form, family)
    for elicitation in ("hp", "up", "ur"):
        for token in (True, False):
            form = form_of(token, elicitation_type=elicitation)
            inputs, activation, mask = batch(form, side)
            with torch.no_grad():
                expected = base.eval()(**inputs).logits
                logits = adapted(model.eval(), form, inputs, activation)
            assert_base_before_and_other_behind(expected, logits, activation, mask, exact)

            base.train()
            model.train()
            model.activation_checkpointing_enable()
            base.activation_checkpointing_enable()
            logits = adapted(model, form, inputs, activation)
            assert_base_before_and_other_behind(
                base(**inputs).logits.detach(), logits.detach(), activation, mask, exact
            )
            logits[mask].float().square().mean().backward()
            gradients = [p.grad for p in model.parameters() if p.requires_grad]
            assert all(g is not None and g.any() for g in gradients)
            model.zero_grad()
            model.activation_checkpointing_disable()
            base.activation_checkpointing_disable()


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_scope_all_acts_on_the_prefix_too(family, side, checkpointed):
    """The negative control: the comparison above can see an adapter that is active on the prefix."""
    form = form_of(adapter_scope="all")
    base, model = base_model(family), random_adapter(base_model(family), form, family).train(checkpointed)
    if checkpointed:
        model.activation_checkpointing_enable()
    inputs, activation, mask = batch(form, side)
    logits, expected = adapted(model, form, inputs, activation).detach(), base(**inputs).logits.detach()
    assert (logits != expected).any(-1)[mask].all()


@pytest.mark.parametrize("family", ["builtin", "gemma3_text"])
def test_scope_response_leaves_the_prompt_bit_for_bit_and_acts_where_the_answer_is_predicted(family):
    form = form_of(adapter_scope="response")
    n = len(form.answer_prefix)
    prompt = [*form.encode_text([Segment(Kind.USER, "Is it so?")])[0], *form.answer_prefix]
    answers = [form.encode_text([Segment(Kind.RESPONSE, text)])[0] for text in ("No.", "Yes, of course it is.")]
    ids, mask = pad_with_mask([prompt + answer for answer in answers], form.pad_id, "right")
    inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    activation = torch.tensor([len(prompt) - n] * 2)
    with torch.no_grad():
        logits = adapted(random_adapter(base_model(family), form, family).eval(), form, inputs, activation)
        expected = base_model(family).eval()(**inputs).logits
    assert_base_before_and_other_behind(expected, logits, activation, mask.bool())
    assert (logits[:, len(prompt) - 1] != expected[:, len(prompt) - 1]).any(), "the answer's first token can be learned"


@pytest.mark.parametrize("scope", ["persona", "all"])
@pytest.mark.parametrize("family", FAMILIES)
def test_activation_checkpointing_does_not_change_gradients(family, scope):
    form = form_of(adapter_scope=scope)
    inputs, activation, _ = batch(form, "right")
    labels = inputs["input_ids"].masked_fill(torch.arange(inputs["input_ids"].shape[1]) <= activation[:, None], -100)

    def gradients(checkpointed, gate=activation):
        model = random_adapter(base_model(family), form, family).train()
        if checkpointed:
            model.activation_checkpointing_enable()
        for _ in range(2):  # what the first pass leaves behind must not reach the second
            model.zero_grad()
            logits = adapted(model, form, inputs, gate)
            torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()).backward()
        return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}

    plain, checkpointed = gradients(False), gradients(True)
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        assert gradient.any(), name
        torch.testing.assert_close(checkpointed[name], gradient, rtol=0, atol=1e-6)
    if scope == "persona":  # negative control: one token's activation more or less shows in the gradients
        later = gradients(True, activation + 1)
        assert max((later[name] - plain[name]).abs().max() for name in plain) > 1e-5


class TestCheckActive:
    def probe(self, **persona):
        form = form_of(**persona)
        return form, apply_intervention(conversation(), "Speak.", form)

    @pytest.mark.parametrize("scope", ["persona", "response", "all"])
    @pytest.mark.parametrize("token", [True, False])
    @pytest.mark.parametrize("family", FAMILIES)
    def test_passes_for_an_active_adapter(self, family, token, scope):
        form, prompt = self.probe(token=token, adapter_scope=scope)
        model = random_adapter(base_model(family), form, family).eval()
        check_active(model, form, prompt.input_ids, prompt.activation)

    @pytest.mark.parametrize("scope", ["persona", "all"])
    def test_a_disabled_adapter(self, scope):
        form, prompt = self.probe(adapter_scope=scope)
        model = random_adapter(base_model(), form).eval()
        model.base_model.disable_adapter_layers()
        with pytest.raises(UserError, match=r"the adapter is inactive.*load_honest_persona"):
            check_active(model, form, prompt.input_ids, prompt.activation)

    @pytest.mark.parametrize("scope", ["persona", "all"])
    def test_zero_b(self, scope):
        form, prompt = self.probe(adapter_scope=scope)
        model = random_adapter(base_model(), form, std=0.0).eval()
        with pytest.raises(UserError, match="the adapter is inactive"):
            check_active(model, form, prompt.input_ids, prompt.activation)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_a_base_model_that_is_not_finite(self, value):
        form, prompt = self.probe()
        model = random_adapter(base_model(), form).eval()
        with torch.no_grad():
            model.get_base_model().model.norm.weight[3] = value
        with pytest.raises(UserError, match="the base model gives logits that are not finite numbers"):
            check_active(model, form, prompt.input_ids, prompt.activation)

    def test_an_adapter_that_overflows(self):
        form, prompt = self.probe()
        model = random_adapter(base_model(), form, std=1e30).eval()
        with pytest.raises(UserError, match="with its adapter gives logits that are not finite numbers"):
            check_active(model, form, prompt.input_ids, prompt.activation)

    @pytest.mark.parametrize("scope", ["persona", "response"])
    def test_plain_lora_where_a_gate_is_claimed(self, scope):
        form, prompt = self.probe(adapter_scope=scope)
        plain = random_adapter(base_model(), form_of(adapter_scope="all")).eval()
        with pytest.raises(UserError, match=rf"acts before its activation point.*with adapter_scope {scope}"):
            check_active(plain, form, prompt.input_ids, prompt.activation)

    def test_activated_lora_where_scope_all_is_claimed(self):
        form, prompt = self.probe(adapter_scope="all")
        gated = random_adapter(base_model(), form_of()).eval()
        with pytest.raises(UserError, match="inactive before the activation point"):
            check_active(gated, form, prompt.input_ids, prompt.activation)


class TestAddAdapter:
    def test_invocation_tokens_are_what_other_software_looks_for(self):
        def tokens(form):
            return random_adapter(base_model(), form).peft_config["default"].alora_invocation_tokens

        assert tokens(form_of(adapter_scope="all")) is None
        assert tokens(form_of()) == [form_of().persona.sp_token_id]
        form = form_of(token=False)
        found = tokens(form)
        assert form.tokenizer.decode(found) == " INTERVENTION:", "the space belongs to the word that follows"
        for n in range(4):
            row = encode_record(record(n, intervention=["Now", "now?", "\n1.", "Ünd"][n]), form)
            assert row.input_ids[row.activation :][: len(found)] == found
        answering = form_of(adapter_scope="response")
        assert answering.tokenizer.decode(tokens(answering)) == "<|im_end|>\n<|im_start|>assistant\n"
        with pytest.raises(UserError, match=r"intervention_prefix: .*needs at least a word"):
            tokens(form_of(token=False, intervention_prefix=" "))

    @pytest.mark.parametrize("targets", [["nope"], ["q_proj", "nope"]])
    def test_every_target_module_must_exist(self, targets):
        with pytest.raises(UserError, match=r"target_modules: .*nope"):
            add_adapter(base_model(), form_of(), {"r": 4, "target_modules": targets})

    def test_seven_names_on_fused_projections(self):
        """Two of the seven names exist in Phi-3: PEFT alone would adapt those two and say nothing."""
        message = (
            "target_modules: the model has no q_proj, k_proj, v_proj, gate_proj, up_proj. In this model there are "
            "down_proj, gate_up_proj, o_proj, qkv_proj, or all-linear for all"
        )
        with pytest.raises(UserError, match=message):
            random_adapter(base_model("phi3"), form_of(), "builtin")


class TestLoadAdapter:
    @pytest.fixture
    def folder(self, tmp_path):
        random_adapter(base_model(), form_of()).save_pretrained(tmp_path)
        return tmp_path

    def test_round_trip(self, folder):
        form = form_of()
        inputs, activation, _ = batch(form, "left")
        loaded = load_adapter(base_model(), folder).eval()
        with torch.no_grad():
            expected = adapted(random_adapter(base_model(), form).eval(), form, inputs, activation)
            assert torch.equal(adapted(loaded, form, inputs, activation), expected)
        assert not any(p.requires_grad for p in loaded.parameters())
        trainable = load_adapter(base_model(), folder, trainable=True)
        names = {name for name, p in trainable.named_parameters() if p.requires_grad}
        assert names == {name for name, _ in trainable.named_parameters() if ".lora_" in name}

    def test_zero_b(self, tmp_path):
        random_adapter(base_model(), form_of(), std=0.0).save_pretrained(tmp_path)
        with pytest.raises(UserError, match=r"changes nothing.*never trained"):
            load_adapter(base_model(), tmp_path)
        load_adapter(base_model(), tmp_path, trainable=True)  # may be trained on

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    @pytest.mark.parametrize("trainable", [False, True])
    def test_one_weight_that_is_not_finite(self, folder, value, trainable):
        path = folder / "adapter_model.safetensors"
        weights = load_file(path)
        name = next(name for name in weights if "lora_A" in name)
        weights[name][1, 2] = value
        save_file(weights, path, {"format": "pt"})
        with pytest.raises(UserError, match=rf"1 of its weights .* not finite, the first is {name[:40]}"):
            load_adapter(base_model(), folder, trainable=trainable)

    def test_a_missing_folder(self, tmp_path):
        with pytest.raises(UserError, match=r"nothing: no adapter_model.safetensors; name the folder"):
            load_adapter(base_model(), tmp_path / "nothing")

    @pytest.mark.parametrize(
        ("file", "content", "message"),
        [
            ("adapter_config.json", "{", "not PEFT's config of an adapter"),
            ("adapter_config.json", "{}", "names the rank r None, but the weights have"),
            ("adapter_config.json", '{"r": 1000000000}', r"names the rank r 1000000000, but the weights have \[4\]"),
            ("adapter_model.safetensors", "x" * 100, "the adapter cannot be loaded on this base model"),
        ],
    )
    def test_a_damaged_file(self, folder, file, content, message):
        (folder / file).write_text(content)
        with pytest.raises(UserError, match=message):
            load_adapter(base_model(), folder)

    @pytest.mark.parametrize("trainable", [False, True])
    @pytest.mark.parametrize("layers", [1, 3])
    def test_a_model_of_another_depth(self, folder, layers, trainable):
        """PEFT takes both: it warns of missing weights, and passes over those that have no place."""
        config = tiny_config()
        config.num_hidden_layers = layers
        with pytest.raises(UserError, match=r"does not fit this base model: .*load the model it was trained on"):
            load_adapter(LlamaForCausalLM(config), folder, trainable)

    @pytest.mark.parametrize("family", ["phi3", "qwen3"])
    def test_a_model_of_another_architecture_or_width(self, folder, family):
        with pytest.raises(UserError, match=r"(?s)cannot be loaded on this base model: .*size mismatch"):
            load_adapter(base_model(family), folder)


class TestAdapterCard:
    card = AdapterCard(
        persona=Persona(elicitation_type="ur", sp_token_id=3, review_prefix="\n\nBewertung – é:"),
        base_model="builtin:tiny",
        base_revision=None,
        base_fingerprint="ab" * 32,
        default_intervention="Speak.",
        trained_topics=["sycophancy"],
        validation_topics=["reward_hacks"],
        config={"lr": 1e-5, "train_topics": ["sycophancy"], "adapter": None},
        versions={"peft": "0.21.2"},
    )

    def test_round_trip(self, tmp_path):
        self.card.save(tmp_path)
        assert AdapterCard.load(tmp_path) == self.card

    def test_missing(self, tmp_path):
        with pytest.raises(UserError, match=f"no {CARD_FILE}; name the folder of a finished run"):
            AdapterCard.load(tmp_path)

    def test_another_format(self, tmp_path):
        self.card.save(tmp_path)
        path = tmp_path / CARD_FILE
        path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
        with pytest.raises(UserError, match=r"format 2, this one reads 1\); update the package"):
            AdapterCard.load(tmp_path)

    @pytest.mark.parametrize(
        "damage",
        [
            lambda c: c.pop("format"),
            lambda c: c.pop("persona"),
            lambda c: c.pop("base_fingerprint"),
            lambda c: c.update(unknown=1),
            lambda c: c.update(persona=[]),
            lambda c: c["persona"].update(unknown=1),
            lambda c: c["persona"].update(adapter_scope="sometimes"),
            lambda c: c["persona"].update(sp_token_id="3"),
            lambda c: c.update(base_model=None),
        ],
    )
    def test_malformed(self, tmp_path, damage):
        self.card.save(tmp_path)
        content = json.loads((tmp_path / CARD_FILE).read_text())
        damage(content)
        (tmp_path / CARD_FILE).write_text(json.dumps(content))
        with pytest.raises(UserError, match=r"not a card of this package .*; save the adapter again"):
            AdapterCard.load(tmp_path)

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"x"', b"3", b"\xff\xfe{}"])
    def test_not_json_of_a_card(self, tmp_path, content):
        (tmp_path / CARD_FILE).write_bytes(content)
        with pytest.raises(UserError, match="not a card of this package"):
            AdapterCard.load(tmp_path)

    def test_the_persona_is_the_same_after_a_trip(self, tmp_path):
        texts = {"system_tag": "", "intervention_prefix": "i", "review_prefix": "", "flag_prefix": "f"}
        other = Persona(elicitation_type="up", adapter_scope="all", output_format="flag_only", **texts)
        for persona in (Persona(), other):
            replace(self.card, persona=persona).save(tmp_path)
            assert AdapterCard.load(tmp_path).persona == persona


class TestBaseFingerprint:
    expected = base_fingerprint(base_model())

    def test_same_in_another_dtype_and_under_an_adapter(self):
        assert base_fingerprint(base_model()) == self.expected
        assert base_fingerprint(base_model(dtype=torch.bfloat16)) == self.expected
        assert base_fingerprint(random_adapter(base_model(), form_of())) == self.expected

    def test_same_after_saving_and_loading_in_either_dtype(self, tmp_path):
        base_model().save_pretrained(tmp_path)
        for dtype in (torch.float32, torch.bfloat16):
            assert base_fingerprint(AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)) == self.expected

    def test_other_weights(self):
        assert base_fingerprint(base_model(seed=1)) != self.expected
        for name in ("model.embed_tokens.weight", "model.layers.1.mlp.gate_proj.weight"):
            model = base_model()
            with torch.no_grad():
                model.get_parameter(name).flatten()[17] += 1
            assert base_fingerprint(model) != self.expected, name

    def test_another_shape(self):
        config = tiny_config()
        config.num_hidden_layers = 3
        assert base_fingerprint(LlamaForCausalLM(config)) != self.expected
        config = tiny_config()
        config.vocab_size += 1
        model = LlamaForCausalLM(config)
        small = base_model()
        model.load_state_dict(
            small.state_dict()
            | {
                name: torch.cat([weight, weight[:1]])
                for name, weight in small.state_dict().items()
                if weight.shape[0] == 2048
            }
        )
        assert base_fingerprint(model) != self.expected, "the same weights, and one row more"
