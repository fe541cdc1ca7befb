"""An adapter that is loaded back reviews as it did before, and one that does not fit is refused."""

import json

import pytest
import torch
from peft import PeftModel

from honest_persona.base import number_format
from honest_persona.base.errors import UserError
from honest_persona.modeling.adapters.card import AdapterCard
from honest_persona.modeling.adapters.folder import seal_folder
from honest_persona.modeling.adapters.lora import activation_arguments
from honest_persona.modeling.adapters.tuning import adapter_off
from honest_persona.modeling.fingerprint import base_fingerprint
from honest_persona.modeling.load import get_model, load_tokenizer
from honest_persona.persona import product
from honest_persona.persona.product import HonestPersona, load_honest_persona
from honest_persona.prompts.tokens import apply_intervention, encode_record
from tests.hub.conftest import make_adapter
from tests.tiny import base_model, conversation, form_of, random_adapter, record


@pytest.fixture(scope="module", params=[(True, "persona"), (False, "persona"), (True, "all")], ids=str)
def saved(request, tmp_path_factory):
    token, scope = request.param
    folder = tmp_path_factory.mktemp("adapter")
    form = form_of(token, adapter_scope=scope)
    base = base_model()
    fingerprint = base_fingerprint(base)
    model = random_adapter(base, form, std=0.5).eval()
    model.save_pretrained(folder)
    form.tokenizer.save_pretrained(folder)
    card = AdapterCard(form.persona, "builtin:tiny", None, fingerprint, "What did you do?", sealed=True)
    card.save(folder)
    seal_folder(folder)
    return folder, HonestPersona(model, form, card)


class TestLoadHonestPersona:
    def edit(self, folder, tmp_path, **changes):
        """A copy of the folder with another card."""
        for file in folder.iterdir():
            if file.is_file():
                (tmp_path / file.name).write_bytes(file.read_bytes())
        content = json.loads((folder / "honest_persona.json").read_text())
        (tmp_path / "honest_persona.json").write_text(json.dumps({**content, **changes, "sealed": False}))
        (tmp_path / "manifest.json").unlink()
        return tmp_path

    def test_a_template_longer_than_the_model(self, saved, tmp_path):
        self.edit(saved[0], tmp_path)
        template = tmp_path / "chat_template.jinja"
        template.write_text("{{ 'xq7 ' * 4000 }}" + template.read_text())
        with pytest.raises(UserError, match=r"a greeting has \d+ tokens in the adapter's chat template"):
            load_honest_persona(tmp_path)

    def test_a_persona_token_that_is_none(self, saved, tmp_path):
        """Beyond the embedding it is an IndexError; one that text has would switch the adapter on anywhere."""
        content = json.loads((saved[0] / "honest_persona.json").read_text())
        if content["persona"]["sp_token_id"] is None:
            return
        for token, what in (
            (10**9, "outside the model's 2048 embedding rows"),
            (300, "a token that text .* can produce"),
        ):
            folder = self.edit(saved[0], tmp_path, persona={**content["persona"], "sp_token_id": token})
            with pytest.raises(UserError, match=rf"honest_persona\.json: persona\.sp_token_id: .*{what}"):
                load_honest_persona(folder)

    def test_reviews_as_before_it_was_saved(self, saved):
        folder, before = saved
        persona = load_honest_persona(folder, dtype=torch.float32)
        first = persona.review(conversation(1), max_new_tokens=12)
        assert persona.review(conversation(1), max_new_tokens=12) == first
        assert before.review(conversation(1), max_new_tokens=12) == first
        assert persona.card == before.card
        assert persona.tokenizer.get_vocab() == before.tokenizer.get_vocab()
        assert not persona.model.training
        other = persona.review(conversation(1), "Something else?", max_new_tokens=12)
        assert other != first
        assert persona.reviews([conversation(n) for n in range(3)], max_new_tokens=4, batch_size=2)[1].p_fail > 0
        assert persona.reviews([]) == []

    @pytest.mark.parametrize("fast", [torch.bfloat16, torch.float32])
    def test_the_trainings_half_precision_is_used_where_it_is_fast(self, saved, monkeypatch, fast):
        folder, _ = saved
        monkeypatch.setattr(number_format, "fastest_format", lambda: number_format.NumberFormat(fast, "measured"))
        persona = load_honest_persona(folder)
        assert persona.card.trained_in == "bfloat16"
        assert persona.model.get_base_model().dtype == fast
        review = persona.review(conversation(), max_new_tokens=4)
        assert persona.review(conversation(), max_new_tokens=4) == review
        assert 0 <= review.p_fail <= 1

    def test_plain_peft_acts_the_same(self, saved):
        """Other software finds the activation point by the invocation tokens, in a batch padded on the left too."""
        folder, before = saved
        plain = PeftModel.from_pretrained(base_model(), folder).eval()
        tokens = [encode_record(record(n), before.form) for n in (5, 0)]
        pad = len(tokens[0].input_ids) - len(tokens[1].input_ids)
        ids = torch.tensor([tokens[0].input_ids, [before.form.pad_id] * pad + tokens[1].input_ids])
        mask = torch.ones_like(ids)
        mask[1, :pad] = 0
        activation = torch.tensor([tokens[0].activation, tokens[1].activation + pad])
        gate = activation_arguments(before.card.persona.adapter_scope, activation, ids.shape[1])
        with torch.no_grad():
            expected = plain(ids, attention_mask=mask).logits
            found = before.model(ids, attention_mask=mask, **gate).logits
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)  # products are ordered otherwise

    def test_it_reads_a_main_persona_that_was_trained_since(self, saved, tmp_path, monkeypatch):
        folder = saved[0]
        make_adapter(tmp_path / "dpo", scope="response", objective="dpo")
        main = str(tmp_path / "dpo")
        persona, changed = (load_honest_persona(folder, "float32", model=model) for model in (None, main))
        prompt = apply_intervention(conversation(1), persona.card.default_intervention, persona.form)
        ids = torch.tensor([prompt.input_ids])
        with torch.no_grad(), adapter_off(changed.model):
            logits = changed.model(ids).logits
            torch.testing.assert_close(logits, get_model(main, dtype=torch.float32)[0](ids).logits)
        assert changed.review(conversation(1)).p_fail != persona.review(conversation(1)).p_fail
        other = load_tokenizer("builtin:organism")
        monkeypatch.setattr(product, "load_tokenizer", lambda model: other)
        with pytest.raises(UserError, match="--model: builtin:organism has another vocabulary"):
            load_honest_persona(folder, model="builtin:organism")

    def test_another_base_model(self, saved, tmp_path):
        folder = self.edit(saved[0], tmp_path, base_fingerprint="0" * 64)
        with pytest.raises(UserError, match="'builtin:tiny' has other weights than the adapter was trained on"):
            load_honest_persona(folder)

    def test_a_missing_tokenizer(self, saved, tmp_path):
        folder = self.edit(saved[0], tmp_path)
        for file in folder.glob("*token*"):
            file.unlink()
        with pytest.raises(UserError, match=r"tokenizer of .* cannot be loaded"):
            load_honest_persona(folder)

    def test_a_card_that_claims_another_scope(self, saved, tmp_path):
        folder, before = saved
        scope = "all" if before.card.persona.adapter_scope == "persona" else "persona"
        content = json.loads((folder / "honest_persona.json").read_text())
        folder = self.edit(folder, tmp_path, persona={**content["persona"], "adapter_scope": scope})
        with pytest.raises(UserError, match=r"before (its|the) activation point"):
            load_honest_persona(folder)

    def test_an_untrained_adapter(self, saved, tmp_path):
        folder = self.edit(saved[0], tmp_path)
        random_adapter(base_model(), saved[1].form, std=0.0).save_pretrained(folder)
        with pytest.raises(UserError, match="never trained"):
            load_honest_persona(folder)

    def test_a_run_in_full_precision_is_loaded_so(self, saved, tmp_path):
        folder = self.edit(saved[0], tmp_path, config={"bf16": False, "fp16": False})
        assert load_honest_persona(folder).model.get_base_model().dtype == torch.float32

    def test_a_conversation_too_long_for_the_model(self, saved):
        long = [{"role": "user", "content": "why? " * 6000}, {"role": "assistant", "content": "So."}]
        with pytest.raises(UserError, match=r"conversation 1 has \d+ tokens; .* more than the model's \d+ positions"):
            saved[1].reviews([conversation(1), long], max_new_tokens=4)

    def test_no_answer_to_review(self, saved):
        with pytest.raises(UserError, match="the last message must be the assistant's answer"):
            saved[1].review([{"role": "user", "content": "hi"}])
        with pytest.raises(UserError, match="intervention has no text"):
            saved[1].review(conversation(), " ")
