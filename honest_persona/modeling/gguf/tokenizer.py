"""The tokenizer of a GGUF file, as transformers reads it, with what transformers gets wrong put right."""

from pathlib import Path

from tokenizers import pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from honest_persona.base import json_text
from honest_persona.base.console import tell
from honest_persona.modeling.gguf.header import Header

_SPLIT = "tokenizer.ggml.pre"
"""The name of the rule by which a byte-level tokenizer cuts text into pieces, before it merges bytes."""
_DIGITS_FIRST = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
"""Each digit is a piece; the rest is cut as GPT-2 does. So line ends before a number stay together."""
_AS_GPT2 = {"gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4", "roberta-bpe"}


def read_tokenizer(header: Header, model: str) -> PreTrainedTokenizerBase:
    """The tokenizer, which cuts text as it did in training.

    Args:
        model: what the user named.

    Raises:
        ValueError: it is of a kind that transformers does not read from GGUF.
    """
    tokenizer = AutoTokenizer.from_pretrained(
        str(header.path.parent), gguf_file=header.path.name, trust_remote_code=False
    )
    _split_as_trained(tokenizer, header, model)
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, header: Header, folder: Path) -> None:
    """Write its files, without tokens that the GGUF file does not have."""
    tokenizer.save_pretrained(folder)
    _drop_added(folder / "tokenizer.json", len(header.get("tokenizer.ggml.tokens")))


def _split_as_trained(tokenizer: PreTrainedTokenizerBase, header: Header, model: str) -> None:
    """Let the tokenizer cut text as it did in training. Transformers knows some rules, and takes GPT-2's for others."""
    name = header.get(_SPLIT)
    if header.get("tokenizer.ggml.model") != "gpt2" or name in _AS_GPT2 or name in GGUF_PRE_TOKENIZER_SPLITS:
        return
    if name in _DIGITS_FIRST:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        return
    tell(
        f"note: {model} cuts text into pieces by a rule that is not known here ({_SPLIT}: {name}). It is cut as GPT-2 "
        "does, which may differ for numbers, spaces and punctuation"
    )


def _drop_added(path: Path, n_tokens: int) -> None:
    """Remove the tokens that transformers adds behind the file's own: the model has no embedding for them."""
    content = json_text.loads(path.read_text(encoding="utf-8"))
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < n_tokens]
    path.write_text(json_text.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
