"""The text that a chat template puts around each message, derived from the template itself.

The template is rendered once per sequence of roles with marker strings as contents; the text between the markers is
the scaffold. Real contents never pass through the template, so no text can change the scaffold (a `</think>` in an
answer, a forged end of turn), and the prompt of training and the prompt of generation are cut from one rendering.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any

from transformers import PreTrainedTokenizerBase

from honest_persona.base import json_text
from honest_persona.base.errors import UserError
from honest_persona.prompts.rendering import Exceeded, Refused, render

FIXED_DATE = (
    '{%- macro strftime_now(format) -%}{{- "2024-07-26" if format == "%Y-%m-%d" else "26 Jul 2024" -}}{%- endmacro -%}'
)
"""Stands before every template, so that a template with today's date gives the same prompt next week."""

_MARK = "zq{}qz"
_TEMPLATE_CHARS = 2**20
"""A hundred times the length of usual chat templates."""


@dataclass(frozen=True)
class Scaffold:
    """The template's text around the contents of one sequence of messages: before[0] content[0] before[1] ... tail."""

    before: tuple[str, ...]
    """The text in front of each content."""
    tail: str
    """The text after the last content."""
    strips: tuple[tuple[str, str], ...]
    """Per message: the white space that the template strips from the start and from the end of its content."""


@dataclass(frozen=True)
class ChatFormat:
    """Roles, scaffolds and end-of-turn tokens of one tokenizer's chat template."""

    tokenizer: PreTrainedTokenizerBase

    def __post_init__(self) -> None:
        if not self.tokenizer.chat_template:
            raise UserError(f"tokenizer {self.tokenizer.name_or_path!r} has no chat template; use a chat model")
        if not self.tokenizer.is_fast:
            raise UserError(
                f"tokenizer {self.tokenizer.name_or_path!r} is not a fast one (no offsets); convert it first"
            )

    @cached_property
    def has_system_role(self) -> bool:
        """Whether the template has a place for a system message."""
        return isinstance(self._derive(("system", "user", "assistant")), Scaffold)

    def scaffold(self, roles: Sequence[str]) -> Scaffold:
        """The scaffold of a sequence of roles.

        Raises:
            UserError: the template cannot show this sequence (roles that do not alternate, say), or does not end.
        """
        found = self._derive(tuple(roles))
        if isinstance(found, Scaffold):
            return found
        raise UserError(
            f"the chat template of {self.tokenizer.name_or_path!r} cannot show the turns {' / '.join(roles)} with each "
            f"content once and in order{f' ({found})' if found else ''}; check the order of the roles"
        )

    def user_prefix(self) -> str:
        """The template's text in front of a user turn that follows an assistant turn, end of that turn included."""
        return self.scaffold(("user", "assistant", "user")).before[2]

    def assistant_prefix(self) -> str:
        """The template's text between a user's content and the last assistant turn's content."""
        return self.scaffold(("user", "assistant")).before[1]

    def end_token(self, role: str) -> int:
        """The id of the first token that ends a turn of `role`: the token that the writer of the turn stops with.

        Some templates close a turn only by opening the next turn; then the opening token ends the turn.
        """
        if role == "assistant":
            tails = [self.scaffold(("user", "assistant")).tail, self.user_prefix()]
        else:
            tails = [self.assistant_prefix()]
        control = control_ids(self.tokenizer)
        for tail in tails:
            for token in self.tokenizer(tail, add_special_tokens=False)["input_ids"]:
                if token in control:
                    return token
        if self.tokenizer.eos_token_id is None:
            raise UserError(
                f"neither the chat template of {self.tokenizer.name_or_path!r} nor its tokenizer has a token that ends "
                f"a turn of the {role}; set the tokenizer's eos_token"
            )
        return self.tokenizer.eos_token_id

    @cached_property
    def _template(self) -> str:
        template = self.tokenizer.get_chat_template()
        if len(template) > _TEMPLATE_CHARS:
            raise UserError(
                f"the chat template of {self.tokenizer.name_or_path!r} has {len(template)} characters, more than any "
                "that is one; take the tokenizer of another source"
            )
        return FIXED_DATE + template

    @cached_property
    def _special_tokens(self) -> str:
        return json_text.dumps(self.tokenizer.special_tokens_map, default=str)

    def _derive(self, roles: tuple[str, ...]) -> Scaffold | str:
        """The scaffold, or why there is none."""
        try:
            return _scaffold(self._template, self._special_tokens, roles)
        except Exceeded as error:
            raise UserError(
                f"the chat template of {self.tokenizer.name_or_path!r} was cut off: it takes more than {error}. It "
                "does not end, or is made to do harm; take the tokenizer of another source"
            ) from error


@lru_cache(maxsize=4096)
def _scaffold(template: str, special_tokens: str, roles: tuple[str, ...]) -> Scaffold | str:
    """`ChatFormat._derive`, cached by all that the scaffold depends on; `special_tokens` is JSON."""
    names = json_text.loads(special_tokens)
    reason = ""
    for as_parts in (False, True):  # templates of vision models expect contents as lists of parts
        pieces = partial(_pieces, template, names, roles, as_parts)
        try:
            plain = pieces([""] * len(roles))
            if plain is None:
                continue
            strips = []
            for i in range(len(roles)):
                left = right = ""
                for pad in ("\n", " "):
                    padded = pieces([pad if i == j else "" for j in range(len(roles))])
                    if padded is None:
                        return ""
                    left += pad if len(padded[i]) == len(plain[i]) else ""
                    right += pad if len(padded[i + 1]) == len(plain[i + 1]) else ""
                strips.append((left, right))
            return Scaffold(tuple(plain[:-1]), plain[-1], tuple(strips))
        except Refused as refused:
            reason = reason or str(refused)
    return reason


def _pieces(
    template: str, names: dict[str, Any], roles: Sequence[str], as_parts: bool, pads: Sequence[str]
) -> list[str] | None:
    """The len(roles) + 1 texts around the markers; None where a marker is lost, doubled or out of order."""
    marks = [_MARK.format(i) for i in range(len(roles))]
    contents = [pad + mark + pad for mark, pad in zip(marks, pads, strict=True)]
    messages: list[dict[str, Any]] = [
        {"role": role, "content": [{"type": "text", "text": text}] if as_parts else text}
        for role, text in zip(roles, contents, strict=True)
    ]
    around = {"tools": None, "documents": None, "add_generation_prompt": False}
    text = render(template, {**around, **names, "messages": messages})
    pieces = []
    for mark in marks:
        head, found, text = text.partition(mark)
        if not found or mark in text:
            return None
        pieces.append(head)
    return [*pieces, text]


def control_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids that steer a conversation: special tokens, and added tokens that the chat template itself writes."""
    template = str(tokenizer.chat_template or "")
    return frozenset(
        index
        for index, token in tokenizer.added_tokens_decoder.items()
        if token.special or (token.content.strip() and token.content in template)
    )
