"""The base model and its tokenizer, from the Hub, a folder or the package."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from honest_persona.errors import UserError
from honest_persona.modeling.builtin import TINY, check_builtin, tiny_config, tiny_model, tiny_tokenizer


def get_model(
    model: str, revision: str | None = None, dtype: torch.dtype = torch.bfloat16, attn_implementation: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base model, without adapter, and its tokenizer.

    Raises:
        UserError: there is no such model, or it is no chat model that generates text.
    """
    return load_base(model, revision, dtype, attn_implementation), load_tokenizer(model, revision)


def load_tokenizer(model: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Raises UserError: no such model, or it brings no tokenizer."""
    check_builtin(model)
    if model == TINY:
        return tiny_tokenizer()
    try:
        return AutoTokenizer.from_pretrained(model, revision=revision)
    except (OSError, ValueError) as error:
        raise _not_loaded("tokenizer", model, error) from error


def load_base(
    model: str, revision: str | None = None, dtype: torch.dtype = torch.bfloat16, attn_implementation: str | None = None
) -> PreTrainedModel:
    """Under ZeRO-3 the weights are sharded as they are read. Raises UserError: no such model, or not a causal LM."""
    check_builtin(model)
    if model == TINY:
        return tiny_model().to(dtype)
    try:
        return AutoModelForCausalLM.from_pretrained(
            model, revision=revision, dtype=dtype, attn_implementation=attn_implementation
        )
    except (OSError, ValueError) as error:
        raise _not_loaded("model", model, error) from error


def embedding_rows(model: str, revision: str | None = None) -> int:
    """Rows of the model's input embedding, read from its config: no weights are loaded."""
    check_builtin(model)
    if model == TINY:
        return tiny_config().vocab_size
    try:
        config = AutoConfig.from_pretrained(model, revision=revision)
    except (OSError, ValueError) as error:
        raise _not_loaded("config", model, error) from error
    return config.get_text_config().vocab_size


def _not_loaded(part: str, model: str, error: Exception) -> UserError:
    first_line = str(error).strip().splitlines()[0]
    return UserError(
        f"model: the {part} of {model!r} cannot be loaded: {first_line}. "
        "Check the name (a Hub id or a folder), model_revision, and HF_TOKEN in env.json for a gated model"
    )
