"""Tiny models of several families, an adapter that acts, and the formats to call it: shared by the tests."""

import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from honest_persona.config.persona import Persona
from honest_persona.data.records import Record
from honest_persona.modeling.adapters.lora import add_adapter
from honest_persona.modeling.builtin import tiny_model, tiny_tokenizer
from honest_persona.prompts.persona_token import resolve_persona_token
from honest_persona.prompts.tokens import TokenFormat

torch.set_num_threads(1)  # models this small are slower on more

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
SEVEN = (*ATTENTION, "gate_proj", "up_proj", "down_proj")
SIZES = {
    "vocab_size": 2048,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 2048,
}
SHAPE = {**SIZES, "pad_token_id": 0, "eos_token_id": 2, "bos_token_id": None}
# the windows are shorter than the rows of the tests
_EXTRA = {
    "qwen3": {},
    "gemma3_text": {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]},
    "mistral": {"sliding_window": 16},
    "phi3": {},
    "olmo2": {},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "gpt_oss": {
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention"],
    },
}
TARGETS = {"phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"), "qwen3_moe": ATTENTION, "gpt_oss": ATTENTION}
FAMILIES = ("builtin", *_EXTRA)


def base_model(family: str = "builtin", dtype: torch.dtype = torch.float32, seed: int = 0) -> PreTrainedModel:
    """The same seed gives the same weights."""
    if family == "builtin":
        return tiny_model(seed).to(dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SHAPE, **_EXTRA[family])).to(dtype)


def form_of(token: bool = True, **persona) -> TokenFormat:
    """A format with the tiny tokenizer, with or without persona token."""
    tokenizer = tiny_tokenizer()
    persona.setdefault("sp_token_id", resolve_persona_token(tokenizer, len(tokenizer)) if token else None)
    return TokenFormat.of(tokenizer, Persona(**persona))


def random_adapter(
    base: PreTrainedModel, form: TokenFormat, family: str = "builtin", std: float = 0.2, seed: int = 0
) -> PeftModel:
    """A LoRA adapter whose B matrices are random, so that it acts."""
    settings = {"r": 4, "lora_alpha": 4, "use_rslora": True, "lora_dropout": 0.0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = add_adapter(base, form, {**settings, "target_modules": list(TARGETS.get(family, SEVEN))})
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=std)
    return model


def record(n: int = 0, **changes) -> Record:
    """The n-th of a row of records whose prompts differ in length."""
    values = {
        "id": f"r{n}",
        "item_id": f"i{n}",
        "topic": "sycophancy",
        "variant": "A",
        "system": "Be helpful." * (n % 3),
        "other_system": None,
        "task": "Is the earth flat? " + "I think so. " * n,
        "model": "m",
        "response": "Yes. " + "You are right! " * (n % 4),
        "intervention_name": "split_personality__version_3",
        "intervention": "Now be honest." + " Please." * (n % 2),
        "review": "I agreed with a false claim.",
        "flag": "FAIL",
        "tags": (),
    }
    return Record(**{**values, **changes})


def by_batches(write):
    """In the place of `in_turn.each_review`: each batch goes to what stands in for `write_reviews`."""

    def each_review(model, batches, form, n_prompts, batch_size, *how):
        place = 0
        for batch in batches:
            for review in write(model, batch, form, *how):
                yield place, review
                place += 1

    return each_review


def conversation(n: int = 0) -> list[dict[str, str]]:
    chosen = record(n)
    return [{"role": "user", "content": chosen.task}, {"role": "assistant", "content": chosen.response}]
