"""A conversation as a chat template shows it: the scaffold, and the texts that stand in its slots.

Templates differ in the form in which they take reasoning, contents and the arguments of calls. The first form is taken
in which the template shows every text that it must show, and of these forms one that keeps the most reasoning.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

from honest_persona.prompts.reasoning import Block, Spelling
from honest_persona.prompts.scaffold import Scaffold, scaffold_of
from honest_persona.prompts.shapes import Form, Leaf, Turn, shape_of


class Layout(NamedTuple):
    """A conversation as the template shows it."""

    scaffold: Scaffold
    leaves: list[Leaf]
    """The texts, by the numbers that the scaffold's slots name."""

    def slot_of_content(self, turn: int) -> int:
        """The number of the slot of the turn's content, which must be shown."""
        leaves = (self.leaves[slot.leaf] for slot in self.scaffold.slots)
        return next(i for i, leaf in enumerate(leaves) if leaf.what == "content" and leaf.message == turn)

    def left_out(self, turn: int) -> list[str]:
        """What the template does not show of an answer: its `content`, its `reasoning`."""
        shown = {slot.leaf for slot in self.scaffold.slots}
        own = ((i, leaf.what) for i, leaf in enumerate(self.leaves) if leaf.message == turn)
        return [what for i, what in own if what in ("content", "reasoning") and i not in shown]


class Failure(NamedTuple):
    """Why a template cannot show a conversation."""

    reason: str = ""
    """The template's own words; empty where it said nothing."""
    lost: Leaf | None = None
    """The first text that is not shown as it must be."""


@dataclass(frozen=True)
class Template:
    """A chat template, with what it knows of reasoning."""

    source: str
    special_tokens: str
    """JSON {name: token}."""
    control_words: frozenset[str]
    """The words within the names of the tokenizer's added tokens."""
    spellings: tuple[Spelling, ...]
    """Blocks of reasoning that an answer may begin with."""
    prompt_end: str
    """What the prompt of a generation ends with: some templates open a block of reasoning there."""
    asks: bool = False
    """Whether layouts end with the beginning of an answer, as the prompt of a generation does."""

    def layout(self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]] | None) -> Layout | Failure:
        """
        Raises:
            Exceeded: the template does not end, or takes too much memory.
        """
        thoughts = sum(turn.reasoning != "" or turn.block is not None for turn in turns)
        best: tuple[int, Layout] | None = None
        failure: Failure | None = None
        for written, in_fields in self._spelled(turns):
            found = self._in_some_form(written, tools, in_fields)
            if isinstance(found, Failure):
                failure = _clearer(failure, found)
                continue
            score = sum(self._keeps(turn, i, found) for i, turn in enumerate(written)) if thoughts else 0
            if best is None or score > best[0]:
                best = score, found
            if score == thoughts:
                break
        if best is not None:
            return best[1]
        assert failure is not None
        return failure

    def _spelled(self, turns: Sequence[Turn]) -> Iterator[tuple[Sequence[Turn], bool]]:
        """Turns, and whether the blocks of their contents are put into fields: as given, then whole, then in fields."""
        yield turns, False
        whole = [self._with_whole_block(turn) for turn in turns]
        if whole != turns:
            yield whole, False
        if any(turn.block for turn in turns):
            yield turns, True

    def _with_whole_block(self, turn: Turn) -> Turn:
        """A block that the prompt of the generation opened gets that opening."""
        if turn.block is None or not self._opened(turn.block):
            return turn
        gap = self.prompt_end[len(self.prompt_end.rstrip()) :]
        return replace(turn, block=turn.block._replace(opening=turn.block.spelling.opening + gap))

    def _opened(self, block: Block) -> bool:
        return not block.opening and self.prompt_end.rstrip().endswith(block.spelling.opening)

    def _in_some_form(
        self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]] | None, in_fields: bool
    ) -> Layout | Failure:
        calls = [turn for turn in turns if turn.tool_calls]
        no_text = any(not turn.text.strip() and turn.block is None for turn in calls)
        failure: Failure | None = None
        for null in (False, True) if no_text else (False,):
            for as_text in (False, True) if calls else (False,):
                for parts in (False, True):
                    found = self._in_form(turns, tools, Form(in_fields, parts, as_text, null, self.asks))
                    if isinstance(found, Layout):
                        return found
                    failure = _clearer(failure, found)
        assert failure is not None
        return failure

    def _in_form(
        self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]] | None, form: Form
    ) -> Layout | Failure:
        shape = shape_of(turns, tools, form, self.control_words)
        scaffold = scaffold_of(self.source, self.special_tokens, shape.skeleton, form)
        if isinstance(scaffold, str):
            return Failure(scaffold)
        layout = Layout(scaffold, shape.leaves)
        lost = _lost(layout)
        return layout if lost is None else Failure(lost=lost)

    def _keeps(self, turn: Turn, number: int, layout: Layout) -> int:
        """1 where the template shows the turn's reasoning as one whole block, -1 where in two; else 0."""
        if turn.block is None and not turn.reasoning:
            return 0
        mine = []
        for before, slot in zip(layout.scaffold.before, layout.scaffold.slots, strict=True):
            leaf = layout.leaves[slot.leaf]
            if leaf.message == number and leaf.what in ("content", "reasoning"):
                mine.append((leaf.what, before))
        shown = {what for what, _ in mine}
        if turn.block is None:
            return int("reasoning" in shown)
        around = "".join(before for _, before in mine)
        opening, closing, answer = turn.block.spelling
        if around.count(answer or closing) > ("content" in shown):
            return -1
        if not turn.block.reasoning.strip():
            return 1
        return int("reasoning" in shown and not (self._opened(turn.block) and opening not in around))


def _clearer(one: Failure | None, other: Failure) -> Failure:
    """The failure that names a tool, a call or a result; else the first."""

    def names_one(failure: Failure) -> bool:
        return failure.lost is not None and failure.lost.what != "content"

    return other if one is None or (names_one(other) and not names_one(one)) else one


def _lost(layout: Layout) -> Leaf | None:
    """The first leaf that the template does not show as it must."""
    shown = [slot.leaf for slot in layout.scaffold.slots]
    once = [leaf for leaf in shown if layout.leaves[leaf].what in ("content", "result")]
    for number, leaf in enumerate(layout.leaves):
        if leaf.what in ("content", "result"):
            n = once.count(number)
            if n > 1 or (n == 0 and not leaf.may_lack):
                return leaf
        elif leaf.what in ("call", "tool") and number not in shown:
            return leaf
    # some templates show the text beside a call behind the call and its results
    in_order = [leaf for leaf in once if not layout.leaves[leaf].may_lack]
    return next((layout.leaves[b] for a, b in pairwise(in_order) if a > b), None)
