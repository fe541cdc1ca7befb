"""Chooses the persona token and control tokens: the model has embeddings for their ids, and no text encodes to them."""

import re
from collections.abc import Collection
from typing import NamedTuple

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


class ControlTokens(NamedTuple):
    """Ids that stand in front of an answer and say whether it is desirable."""

    desirable: int
    undesirable: int


def resolve_persona_token(
    tokenizer: PreTrainedTokenizerBase,
    embedding_rows: int,
    requested: int | None = None,
    in_use: Collection[int] = (),
) -> int:
    """The persona token's id: the requested one if it is safe, else the first safe one (`safe_ids`).

    Args:
        embedding_rows: number of rows of the model's input embedding.
        in_use: ids that the model's config gives a meaning. They are not chosen from `unused_ids`.

    Raises:
        UserError: the requested id is not safe, or there is no safe id.
    """
    safe = safe_ids(tokenizer, embedding_rows, in_use)
    if requested is not None:
        _check_requested("sp_token_id", requested, tokenizer, embedding_rows, safe)
        return requested
    if not safe:
        raise UserError(
            f"sp_token_id: the tokenizer {tokenizer.name_or_path!r} has no special token to spare (a reserved one, "
            "or one that conversations do not use), and the model has no spare embedding row. Set "
            "add_sp_token: false: then the intervention alone calls the honest persona"
        )
    return safe[0]


def resolve_control_tokens(
    tokenizer: PreTrainedTokenizerBase,
    embedding_rows: int,
    desirable: int | None = None,
    undesirable: int | None = None,
    in_use: Collection[int] = (),
) -> ControlTokens:
    """The two control tokens of conditional SFT: the requested ones if they are safe, else the first safe ones.

    Args:
        embedding_rows, in_use: as of `resolve_persona_token`.

    Raises:
        UserError: a requested id is not safe, or there are not two safe ids.
    """
    safe = safe_ids(tokenizer, embedding_rows, in_use)
    given = {"desirable_token_id": desirable, "undesirable_token_id": undesirable}
    for key, requested in given.items():
        if requested is not None:
            _check_requested(key, requested, tokenizer, embedding_rows, safe)
    free = [i for i in safe if i not in given.values()]
    if len(free) < sum(requested is None for requested in given.values()):
        raise UserError(
            f"objective: csft needs two special tokens to spare (reserved ones, ones that conversations do not use, or "
            f"spare embedding rows), and the tokenizer {tokenizer.name_or_path!r} has {len(safe)}; use objective: kto"
        )
    return ControlTokens(*(free.pop(0) if requested is None else requested for requested in given.values()))


def safe_ids(tokenizer: PreTrainedTokenizerBase, embedding_rows: int, in_use: Collection[int] = ()) -> list[int]:
    """Ids that the model has an embedding for and that no text encodes to, the best first.

    These are, in this order: reserved special tokens that the chat template does not use; spare rows of the embedding
    matrix beyond the tokenizer's last id; reserved added tokens that are not marked special; special tokens that have
    no use in conversations (`unused_ids`). `TokenFormat.encode_text` keeps the chosen one out of encoded text.
    """
    reserved = reserved_ids(tokenizer)
    taken = set(tokenizer.get_vocab().values())
    special = (i for i in reserved if tokenizer.added_tokens_decoder[i].special)
    spare = (i for i in range(len(tokenizer), embedding_rows) if i not in taken)
    unused = (i for i in unused_ids(tokenizer) if i not in in_use)
    return [i for i in dict.fromkeys((*special, *spare, *reserved, *unused)) if i < embedding_rows]


def _check_requested(
    key: str, requested: int, tokenizer: PreTrainedTokenizerBase, embedding_rows: int, safe: list[int]
) -> None:
    """Raises UserError: the id is not one of the safe ones."""
    if not 0 <= requested < embedding_rows:
        raise UserError(f"{key}: {requested} is outside the model's {embedding_rows} embedding rows")
    if requested not in safe:
        shown = tokenizer.convert_ids_to_tokens(requested)
        raise UserError(
            f"{key}: {requested} is {shown!r}, a token that text or the chat template can produce, or that means "
            "something to the model; use a reserved token or a spare row"
            f"{f', for example {safe[:5]}' if safe else ''}, or leave it out"
        )


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


def forbidden_in_text(tokenizer: PreTrainedTokenizerBase, *own: int | None) -> frozenset[int]:
    """Ids that no conversation text may encode to: the template's control tokens, and those of `own` that are ids."""
    return control_ids(tokenizer) | {token for token in own if token is not None}
