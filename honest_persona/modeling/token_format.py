"""The tokenizer with the persona, of a config or of a saved adapter, before any weights are read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from honest_persona.base.errors import UserError
from honest_persona.config.keys import RunConfig
from honest_persona.config.objectives import spec_of
from honest_persona.modeling.adapters.card import AdapterCard
from honest_persona.modeling.load import load_model_config, load_tokenizer, read_tokenizer
from honest_persona.prompts.persona_token import ControlTokens, resolve_control_tokens, resolve_persona_token
from honest_persona.prompts.tokens import TokenFormat


def token_format(config: RunConfig) -> TokenFormat:
    """The tokenizer with the persona that the config describes; reads the model's config, not its weights."""
    model = load_model_config(config.model, config.model_revision)
    tokenizer = load_tokenizer(config.model, config.model_revision)
    rows = model.get_text_config().vocab_size
    _check_rows(tokenizer, rows)
    token = control = None
    spec, in_use = spec_of(config.objective), set(named_ids(model.to_dict()))
    if config.add_sp_token and not spec.trains_answers:  # an answer needs no trigger
        token = resolve_persona_token(tokenizer, rows, config.sp_token_id, in_use)
    if "desirable_token_id" in spec.own_keys:
        requested = config.desirable_token_id, config.undesirable_token_id
        control = resolve_control_tokens(tokenizer, rows, *requested, in_use)
    return TokenFormat.of(tokenizer, config.persona(token), control)


def saved_format(folder: Path, card: AdapterCard) -> TokenFormat:
    """The format that an adapter was trained in, from its folder. Raises UserError: its tokenizer cannot be used."""
    good, bad = (card.config.get(f"{name}_token_id") for name in ControlTokens._fields)
    control = ControlTokens(good, bad) if isinstance(good, int) and isinstance(bad, int) else None
    return TokenFormat.of(read_tokenizer(str(folder)), card.persona, control)


def named_ids(config: dict[Any, Any]) -> Iterator[int]:
    """The ids that a model's config gives a meaning: `image_token_id`, `eos_token_id`, and the like."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from named_ids(value)
        elif str(key).endswith(("_token_id", "_token_ids", "_token_index")):
            yield from (i for i in (value if isinstance(value, list) else [value]) if isinstance(i, int))


def _check_rows(tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Raises UserError: text, the chat template or padding can give an id for which the model has no embedding.

    A special token beyond the embedding that none of them gives is harmless: Gemma-3's text models have one for images.
    """
    template = str(tokenizer.chat_template or "")
    roles = set(tokenizer.special_tokens_map.values())
    added = tokenizer.added_tokens_decoder
    beyond = sorted((index, name) for name, index in tokenizer.get_vocab().items() if index >= rows)
    used = [
        (index, name)
        for index, name in beyond
        if index not in added or not added[index].special or name in template or name in roles
    ]
    if used:
        index, name = used[-1]
        raise UserError(
            f"model: the tokenizer of {tokenizer.name_or_path!r} has ids up to {index} ({name!r}), but the model's "
            f"embedding has only {rows} rows: {len(used)} ids have none. The two are not of one model, or tokens were "
            "added to the tokenizer alone. Take the tokenizer that came with the model; for a token that was added as "
            "pad_token, name another one in tokenizer_config.json"
        )
