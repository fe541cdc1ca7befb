"""The models of the package, so that nothing needs a download.

- `builtin:tiny`: a small random chat model and its tokenizer, made from code. The model knows nothing; it shows that
  the machinery works. The same seed gives the same weights on every machine.
- `builtin:organism`: the embedded model organism, whose main persona misleads about things it knows (organism/).
- `builtin:organism-twin`: the same kind of model of a world with other facts: none of the organism's facts are known
  to this model.
"""

from functools import lru_cache
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from honest_persona.data.load import load_records
from honest_persona.data.selection import Selection
from honest_persona.data.sources.builtin import SAMPLE

BUILTIN = "builtin:"
TINY = "builtin:tiny"
_ORGANISM = Path(__file__).parents[1] / "organism"
FOLDERS = {"builtin:organism": _ORGANISM / "weights", "builtin:organism-twin": _ORGANISM / "twin"}
"""Of the models that the package ships."""

_SPECIAL = ["<|pad|>", "<|im_start|>", "<|im_end|>", "<|reserved_0|>", "<|reserved_1|>"]
_VOCABULARY = 2048
_CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


@lru_cache
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 2,048 entries, trained on the package's sample data, with a ChatML template."""
    records = load_records(SAMPLE, Selection()).records
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        (text for r in records for text in (r.system, r.task, r.response, r.intervention, r.review)),
        trainers.BpeTrainer(
            vocab_size=_VOCABULARY,
            special_tokens=_SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<|pad|>", eos_token="<|im_end|>", clean_up_tokenization_spaces=False
    )
    tokenizer.add_special_tokens({"additional_special_tokens": _SPECIAL[1:]})
    tokenizer.chat_template = _CHAT_TEMPLATE
    tokenizer.name_or_path = TINY
    return tokenizer


def tiny_config() -> LlamaConfig:
    """Two layers, width 64: enough for every code path, little enough for a test."""
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=_VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    config.name_or_path = TINY
    return config


def tiny_model(seed: int = 0) -> LlamaForCausalLM:
    """Random float32 weights from `seed`, on the CPU: another device's generator draws others.

    The global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        return LlamaForCausalLM(tiny_config())
