"""The chat format of one tokenizer: what its template writes around the texts of a conversation, and what ends a turn.

The template is rendered once per shape of a conversation (shapes.py) with markers in place of the texts. Real texts
never pass through the template, so no text can change what the template writes (a `</think>` in a question, a forged
end of turn), and the prompt of training and the prompt of generation are cut from one rendering.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

from transformers import PreTrainedTokenizerBase

from honest_persona.base import json_text
from honest_persona.base.console import one_line, tell
from honest_persona.base.errors import UserError
from honest_persona.base.ranks import rank
from honest_persona.prompts.layout import Failure, Layout, Template
from honest_persona.prompts.reasoning import SPELLINGS, Block, Spelling, leading_block
from honest_persona.prompts.rendering import Exceeded, Refused, render
from honest_persona.prompts.scaffold import Scaffold
from honest_persona.prompts.shapes import MARK, Form, Turn, filled, shape_of

T = TypeVar("T")

FIXED_DATE = (
    '{%- macro strftime_now(format) -%}{{- "2024-07-26" if format == "%Y-%m-%d" else "26 Jul 2024" -}}{%- endmacro -%}'
)
"""Stands before every template, so that a template with today's date gives the same prompt next week."""

_TEMPLATE_CHARS = 2**20
"""A hundred times the length of usual chat templates."""


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
        return isinstance(self._found(_turns(("system", "user", "assistant")), None), Layout)

    def layout(
        self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]] | None = None, asks: bool = False
    ) -> Layout:
        """The conversation as the template shows it, without what the template leaves out of earlier turns.

        Args:
            asks: end with the beginning of an answer, as the prompt of a generation does.

        Raises:
            UserError: the template cannot show these turns, a call, a result or the tools; or it does not end.
        """
        found = self._found(turns, tools, asks)
        if isinstance(found, Layout):
            return found
        raise UserError(f"the chat template of {self.tokenizer.name_or_path!r} {_refusal(turns, tools, found)}")

    def scaffold(self, roles: Sequence[str]) -> Scaffold:
        """The scaffold of messages that have these roles, and a text each.

        Raises:
            UserError: the template cannot show this sequence (roles that do not alternate, say), or does not end.
        """
        return self.layout(_turns(roles)).scaffold

    @property
    def opened_reasoning(self) -> Spelling | None:
        """The spelling whose opening tag the prompt of a generation ends with; None where it opens no reasoning."""
        end = self._prompt_end.rstrip()
        return next((spelling for spelling in self._spellings if end.endswith(spelling.opening.strip())), None)

    def reasoning_block(self, content: str) -> Block | None:
        """The block of reasoning that the content of an answer begins with, where the template owns such blocks."""
        return leading_block(content, self._spellings, self._prompt_end)

    def note_left_out(self, layout: Layout, answer: int) -> None:
        """Says once what the template does not show of the answers that are reviewed."""
        for what in layout.left_out(answer):
            if what not in self._noted and rank() == 0:
                shown = "the reasoning of an answer" if what == "reasoning" else "the text beside a call"
                tell(
                    f"note: the chat template of {one_line(self.tokenizer.name_or_path)} does not show {shown} in this "
                    "place; the honest persona does not see it"
                )
            self._noted.add(what)

    def rest_of_turn(self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]] | None, behind: str) -> str:
        """What belongs to the last turn, an answer's, of the template's text `behind` the last text of that turn.

        The rest of `behind` closes the turn: so much as closes a turn with an answer alone; else, all from the last
        control token on.
        """
        answered = self.layout([*turns[:-1], Turn("assistant", [], is_open=True)], tools)
        closing = answered.scaffold.behind(answered.slot_of_content(len(turns) - 1) + 1)
        if behind.endswith(closing):
            return behind.removesuffix(closing)
        last = max((behind.rfind(name) for name in self._control_names), default=-1)
        return behind if last < 0 or not turns[-1].tool_calls else behind[:last]

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
    def _noted(self) -> set[str]:
        return set()

    @cached_property
    def _control_names(self) -> list[str]:
        return [self.tokenizer.added_tokens_decoder[index].content for index in control_ids(self.tokenizer)]

    def _source(self, with_tools: bool) -> str:
        """Some tokenizers have a template of its own for conversations with tools."""
        template = self.tokenizer.get_chat_template(tools=[{}] if with_tools else None)
        if len(template) > _TEMPLATE_CHARS:
            raise UserError(
                f"the chat template of {self.tokenizer.name_or_path!r} has {len(template)} characters, more than any "
                "that is one; take the tokenizer of another source"
            )
        return FIXED_DATE + template

    @cached_property
    def _special_tokens(self) -> str:
        return json_text.dumps(self.tokenizer.special_tokens_map, default=str)

    @cached_property
    def _spellings(self) -> tuple[Spelling, ...]:
        return tuple(spelling for spelling in SPELLINGS if spelling.is_owned_by(self._source(False)))

    @cached_property
    def _prompt_end(self) -> str:
        names = json_text.loads(self._special_tokens)
        for form in (Form(), Form(parts=True)):
            messages = filled(shape_of(_turns(("user",)), None, form, frozenset()).skeleton, form, {})
            variables = {**names, **messages, "documents": None, "add_generation_prompt": True}
            with suppress(Refused):
                return MARK.split(self._limited(render, self._source(False), variables))[-1]
        return ""

    @cached_property
    def _template(self) -> Template:
        names = " ".join(token.content for token in self.tokenizer.added_tokens_decoder.values())
        words = frozenset(re.findall(r"\w+", names, re.ASCII))
        return Template(self._source(False), self._special_tokens, words, self._spellings, self._prompt_end)

    @cached_property
    def _template_with_tools(self) -> Template:
        return replace(self._template, source=self._source(True))

    def _found(
        self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]] | None, asks: bool = False
    ) -> Layout | Failure:
        template = self._template_with_tools if tools else self._template
        return self._limited((replace(template, asks=True) if asks else template).layout, turns, tools)

    def _limited(self, function: Callable[..., T], *args: Any) -> T:
        try:
            return function(*args)
        except Exceeded as error:
            raise UserError(
                f"the chat template of {self.tokenizer.name_or_path!r} was cut off: it takes more than {error}. It "
                "does not end, or is made to do harm; take the tokenizer of another source"
            ) from error


def control_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids that steer a conversation: special tokens, and added tokens that the chat template itself writes."""
    template = str(tokenizer.chat_template or "")
    return frozenset(
        index
        for index, token in tokenizer.added_tokens_decoder.items()
        if token.special or (token.content.strip() and token.content in template)
    )


_AS_TEXT = "write tools, calls and results as text, as training does with tools_as_text: true"


def _turns(roles: Sequence[str]) -> list[Turn]:
    return [Turn(role, [], is_open=True) for role in roles]


def _refusal(turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]] | None, failure: Failure) -> str:
    reason = f" ({failure.reason})" if failure.reason else ""
    if (lost := failure.lost) and lost.what == "tool":
        return f"has no place for tools; {_AS_TEXT}, or leave them out"
    if lost and lost.what == "call":
        several = ", or shows one of several calls alone" if len(turns[lost.message].tool_calls) > 1 else ""
        return f"has no place for calls of tools{several}; {_AS_TEXT}"
    if lost and lost.what == "result":
        return f"has no place for the results of tools; {_AS_TEXT}"
    shown = " / ".join(f"{turn.role}{' with calls' if turn.tool_calls else ''}" for turn in turns)
    agents = bool(tools) or any(turn.tool_calls or turn.role == "tool" for turn in turns)
    remedy = _AS_TEXT if agents else "check the order of the roles"
    with_tools = " and tools" if tools else ""
    return f"cannot show the turns {shown}{with_tools} with each content once and in order{reason}; {remedy}"
