"""Finds the reasoning that an answer begins with, in the spellings of the models that write such blocks."""

import re
from collections.abc import Sequence
from typing import NamedTuple


class Spelling(NamedTuple):
    """How a family of models writes a block of reasoning in front of an answer."""

    opening: str
    closing: str
    answer: str = ""
    """What stands before an answer that has no reasoning, where that is not nothing."""

    def is_owned_by(self, template: str) -> bool:
        """Whether the source of a chat template has the tags."""
        return any(tag and tag in template for tag in (self.opening.strip(), self.closing, self.answer))


SPELLINGS = (
    Spelling("<think>", "</think>"),
    Spelling(
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
        "<|channel|>final<|message|>",
    ),  # gpt-oss
    Spelling("<|channel>thought\n", "<channel|>"),  # Gemma 4
    Spelling(" to=self<|message|>", "<|eom|><|start|>assistant to=user<|message|>", " to=user<|message|>"),  # Muse
    Spelling("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    Spelling("[THINK]", "[/THINK]"),  # Magistral
    Spelling("<seed:think>", "</seed:think>"),
    Spelling("<thought>", "</thought>"),  # EXAONE Deep
)


class Block(NamedTuple):
    """An answer's leading block of reasoning; `before + opening + reasoning + closing + answer` is the answer."""

    before: str
    """White space."""
    opening: str
    """Empty where the prompt of the generation had opened the block."""
    reasoning: str
    closing: str
    answer: str
    spelling: Spelling


def leading_block(content: str, spellings: Sequence[Spelling], prompt_end: str) -> Block | None:
    """The block of reasoning that the answer begins with, or None.

    A block without its opening tag counts where the closing tag has a line to itself, and no opening tag stands before
    it. After a prompt that ends with an opening tag and no new line, it may stand anywhere.

    Args:
        spellings: those that the chat template owns.
        prompt_end: the last text of the prompt that a generation starts with.
    """
    bare = content.lstrip()
    before = content[: len(content) - len(bare)]
    for spelling in spellings:
        opening, closing, answer = spelling
        if answer and content.startswith(answer):
            return Block("", "", "", answer, content[len(answer) :], spelling)
        if opening[0].isspace() and content.startswith(opening):  # the white space is the tag's own
            before, bare = "", content
        if bare.startswith(opening):
            reasoning, found, rest = bare[len(opening) :].partition(closing)
            if found:
                return Block(before, opening, reasoning, closing, rest, spelling)
            continue
        inline = prompt_end.endswith(opening)
        tag = re.escape(closing)
        match = re.search(tag if inline else rf"(?:^|(?<=\n)){tag}(?=\n)", content)
        if match and opening not in content[: match.start()] and closing not in content[: match.start()]:
            return Block("", "", content[: match.start()], closing, content[match.end() :], spelling)
    return None
