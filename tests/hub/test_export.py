"""Each format acts as it says: activated, on every token, or merged into the base model."""

import json

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from honest_persona.base.errors import UserError
from honest_persona.hub.export import export
from honest_persona.modeling.adapters.card import AdapterCard
from honest_persona.persona.product import load_honest_persona
from honest_persona.prompts.tokens import apply_intervention
from tests.hub.conftest import make_adapter
from tests.tiny import base_model, conversation


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An adapter of scope all."""
    folder = tmp_path_factory.mktemp("whole")
    make_adapter(folder, scope="all")
    return folder


@torch.no_grad()
def logits_of(model, prompt) -> torch.Tensor:
    return model(torch.tensor([prompt.input_ids])).logits[0]


def prompt_of(folder):
    persona = load_honest_persona(folder, device="cpu")
    return persona, apply_intervention(conversation(1), persona.card.default_intervention, persona.form)


def test_alora_is_the_adapter_itself(run_folder, tmp_path):
    folder = export(run_folder, tmp_path / "out" / "alora", "alora")
    arguments = conversation(1), None, 8
    assert load_honest_persona(folder).review(*arguments) == load_honest_persona(run_folder).review(*arguments)
    assert {path.name for path in folder.iterdir()} == {
        "adapter_model.safetensors",
        "adapter_config.json",
        "honest_persona.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "manifest.json",
        "eval",
        "README.md",
    }
    assert f'load_honest_persona("{folder}")' in (folder / "README.md").read_text()


def test_lora_acts_on_every_token(run_folder, tmp_path):
    persona, prompt = prompt_of(run_folder)
    base = logits_of(base_model(), prompt)
    activated = logits_of(PeftModel.from_pretrained(base_model(), run_folder), prompt)
    assert torch.equal(activated[: prompt.activation], base[: prompt.activation]), "negative control: as it was trained"
    folder = export(run_folder, tmp_path / "lora", "lora")
    plain = logits_of(PeftModel.from_pretrained(base_model(), folder), prompt)
    assert not torch.allclose(plain[1 : prompt.activation], base[1 : prompt.activation])
    assert json.loads((folder / "adapter_config.json").read_text())["alora_invocation_tokens"] is None
    text = (folder / "README.md").read_text()
    assert "It acts on **every**" in text
    assert f"id {persona.card.persona.sp_token_id}" in text
    assert not (folder / "eval").exists(), "the figures were measured on the activated one"
    with pytest.raises(UserError, match=r"no honest_persona\.json"):
        load_honest_persona(folder)


def test_lora_of_scope_all_is_the_adapter_itself(whole, tmp_path):
    folder = export(whole, tmp_path / "lora", "lora")
    assert AdapterCard.load(folder) == AdapterCard.load(whole)
    assert (folder / "adapter_config.json").read_bytes() == (whole / "adapter_config.json").read_bytes()


def test_merged_is_the_model_with_its_adapter(whole, tmp_path):
    persona, prompt = prompt_of(whole)
    folder = export(whole, tmp_path / "merged", "merged")
    merged = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert not [name for name, _ in merged.named_parameters() if "lora" in name]
    torch.testing.assert_close(logits_of(merged, prompt), logits_of(persona.model, prompt), atol=1e-4, rtol=1e-4)
    base = logits_of(base_model(), prompt)
    assert (logits_of(merged, prompt) - base).abs().max() > 0.1, "negative control: the base model differs"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.apply_chat_template(conversation(1)) == persona.tokenizer.apply_chat_template(conversation(1))
    assert list(folder.glob("*.safetensors"))
    assert not list(folder.glob("*.bin")), "no pickle"
    assert "weights added to it" in (folder / "README.md").read_text()


def test_an_adapter_trained_on_answers_is_merged_in_either_scope(tmp_path):
    for scope in ("response", "all"):
        make_adapter(tmp_path / scope, scope=scope, objective="dpo")
        ids = torch.arange(5, 40)[None]
        folder = export(tmp_path / scope, tmp_path / f"merged-{scope}", "merged")
        with torch.no_grad():
            merged = AutoModelForCausalLM.from_pretrained(folder)(ids).logits
            plain = PeftModel.from_pretrained(base_model(), _plain(tmp_path / scope))(ids).logits
            torch.testing.assert_close(merged, plain, atol=1e-5, rtol=1e-5)
            assert not torch.allclose(merged, base_model()(ids).logits, atol=1e-3)
        text = (folder / "README.md").read_text()
        assert "review" not in text
        assert ("answers alone" in text) == (scope == "response")


def _plain(folder):
    """The adapter's folder without the activation."""
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"alora_invocation_tokens": None}))
    return folder


def test_what_cannot_be(run_folder, whole, tmp_path):
    with pytest.raises(UserError, match="scope persona cannot be merged"):
        export(run_folder, tmp_path / "merged", "merged")
    with pytest.raises(UserError, match="scope all is plain LoRA already"):
        export(whole, tmp_path / "alora", "alora")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for target in (tmp_path / "full", tmp_path / "full" / "mine.txt"):
        with pytest.raises(UserError, match="holds something already"):
            export(run_folder, target, "alora")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]
    assert not (tmp_path / "merged").exists()
    assert not (tmp_path / "alora").exists()
