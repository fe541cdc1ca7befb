"""A config's tokenizer and persona, before any weights are read."""

from honest_persona.config.keys import RunConfig
from honest_persona.modeling.load import embedding_rows, load_tokenizer
from honest_persona.prompts.persona_token import resolve_persona_token
from honest_persona.prompts.tokens import TokenFormat


def token_format(config: RunConfig) -> TokenFormat:
    """The tokenizer with the persona that the config describes; reads the model's config, not its weights."""
    tokenizer = load_tokenizer(config.model, config.model_revision)
    token = None
    if config.add_sp_token:
        rows = embedding_rows(config.model, config.model_revision)
        token = resolve_persona_token(tokenizer, rows, config.sp_token_id)
    return TokenFormat.of(tokenizer, config.persona(token))
