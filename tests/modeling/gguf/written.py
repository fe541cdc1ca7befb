"""A tiny model written as GGUF, as llama.cpp's converter writes it: from a model, or with some of it changed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFEndian, GGUFWriter, TokenType, get_tensor_name_map
from gguf.quants import quantize
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from honest_persona.modeling.builtin import tiny_model, tiny_tokenizer

Change = Callable[[GGUFWriter], object]
_FEW_TOKENS = 300
"""Five special ones, all bytes, and some merges: a file of them is read quickly."""


def small_model() -> PreTrainedModel:
    """`builtin:tiny` with fewer tokens."""
    model: Any = tiny_model()
    model.resize_token_embeddings(_FEW_TOKENS)
    return model


def write_gguf(
    path: Path,
    model: PreTrainedModel | None = None,
    architecture: str = "llama",
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
    tokenizer: bool = True,
    template: bool = True,
    without: str | None = None,
    endianess: GGUFEndian = GGUFEndian.LITTLE,
    add: Change = lambda _: None,
) -> Path:
    """Write a model of Llama's shape.

    Args:
        model: None takes `small_model`. Its tokenizer is that of `builtin:tiny`, cut to the model's vocabulary.
        kind: of the matrices; vectors are always F32.
        without: leaves out tensors whose names hold this text.
        add: writes more before the file is closed.
    """
    model = model or small_model()
    config = model.config
    writer = GGUFWriter(path, architecture, endianess=endianess)
    writer.add_type("model")
    writer.add_name("Tiny")
    writer.add_license("mit")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    if tokenizer:
        _add_tokenizer(writer, tiny_tokenizer(), config.vocab_size)
    if template:
        writer.add_chat_template(str(tiny_tokenizer().chat_template))
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        to = names.get_name(name, try_suffixes=(".weight",))
        if to is None or (without is not None and without in to):
            continue
        raw = _permuted(to, weight.float(), config).numpy()
        as_is = raw.ndim == 1 or kind == GGMLQuantizationType.F32
        writer.add_tensor(to, raw if as_is else quantize(raw, kind), raw_dtype=None if as_is else kind)
    add(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def set_value(key: str, value: object) -> Change:
    """Changes a value that was written, or, where it is None, leaves it out."""

    def change(writer: GGUFWriter) -> None:
        if value is None:
            del writer.kv_data[0][key]
        else:
            writer.kv_data[0][key].value = value

    return change


def _add_tokenizer(writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, n: int) -> None:
    content: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    special = {token["id"] for token in content["added_tokens"]}
    vocabulary = sorted(content["model"]["vocab"].items(), key=lambda entry: entry[1])[:n]
    kept = {token for token, _ in vocabulary}
    merges = [merge for merge in content["model"]["merges"] if "".join(merge) in kept]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([token for token, _ in vocabulary])
    writer.add_token_types([TokenType.CONTROL if i in special else TokenType.NORMAL for _, i in vocabulary])
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)


def _permuted(name: str, weight: torch.Tensor, config: Any) -> torch.Tensor:
    """llama.cpp turns pairs of neighbours, where transformers turns the halves of a head."""
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for part, n in heads.items():
        if f".{part}.weight" in name:
            return weight.reshape(n, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape).contiguous()
    return weight
