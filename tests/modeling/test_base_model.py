"""An adapter's folder in place of a model: which base model it stands for, and that the base model is that one."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import honest_persona.modeling.load as load
from honest_persona.base.errors import UserError
from honest_persona.config.load import load_config
from honest_persona.modeling.adapters.card import AdapterCard
from honest_persona.modeling.adapters.folder import seal_folder
from honest_persona.modeling.base_model import base_of
from honest_persona.modeling.builtin import tiny_tokenizer
from honest_persona.modeling.fingerprint import base_fingerprint
from honest_persona.persona.product import load_honest_persona
from honest_persona.training.launch import train
from tests.hub.conftest import make_adapter
from tests.modeling.damaged import edit
from tests.tiny import base_model


@pytest.fixture(scope="module")
def _models(tmp_path_factory):
    """A model's folder, and a LoRA adapter on it."""
    root = tmp_path_factory.mktemp("models")
    base_model("qwen3").save_pretrained(root / "model")
    tiny_tokenizer().save_pretrained(root / "model")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base = AutoModelForCausalLM.from_pretrained(root / "model", dtype=torch.float32)
        settings = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "down_proj"])
        adapted = get_peft_model(base, settings)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.2)
        adapted.save_pretrained(root / "lora")
    return root


@pytest.fixture
def model(_models):
    return str(_models / "model")


@pytest.fixture
def lora(_models, tmp_path):
    return shutil.copytree(_models / "lora", tmp_path / "lora")


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(5, 40)[None]).logits


def test_a_model_stands_for_itself(model):
    assert base_of(model).name == model
    assert base_of("builtin:tiny").name == "builtin:tiny"
    assert base_of("nobody/has-this-model", "v1").revision == "v1"


class TestAnAdapterOfThisPackage:
    @pytest.fixture
    def run(self, tmp_path):
        make_adapter(tmp_path / "run")
        return str(tmp_path / "run")

    def test_it_stands_for_its_base_model(self, run):
        found, card = base_of(run), AdapterCard.load(Path(run))
        assert (found.name, found.fingerprint, found.lora) == ("builtin:tiny", card.base_fingerprint, None)
        loaded, tokenizer = load.get_model(run, dtype=torch.float32)
        assert all(torch.equal(w, loaded.state_dict()[name]) for name, w in base_model().state_dict().items())
        assert loaded.config.name_or_path == "builtin:tiny"
        assert tokenizer is tiny_tokenizer()
        assert load.load_model_config(run).vocab_size == 2048

    def test_through_another_adapter_too(self, run, tmp_path):
        make_adapter(tmp_path / "second")
        card = AdapterCard.load(tmp_path / "second")
        replace(card, base_model=run).save(tmp_path / "second")
        seal_folder(tmp_path / "second")
        assert base_of(str(tmp_path / "second")).name == "builtin:tiny"

    def test_a_damaged_one_is_told(self, run):
        (Path(run) / "adapter_model.safetensors").write_bytes(b"x")
        with pytest.raises(UserError, match=r"adapter_model\.safetensors has 1 bytes in place of"):
            load.load_base(run)


class TestAnAdapterTrainedOnAnswers:
    @pytest.fixture(params=["response", "all"])
    def run(self, tmp_path, request):
        make_adapter(tmp_path / "run", scope=request.param, objective="dpo")
        return str(tmp_path / "run")

    def test_it_stands_for_the_main_persona_that_answers_there(self, run, monkeypatch):
        monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", None)  # the Hub is not asked
        found = base_of(run)
        assert (found.name, found.root.name, found.fingerprint) == (run, "builtin:tiny", None)
        loaded = load.load_base(run, dtype=torch.float32)
        assert loaded.config.name_or_path == run
        assert not any("lora" in name for name, _ in loaded.named_parameters())
        delta = {name: w - loaded.state_dict()[name] for name, w in base_model().state_dict().items()}
        weights = load_file(Path(run, "adapter_model.safetensors"))
        a, b = (weights[f"base_model.model.model.layers.0.mlp.up_proj.lora_{x}.weight"] for x in "AB")
        scale = 4 / 4**0.5  # alpha / sqrt(r), rank-stabilized
        torch.testing.assert_close(-delta["model.layers.0.mlp.up_proj.weight"], scale * b @ a, atol=1e-5, rtol=1e-5)
        assert not delta["model.embed_tokens.weight"].any()

    def test_another_base_than_in_training_is_refused(self, run):
        card = AdapterCard.load(Path(run))
        replace(card, base_fingerprint="0" * 64).save(Path(run))
        seal_folder(Path(run))
        with pytest.raises(UserError, match="was trained on other weights than 'builtin:tiny' has now"):
            load.load_base(run)

    def test_one_on_another_is_refused_with_the_command_that_merges(self, run, tmp_path):
        make_adapter(tmp_path / "second", scope="response", objective="dpo")
        card = AdapterCard.load(tmp_path / "second")
        replace(card, base_model=run).save(tmp_path / "second")
        seal_folder(tmp_path / "second")
        with pytest.raises(UserError, match=r"stands on another one.*export --adapter .*run --output FOLDER --format"):
            base_of(str(tmp_path / "second"))

    def test_an_honest_persona_stands_on_it(self, run, tmp_path):
        make_adapter(tmp_path / "persona")
        card = AdapterCard.load(tmp_path / "persona")
        print_of = base_fingerprint(load.load_base(run, dtype=torch.float32))
        replace(card, base_model=run, base_fingerprint=print_of).save(tmp_path / "persona")
        seal_folder(tmp_path / "persona")
        assert base_of(str(tmp_path / "persona")).name == run
        persona = load_honest_persona(tmp_path / "persona", dtype="float32", device="cpu")
        assert persona.model.config.name_or_path == run


class TestAnotherLora:
    def test_it_stands_for_the_model_that_answers_there(self, model, lora):
        found = base_of(str(lora))
        assert found.name == str(lora)
        assert found.lora.base.name == model
        loaded = load.load_base(str(lora), dtype=torch.float32)
        with torch.no_grad():
            expected = PeftModel.from_pretrained(load.load_base(model, dtype=torch.float32), lora)
            torch.testing.assert_close(logits(loaded), logits(expected), atol=1e-5, rtol=1e-5)
            assert not torch.allclose(logits(loaded), logits(load.load_base(model, dtype=torch.float32)), atol=1e-3)
        assert not any("lora" in name for name, _ in loaded.named_parameters())
        assert not hasattr(loaded, "peft_config")

    def test_the_fingerprint_is_of_the_merged_weights_in_every_number_format(self, model, lora):
        prints = {base_fingerprint(load.load_base(str(lora), dtype=d)) for d in (torch.float32, torch.bfloat16)}
        assert len(prints) == 1
        assert prints != {base_fingerprint(load.load_base(model, dtype=torch.float32))}

    def test_the_tokenizer_is_its_own_or_the_base_models(self, model, lora):
        assert load.load_tokenizer(str(lora)).name_or_path == model
        tokenizer = load.load_tokenizer(model)
        tokenizer.chat_template += "{# mine #}"
        tokenizer.save_pretrained(lora)
        assert load.load_tokenizer(str(lora)).chat_template.endswith("{# mine #}")

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"peft_type": "IA3"}, r"is of PEFT's kind 'IA3', and only LoRA"),
            ({"alora_invocation_tokens": [3]}, r"is an activated LoRA, .* name its base model"),
            ({"base_model_name_or_path": None}, r"names no base model"),
            ({"layer_replication": [[0, 2], [0, 2]]}, r"sets layer_replication"),
            ({"megatron_config": {"a": 1}, "megatron_core": "os"}, r"sets megatron_config, megatron_core"),
            ({"of_next_year": True}, r"sets of_next_year"),
            ({"init_lora_weights": "pissa"}, r"sets init_lora_weights"),
        ],
    )
    def test_what_cannot_be_merged(self, lora, changes, expected):
        edit(lora, "adapter_config.json", **changes)
        with pytest.raises(UserError, match=rf"model: .*lora' is the folder of an adapter, which {expected}.*Merge it"):
            load.load_model_config(str(lora))

    def test_weights_that_are_absent_or_not_finite_or_of_another_model(self, lora):
        path = lora / "adapter_model.safetensors"
        whole = load_file(path)
        name = next(iter(whole))
        for change, expected in [
            ({name: torch.full_like(whole[name], float("inf"))}, "hold numbers that are not finite"),
            ({name: torch.zeros(3, 3)}, "does not fit"),
            ({"base_model.model.more.lora_A.weight": torch.zeros(3, 3)}, r"does not fit .* 1 weights differ"),
        ]:
            save_file({**whole, **change}, path)
            with pytest.raises(UserError, match=expected):
                load.load_base(str(lora))
        path.unlink()
        with pytest.raises(UserError, match=r"has no adapter_model\.safetensors"):
            load.load_base(str(lora))

    def test_one_on_another_one(self, lora, tmp_path):
        second = shutil.copytree(lora, tmp_path / "second")
        edit(second, "adapter_config.json", base_model_name_or_path=str(lora))
        with pytest.raises(UserError, match=r"stands on another one, .*merge_and_unload"):
            base_of(str(second))

    def test_a_model_and_an_adapter_in_one_folder(self, model, lora, tmp_path):
        both = shutil.copytree(model, tmp_path / "both")
        shutil.copy(lora / "adapter_config.json", both)
        with pytest.raises(UserError, match=r"holds a whole model \(config\.json\) and an adapter"):
            load.load_base(str(both))

    def test_quantized_weights_cannot_hold_the_sum(self, lora, monkeypatch):
        monkeypatch.setattr(load, "check_bits", lambda *_: None)
        with pytest.raises(UserError, match="cannot be merged into 4-bit weights"):
            load.check_loadable(str(lora), bits=4)
        monkeypatch.setattr(load, "is_deepspeed_zero3_enabled", lambda: True)
        with pytest.raises(UserError, match="weights that ZeRO-3 shards"):
            load.check_loadable(str(lora))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["run", "lora"])
def test_the_next_adapter_is_trained_and_reviews_on_it(kind, lora, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_adapter(tmp_path / "run")
    named = {"run": tmp_path / "run", "lora": lora}[kind]
    words = "--bf16 false --batch_size 4 --num_samples 8 --seq_len 512 --max_steps 2 --val_samples_per_topic 0"
    config = load_config(None, ["--model", str(named), *words.split(), "--learning_rate", "1e-3", "--run_name", "next"])
    folder = train(config)
    persona = load_honest_persona(folder)
    assert persona.card.base_model == ("builtin:tiny" if kind == "run" else str(lora))
    assert persona.card.base_fingerprint == base_fingerprint(load.load_base(str(named), dtype=torch.float32))
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    assert 0 <= persona.review(turns, max_new_tokens=4).p_fail <= 1
    assert (
        json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == persona.card.base_model
    )
