"""A tokenizer for each chat template that TRL ships: one small byte-level BPE with the template's control tokens."""

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import pytest
import trl
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
FAMILIES = sorted(path.stem for path in TEMPLATES.glob("*.jinja"))
FEW = (
    "deepseek_r1_distill",
    "deepseekv3_training",
    "gemma",
    "gemma4_v5",
    "glm4moe",
    "gptoss",
    "lfm2_2_5",
    "llama3_1",
    "muse_glimmer",
    "nemotron_3_nano",
    "qwen2_5",
    "qwen3",
    "qwen3_5_think",
    "qwen3_8",
    "smolvlm",
)
"""One of each kind; for tests that take all families in `make long` alone."""

_CONTROL = re.compile(
    r"<[|｜][^<>\s'\"{}]{1,40}[|｜]>|</?(?:start_of_turn|end_of_turn|end_of_utterance|bos|eos|s|think)>"
    r"|<\|[a-z_\"]+>|<[a-z_]+\|>|<\|\"\|>|\[/?INST\]|\[gMASK\]|<sop>|</?tool_(?:call|response)>"
)
_TEXT = ["The quick brown fox jumps over the lazy dog.", "user assistant system model", " INTERVENTION: REVIEW: FLAG: "]


@lru_cache
def _backend() -> str:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(_TEXT, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False))
    return bpe.to_str()


def family_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """A fresh tokenizer with TRL's template `name`; `<|bos|>`, `<|eos|>` and one reserved token are its own."""
    template = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_backend()), bos_token="<|bos|>", eos_token="<|eos|>", pad_token="<|pad|>"
    )
    control = sorted({*_CONTROL.findall(template), "<|reserved_special_token_0|>"} - {"<|bos|>", "<|eos|>"})
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer.chat_template = template
    tokenizer.name_or_path = name
    return tokenizer


def few_or_long(families: Sequence[str] = FAMILIES) -> list:
    """The families; those that are not in `FEW` are marked long."""
    return [name if name in FEW else pytest.param(name, marks=pytest.mark.long) for name in families]
