"""Models and tokenizers from the package and from a folder; what cannot be loaded is the user's to mend."""

import pytest
import torch
from safetensors.torch import load_file, save_file

import honest_persona.modeling.load as load
from honest_persona.base.errors import UserError
from honest_persona.base.number_format import NumberFormat
from honest_persona.modeling.builtin import tiny_tokenizer
from honest_persona.prompts.persona_token import resolve_persona_token
from tests.terminal import Terminal
from tests.tiny import base_model


@pytest.fixture
def folder(tmp_path):
    base_model("qwen3").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("shown", [False, True])
def test_a_library_call_shows_no_bar_and_a_short_load_none_ever(folder, monkeypatch, shown):
    monkeypatch.setenv("HONEST_PERSONA_PROGRESS", str(int(shown)))
    with Terminal() as terminal:
        load.load_base(str(folder))
    assert terminal.screen == ""


def test_the_builtin_model():
    model, tokenizer = load.get_model("builtin:tiny")
    assert tokenizer is tiny_tokenizer()
    assert load.load_model_config("builtin:tiny").vocab_size == model.get_input_embeddings().weight.shape[0]
    assert load.load_base("builtin:tiny", dtype=torch.float32).dtype == torch.float32
    token = resolve_persona_token(tokenizer, load.load_model_config("builtin:tiny").vocab_size)
    assert tokenizer.convert_ids_to_tokens(token) == "<|reserved_0|>"


def test_the_builtin_model_is_the_same_each_time_and_leaves_the_generator_alone():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = load.load_base("builtin:tiny").state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    second = load.load_base("builtin:tiny").state_dict()
    assert all(torch.equal(second[name], weight) for name, weight in first.items())


def test_a_folder(folder):
    model, tokenizer = load.get_model(str(folder), dtype=torch.float32, attn_implementation="eager")
    expected = base_model("qwen3").state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in model.state_dict().items())
    assert model.config._attn_implementation == "eager"
    assert tokenizer.get_vocab() == tiny_tokenizer().get_vocab()
    assert tokenizer.chat_template == tiny_tokenizer().chat_template
    assert load.load_model_config(str(folder)).vocab_size == 2048


@pytest.mark.parametrize("name", ["load_base", "load_tokenizer", "load_model_config"])
@pytest.mark.parametrize("model", ["nobody/has-this-model", "./nowhere", "builtin:big"])
def test_no_such_model(name, model):
    with pytest.raises(UserError, match=r"model: .*(is neither a folder here nor|it has builtin:tiny)"):
        getattr(load, name)(model)


def test_attention_that_is_planned_for_every_shape_is_off():
    torch.backends.cuda.enable_cudnn_sdp(True)
    load.load_base("builtin:tiny")
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()
    assert torch.backends.cuda.mem_efficient_sdp_enabled()


def test_an_attention_that_is_not_there(folder):
    with pytest.raises(UserError, match=r"model: the model of .*[Nn]onsense"):
        load.load_base(str(folder), attn_implementation="nonsense")


def test_a_checkpoint_that_lacks_weights_is_refused(folder):
    """Transformers fills what is missing with random numbers, and only prints a report."""
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lack 1 weights, the first is model\.norm\.weight"):
        load.load_base(str(folder))


@pytest.mark.parametrize("fast", [torch.bfloat16, torch.float32])
def test_without_a_dtype_the_fast_number_format_is_taken(monkeypatch, fast):
    monkeypatch.setattr(load, "fastest_format", lambda: NumberFormat(fast, "measured"))
    assert load.get_model("builtin:tiny")[0].dtype == fast
    assert load.get_model("builtin:tiny", dtype=torch.float16)[0].dtype == torch.float16
