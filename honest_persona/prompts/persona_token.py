"""Chooses the persona token's id: the model has an embedding for it, and no text encodes to it."""

import re

from transformers import PreTrainedTokenizerBase

from honest_persona.base.errors import UserError
from honest_persona.prompts.chat_format import control_ids

_RESERVED = re.compile(r"reserved|unused|buffer|extra_id|dummy|placeholder|persona", re.IGNORECASE)


def resolve_persona_token(tokenizer: PreTrainedTokenizerBase, embedding_rows: int, requested: int | None = None) -> int:
    """The persona token's id: the requested one if it is safe, else the first safe one.

    Safe ids are, in this order: a reserved special token that the chat template does not use; a spare row of the
    embedding matrix beyond the tokenizer's last id; a reserved added token that is not marked special.
    `TokenFormat.encode_text` keeps all of them out of encoded text.

    Args:
        embedding_rows: number of rows of the model's input embedding.

    Raises:
        UserError: the requested id is not safe, or there is no safe id.
    """
    reserved = reserved_ids(tokenizer)
    spare = range(len(tokenizer), embedding_rows)
    if requested is None:
        candidates = [*(i for i in reserved if tokenizer.added_tokens_decoder[i].special), *spare, *reserved]
        candidates = [i for i in candidates if i < embedding_rows]
        if not candidates:
            raise UserError(
                f"sp_token_id: the tokenizer {tokenizer.name_or_path!r} has no reserved token and the model no spare "
                "embedding row; use add_sp_token: false, or enlarge the model's embedding"
            )
        return candidates[0]
    if not 0 <= requested < embedding_rows:
        raise UserError(f"sp_token_id: {requested} is outside the model's {embedding_rows} embedding rows")
    if requested not in spare and requested not in reserved:
        shown = tokenizer.convert_ids_to_tokens(requested)
        safe = sorted({*reserved, *spare})[:5]
        raise UserError(
            f"sp_token_id: {requested} is {shown!r}, a token that text or the chat template can produce; "
            f"use a reserved token or a spare row{f', for example {safe}' if safe else ''}, or leave it out"
        )
    return requested


def reserved_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Added tokens named as reserved, that neither the chat template nor the tokenizer's own roles use. Ascending."""
    template = str(tokenizer.chat_template or "")
    in_use = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id}
    return sorted(
        index
        for index, token in tokenizer.added_tokens_decoder.items()
        if _RESERVED.search(token.content) and index not in in_use and token.content not in template
    )


def forbidden_in_text(tokenizer: PreTrainedTokenizerBase, persona_token_id: int | None) -> frozenset[int]:
    """Ids that no conversation text may encode to: the control tokens and the persona token."""
    return control_ids(tokenizer) | ({persona_token_id} if persona_token_id is not None else frozenset())
