"""Models in GGUF, converted: the same weights, tokenizer and config; what would become another model is refused."""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from transformers.integrations import deepspeed

from honest_persona.base.errors import UserError
from honest_persona.modeling import load
from honest_persona.modeling.builtin import tiny_model, tiny_tokenizer
from honest_persona.modeling.gguf.cache import VARIABLE
from honest_persona.modeling.gguf.header import read_header
from honest_persona.modeling.gguf.tokenizer import read_tokenizer
from honest_persona.prompts.persona_token import resolve_persona_token
from tests.modeling.gguf.written import set_value, small_model, write_gguf


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))


def rounded(model):
    return {name: weight.bfloat16().float() for name, weight in model.state_dict().items()}


def test_a_file_is_a_model(tmp_path, capsys):
    path = write_gguf(tmp_path / "tiny.gguf", tiny_model())
    model, tokenizer = load.get_model(str(path), dtype=torch.float32)
    expected = rounded(tiny_model())
    assert all(torch.equal(weight, expected[name]) for name, weight in model.state_dict().items())
    assert len(model.state_dict()) == len(expected)
    assert model.config.name_or_path == tokenizer.name_or_path == str(path)
    assert tokenizer.get_vocab() == tiny_tokenizer().get_vocab(), "transformers adds <|endoftext|> behind the last id"
    assert tokenizer.chat_template == tiny_tokenizer().chat_template
    assert tokenizer.special_tokens_map == {"eos_token": "<|im_end|>", "pad_token": "<|pad|>"}
    text = "In 1999\n\n12  apples, ünï日本. <|im_end|>"
    assert tokenizer(text).input_ids == tiny_tokenizer()(text).input_ids
    token = resolve_persona_token(tokenizer, model.config.vocab_size)
    assert tokenizer.convert_ids_to_tokens(token) == "<|reserved_0|>"
    said = capsys.readouterr().err
    assert said.count("\n") == 1, "no bars and no warnings of libraries"
    assert "converted to safetensors once" in said


def test_quantized_weights_are_unpacked(tmp_path):
    path = write_gguf(tmp_path / "q8.gguf", small_model(), kind=GGMLQuantizationType.Q8_0)
    found = load.load_base(str(path), dtype=torch.float32).state_dict()
    name = "model.layers.1.mlp.up_proj.weight"
    expected = small_model().state_dict()[name]
    assert not torch.equal(found[name], expected.bfloat16().float())
    assert torch.allclose(found[name], expected, atol=expected.abs().max().item() / 100)


def test_in_a_run_under_zero3(tmp_path):
    """Weights that are sharded while they are read cannot be saved: the conversion reads them whole."""

    class Zero3:
        @staticmethod
        def is_zero3():
            return True

    path, settings = write_gguf(tmp_path / "tiny.gguf"), Zero3()
    deepspeed.set_hf_deepspeed_config(settings)
    try:
        load.load_tokenizer(str(path))
        assert deepspeed.is_deepspeed_zero3_enabled()
    finally:
        deepspeed.unset_hf_deepspeed_config()
    expected = rounded(small_model())
    found = load.load_base(str(path), dtype=torch.float32).state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


@pytest.mark.parametrize(
    ("rule", "pieces", "note"),
    [
        ("smollm", ["a", "ĊĊ", "1", "2"], ""),
        ("gpt-2", ["a", "Ċ", "Ċ", "12"], ""),
        ("of-next-year", ["a", "Ċ", "Ċ", "12"], "cuts text into pieces by a rule that is not known here"),
    ],
)
def test_digits_are_cut_as_in_training(tmp_path, capsys, rule, pieces, note):
    path = write_gguf(tmp_path / "tiny.gguf", add=set_value("tokenizer.ggml.pre", rule))
    tokenizer = read_tokenizer(read_header(path, "m"), "m")
    cut = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a\n\n12")
    assert [piece for piece, _ in cut] == pieces
    said = capsys.readouterr().err
    assert note in said
    assert bool(said) == bool(note)


def ones(name, *shape):
    return lambda writer: writer.add_tensor(name, np.ones(shape, dtype=np.float32))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"without": "blk.1.ffn_up"}, r"lacks 1 weights, the first is model\.layers\.1\.mlp\.up_proj\.weight"),
        (
            {"add": ones("blk.0.attn_v.bias", 32)},
            r"holds [\d,]+ numbers, and .* reads only in part; take the",
        ),
    ],
)
def test_a_model_that_is_read_in_part_is_refused(tmp_path, options, expected):
    path = write_gguf(tmp_path / "tiny.gguf", **options)
    with pytest.raises(UserError, match=expected):
        load.load_tokenizer(str(path))
    assert not [file for file in (tmp_path / "cache" / "models").rglob("*") if file.is_file()], "nothing half-written"


def test_layers_that_only_draft_tokens_are_left_out(tmp_path, capsys):
    def add(writer):
        ones("blk.2.attn_norm.weight", 64)(writer)
        writer.add_sliding_window(16)

    load.load_base(str(write_gguf(tmp_path / "tiny.gguf", add=add)))
    assert "does not read these values" in capsys.readouterr().err


def test_what_transformers_says_of_a_file_is_told(tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf", add=set_value("tokenizer.ggml.model", "plamo2"))
    with pytest.raises(UserError, match=r"cannot be converted: .*'plamo2'.* take the model's repository") as caught:
        load.load_tokenizer(str(path))
    assert str(path) in str(caught.value)


def test_scaled_positions_of_llama_3(tmp_path):
    """The divisors as llama.cpp computes them, against what transformers reads from the config that is written."""
    factor, low, high, original, theta = 8.0, 1.0, 4.0, 8192, 10000.0
    divisors = []
    for i in range(8):  # heads of 16
        wavelength = 2 * np.pi * theta ** (i / 8)
        smooth = (original / wavelength - low) / (high - low)
        inside = 1 / ((1 - smooth) / factor + smooth)
        divisors.append(1 if wavelength < original / high else factor if wavelength > original / low else inside)
    assert 1 < divisors[6] < 8
    assert divisors[-1] == 8

    def add(writer):
        writer.add_tensor("rope_freqs.weight", np.array(divisors, dtype=np.float32))

    model = load.load_base(str(write_gguf(tmp_path / "tiny.gguf", add=add)), dtype=torch.float32)
    expected = torch.tensor([theta ** (-i / 8) / divisor for i, divisor in enumerate(divisors)])
    assert torch.allclose(model.model.rotary_emb.inv_freq, expected, rtol=1e-5)
    assert model.config.rope_parameters["rope_type"] == "llama3"


def test_other_scaled_positions_are_refused(tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf", add=ones("rope_freqs.weight", 8))
    load.load_tokenizer(str(path))
    path = write_gguf(
        tmp_path / "other.gguf", add=lambda w: w.add_tensor("rope_freqs.weight", np.arange(1.0, 9.0, dtype=np.float32))
    )
    with pytest.raises(UserError, match=r"scales its positions \(rope_freqs\.weight\) in another way than Llama 3;"):
        load.load_tokenizer(str(path))
