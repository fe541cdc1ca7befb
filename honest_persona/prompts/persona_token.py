"""Chooses the persona token's id: the model has an embedding for it, and no text encodes to it."""

import re
from collections.abc import Collection

from transformers import PreTrainedTokenizerBase

from honest_persona.base.errors import UserError
from honest_persona.prompts.chat_format import control_ids

_RESERVED = re.compile(r"reserved|unused|buffer|extra_id|dummy|placeholder|persona", re.IGNORECASE)

_MEANINGS = (
    # inputs that are no text: a model may put an image's or a sound's features where the id stands
    "image img vision visual video audio sound speech voice music pixel patch frame crop tile ocr box quad point object"
    " ref loc seg boi eoi boa eoa bov eov",
    # turns and roles: a template may put their names together, as '<|' + role + '|>'
    "user human assistant model system sys developer bot agent role turn header message channel im inst chat prompt",
    # tools and reasoning
    "tool function call python ipython code_interpreter observation environment response result arg plugin action"
    " execute search json think thought nothink reason answer constrain refusal",
    # beginnings and ends, which may end a generation
    "begin end start return stop eot eom eos eod eop bos sop s$",
    # other kinds of training
    "mask smask gmask pad\\b cls sep\\b unk translate transcri language timestamp",
)
_MEANS_SOMETHING = re.compile(rf"\b(?:{'|'.join(' '.join(_MEANINGS).split())})")
"""Beginnings of words in names of special tokens that call for something in some model."""

_SOURCE_CODE = re.compile(
    r"^(?:repo ?name|file ?name|file sep|new file|gh stars|issue|jupyter|commit|empty output|fim|code prefix"
    r"|code middle|code suffix|prefix|middle|suffix)"
)
"""First words in names of special tokens that mark source code in pre-training, such as `<file_sep>`."""


def resolve_persona_token(
    tokenizer: PreTrainedTokenizerBase,
    embedding_rows: int,
    requested: int | None = None,
    in_use: Collection[int] = (),
) -> int:
    """The persona token's id: the requested one if it is safe, else the first safe one.

    Safe ids are, in this order: a reserved special token that the chat template does not use; a spare row of the
    embedding matrix beyond the tokenizer's last id; a reserved added token that is not marked special; a special token
    that has no use in conversations (`unused_ids`). `TokenFormat.encode_text` keeps all of them out of encoded text.

    Args:
        embedding_rows: number of rows of the model's input embedding.
        in_use: ids that the model's config gives a meaning. They are not chosen from `unused_ids`.

    Raises:
        UserError: the requested id is not safe, or there is no safe id.
    """
    reserved = reserved_ids(tokenizer)
    taken = set(tokenizer.get_vocab().values())
    spare = [i for i in range(len(tokenizer), embedding_rows) if i not in taken]
    unused = [i for i in unused_ids(tokenizer) if i not in in_use]
    if requested is None:
        special = (i for i in reserved if tokenizer.added_tokens_decoder[i].special)
        candidates = [i for i in (*special, *spare, *reserved, *unused) if i < embedding_rows]
        if not candidates:
            raise UserError(
                f"sp_token_id: the tokenizer {tokenizer.name_or_path!r} has no special token to spare (a reserved one, "
                "or one that conversations do not use), and the model has no spare embedding row. Set "
                "add_sp_token: false: then the intervention alone calls the honest persona"
            )
        return candidates[0]
    if not 0 <= requested < embedding_rows:
        raise UserError(f"sp_token_id: {requested} is outside the model's {embedding_rows} embedding rows")
    if requested not in {*spare, *reserved, *unused}:
        shown = tokenizer.convert_ids_to_tokens(requested)
        safe = [i for i in dict.fromkeys((*sorted({*reserved, *spare}), *unused)) if i < embedding_rows][:5]
        raise UserError(
            f"sp_token_id: {requested} is {shown!r}, a token that text or the chat template can produce, or that means "
            f"something to the model; use a reserved token or a spare row{f', for example {safe}' if safe else ''}, or "
            "leave it out"
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


def unused_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Special tokens without a use in conversations, though not named as reserved.

    Neither the chat template nor a role of the tokenizer uses them, and their names speak of no image, sound, turn,
    tool, reasoning, beginning or end. Tokens of source code in pre-training (`<repo_name>`, `<fim_prefix>`) come last,
    the rest in the order of ids.
    """
    template = str(tokenizer.chat_template or "")
    roles = set(tokenizer.special_tokens_map.values())
    plain, code = [], []
    for index, token in sorted(tokenizer.added_tokens_decoder.items()):
        used = not token.special or token.content in roles or token.content in template
        if used or _RESERVED.search(token.content):
            continue
        words = " ".join(re.findall(r"[^\W_]+", token.content.lower().replace("\u2581", " ")))
        if _SOURCE_CODE.search(words):
            code.append(index)
        elif not _MEANS_SOMETHING.search(words):
            plain.append(index)
    return plain + code


def forbidden_in_text(tokenizer: PreTrainedTokenizerBase, persona_token_id: int | None) -> frozenset[int]:
    """Ids that no conversation text may encode to: the control tokens and the persona token."""
    return control_ids(tokenizer) | ({persona_token_id} if persona_token_id is not None else frozenset())
