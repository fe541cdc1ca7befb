"""A tiny random model of every architecture that transformers can generate text with."""

import re
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from honest_persona.modeling.load import auto_class
from honest_persona.modeling.unsupported import WITH_IMAGES
from tests.tiny import SIZES

ARCHITECTURES = tuple(sorted({*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *WITH_IMAGES}))

_TEXT = {
    **SIZES,
    # shorter than the rows of the tests
    "sliding_window": 16,
    # the names of older architectures
    "embedding_size": 32,
    "n_embd": 32,
    "d_model": 32,
    "ffn_dim": 64,
    "ffn_hidden_size": 64,
    "n_layer": 2,
    "n_layers": 2,
    "num_layers": 2,
    "n_head": 4,
    "n_heads": 4,
    "n_positions": 2048,
    "n_ctx": 2048,
    "max_seq_len": 2048,
    "rotary_dim": 8,
    # mixtures of experts
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "num_experts_per_token": 2,
    "moe_topk": 2,
    "moe_k": 2,
    "n_group": 1,
    "topk_group": 1,
    "num_expert_group": 1,
    # latent attention, and attention that chooses its tokens
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "qk_head_dim": 16,
    "v_head_dim": 8,
    "index_n_heads": 2,
    "index_head_dim": 16,
    "index_topk": 2048,
    "vocab_size_per_layer_input": 2048,
    "hidden_size_per_layer_input": 8,
    "shared_intermediate_size": 32,
    # linear attention
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_head_dim": 8,
    "linear_num_heads": 4,
    "mamba_d_ssm": 64,
    "index_dim": 8,
}
"""Sizes by their names in a config; a name that a config does not have is left out."""
_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "depth": 1,
    "num_heads": 2,
    "embed_dim": 32,
    "out_hidden_size": 32,
    "projection_dim": 32,
    "num_layers": 1,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "d_model": 32,
    "encoder_ffn_dim": 32,
    "vision_output_dim": 32,
    "num_key_value_heads": 2,
}
_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 16}
_LINEAR = {"layer_types": ["linear_attention", "full_attention"]}
_WINDOW = {"layer_types": ["sliding_attention", "full_attention"]}
_SHARED = {
    "num_hidden_layers": 4,
    "layer_types": ["linear_attention", "hybrid"] * 2,
    "attention_hidden_size": 64,
    "attention_head_dim": 16,
    "num_key_value_heads": 4,
}
_THREE_ROPES = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
_CONV = {"layer_types": ["conv", "full_attention"]}
_OWN: dict[str, dict[str, Any]] = {
    "bailing_hybrid": _LINEAR,
    "bamba": {**_MAMBA, "attn_layer_indices": [1]},
    "cohere_compass_text": {
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in ("full_attention", "sliding_attention")
        }
    },
    "falcon_h1": _MAMBA,
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "gemma3_text": _WINDOW,
    "glm4v_moe_text": {"rope_parameters": {**_THREE_ROPES, "mrope_section": [1, 1, 0]}},
    "glm4v_text": {"rope_parameters": _THREE_ROPES},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_heads": 4, "window_size": 16},
    "gpt_oss": _WINDOW,
    "granitemoehybrid": {**_MAMBA, "layer_types": ["mamba", "attention"]},
    "granitemoeshared": {"shared_intermediate_size": 32},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8, "num_experts": 4, "moe_topk": 2},
    "jamba": {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": _LINEAR,
    "lfm2": _CONV,
    "lfm2_moe": _CONV,
    "lfm3": _CONV,
    "gemma3n_text": {"layer_types": ["sliding_attention", "full_attention"], "num_kv_shared_layers": 0},
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 16, "n_groups": 1},
    "minimax": _LINEAR,
    "ministral": {"head_dim": 8},
    "nemotron": {"num_key_value_heads": 2, "head_dim": 8},
    "olmo_hybrid": _LINEAR,
    "qwen2_5_vl_text": {"rope_parameters": _THREE_ROPES},
    "qwen2_vl_text": {"rope_parameters": _THREE_ROPES},
    "qwen3_5_moe_text": _LINEAR,
    "qwen3_5_text": _LINEAR,
    "qwen3_next": _LINEAR,
    "qwen4_exp_text": {
        "layer_types": ["linear_attention", "indexed_attention"],
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 2048,
        "indexer_compress_ratio": 4,
    },
    "recurrent_gemma": {"num_hidden_layers": 3},
    "zamba": {**_SHARED, "mamba_dt_rank": 2},
    "zamba2": {**_SHARED, "n_mamba_heads": 8, "mamba_ngroups": 1, "mamba_d_state": 16},
    "zaya": {"num_experts_per_tok": 1},
}
"""What an architecture wants beside the sizes."""

NOT_MADE = ("dots3_note", "zamba2")
"""Their configs depend on their full size."""


def tiny_architecture(kind: str) -> PreTrainedConfig:
    """The config of a tiny model.

    Args:
        kind: transformers' name for the architecture, its `model_type`.
    """
    defaults = CONFIG_MAPPING[kind]()
    values = _known(defaults, _TEXT)
    for name in getattr(defaults, "sub_configs", None) or ():
        if (part := getattr(defaults, name, None)) is not None:
            is_text = "text" in name
            own = {**_IDS, **_OWN.get(part.model_type, {})} if is_text else {}
            values[name] = {"model_type": part.model_type, **_known(part, _TEXT if is_text else _TOWER), **own}
    return AutoConfig.for_model(kind, **{**values, **_IDS, **_OWN.get(kind, {})})


def random_model(kind: str, seed: int = 0) -> PreTrainedModel:
    """A tiny model in float32; the same seed gives the same weights, and none is zero, as some are at first."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = tiny_architecture(kind)
        model = auto_class(config).from_config(config, dtype=torch.float32)
        for parameter in model.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
    return model


def _known(config: PreTrainedConfig, sizes: dict[str, Any]) -> dict[str, Any]:
    """Those sizes that a config has, and has not left open; no dropout."""
    values = config.to_dict()
    dropouts = {name: 0.0 for name in values if re.search("drop(out|$)|layerdrop", name) and values[name]}
    known = dropouts | {name: size for name, size in sizes.items() if values.get(name) is not None}
    if "kv_lora_rank" in known:  # latent attention has a key and a value for each head
        known["num_key_value_heads"] = known["num_attention_heads"]
    return known
