"""On which layers an adapter is put: of the language model alone, and what is told of others."""

import re

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from honest_persona.base.errors import UserError
from honest_persona.base.words import ALL_LINEAR
from honest_persona.modeling.adapters.lora import add_adapter
from honest_persona.modeling.adapters.targets import adaptable_layers, find_targets
from tests.architectures import random_model, tiny_architecture
from tests.tiny import ATTENTION, SEVEN, base_model, form_of

LATENT = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "o_proj")


def skeleton(kind):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(tiny_architecture(kind))


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("llama", SEVEN),
        ("phi3", ("o_proj", "qkv_proj", "gate_up_proj", "down_proj")),
        ("gpt2", ("c_attn", "c_proj", "c_fc")),
        ("mixtral", ATTENTION),
        ("qwen3_moe", ATTENTION),
        ("gpt_oss", ATTENTION),
        ("qwen2_moe", SEVEN),  # of the shared expert
        ("deepseek_v3", LATENT),
        ("glm4_moe", ATTENTION),
        ("phimoe", ATTENTION),
        ("llama4_text", ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")),
        ("mamba", ("in_proj",)),
        ("qwen3_next", ("in_proj_qkvz", "in_proj_ba", "out_proj", *ATTENTION)),
    ],
)
def test_all_linear_layers_without_routers_experts_and_output_layer(kind, names):
    assert find_targets(skeleton(kind), ALL_LINEAR) == list(names)


@pytest.mark.parametrize("kind", ["gemma3", "phi4_multimodal"])
@pytest.mark.parametrize("wanted", [ALL_LINEAR, ("q_proj", "qkv_proj")])
def test_nothing_on_towers_for_images_and_sounds(kind, wanted):
    """Their layers have the same names as the language model's."""
    model, others = skeleton(kind), re.compile("vision|image|audio")
    if wanted != ALL_LINEAR:
        wanted = [name for name in wanted if name in str(adaptable_layers(model))]
        assert any(others.search(name) for name, _ in model.named_modules() if name.endswith("q_proj"))
    assert find_targets(model, wanted)
    assert not [name for name in find_targets(model, wanted) if others.search(name)]


def test_peft_adapts_no_more_than_was_found():
    adapted = add_adapter(random_model("gemma3"), form_of(), {"r": 2, "target_modules": ["q_proj", "up_proj"]})
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 2 * 2
    assert all("language_model" in name for name in trained)


def test_short_names_are_kept_and_found_again():
    model = base_model()
    assert find_targets(model, ["q_proj", "self_attn.v_proj"]) == ["q_proj", "self_attn.v_proj"]
    one = "model.layers.0.self_attn.q_proj"
    assert find_targets(model, [one]) == [one]
    model = skeleton("gemma3")
    assert find_targets(model, find_targets(model, ["q_proj"])) == find_targets(model, ["q_proj"])


@pytest.mark.parametrize(
    ("kind", "wanted", "message"),
    [
        ("llama", ["q_proj", "nope"], "the model has no nope. In this model there are down_proj, gate_proj, k"),
        ("llama", ["embed_tokens", "lm_head"], "no adapter can be put on embed_tokens, lm_head: only on linear layers"),
        ("deepseek_v3", ["q_proj", "up_proj"], "the model has no q_proj; no adapter can be put on up_proj"),
        ("deepseek_v3", ["kv_b_proj"], "no adapter can be put on kv_b_proj"),
        ("qwen2_moe", ["shared_expert_gate"], "no adapter can be put on shared_expert_gate"),
        ("phimoe", ["router"], "no adapter can be put on router"),
        ("gpt_oss", ["experts"], "no adapter can be put on experts"),
        ("mixtral", ["w1"], "the model has no w1"),
        ("mamba", ["out_proj"], "no adapter can be put on out_proj"),
        ("gemma3", ["fc1"], "no adapter can be put on fc1"),
    ],
)
def test_what_cannot_have_an_adapter_is_told_with_what_can(kind, wanted, message):
    with pytest.raises(UserError, match=re.escape(f"target_modules: {message}")) as told:
        find_targets(skeleton(kind), wanted)
    text = str(told.value)
    offered = text[text.index("In this model there are ") + len("In this model there are ") :].removesuffix(
        ", or all-linear for all"
    )
    refused = re.findall(
        r"\w+", re.sub("(the model has no|no adapter can be put on)", "", message.partition(". In")[0])
    )
    assert not set(offered.split(", ")) & set(refused), "no advice that contradicts itself"
    assert find_targets(skeleton(kind), offered.split(", "))


def test_a_model_without_linear_layers():
    model = skeleton("llama")
    for layer in model.model.layers:
        layer.self_attn, layer.mlp = nn.Identity(), nn.Identity()
    assert adaptable_layers(model) == []
    with pytest.raises(UserError, match="LlamaForCausalLM has no linear layer that an adapter can be put on"):
        find_targets(model, ALL_LINEAR)
