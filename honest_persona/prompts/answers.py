"""The main persona's prompt and its answer as (kind, text): what a generation is given, and what it should write.

The prompt is the chat template's own, with the beginning of an answer (`add_generation_prompt`), and the answer is what
the template writes behind it. So a model that is trained on the answer is asked by the very ids that every server asks.

    asked = asked_segments(messages, persona, chat)
    written = answer_segments(messages, answer, persona, chat)
"""

from collections.abc import Mapping, Sequence
from typing import Any

from honest_persona.base.errors import UserError
from honest_persona.config.persona import Persona
from honest_persona.data.messages import Message
from honest_persona.data.tools_text import tools_as_text
from honest_persona.prompts.chat_format import ChatFormat, control_ids
from honest_persona.prompts.kinds import Kind, Segment
from honest_persona.prompts.segments import Tools, filled, turns_of
from honest_persona.prompts.shapes import Turn


def asked_segments(
    messages: Sequence[Message], persona: Persona, chat: ChatFormat, tools: Tools = None
) -> list[Segment]:
    """A conversation up to where its next answer begins.

    Args:
        messages: from an optional system message to what is answered: a user's message, or a tool's result.

    Raises:
        UserError: nothing is asked, or the chat template cannot show the conversation.
    """
    if not messages or messages[-1]["role"] not in ("user", "tool"):
        raise UserError("the prompt must end with what is answered: a message of the user, or the result of a tool")
    if persona.tools_as_text:
        messages, tools = tools_as_text(messages, tools), None
    layout = chat.layout(turns_of(messages, persona, chat), tools, asks=True)
    return _with(filled(layout, len(layout.scaffold.slots)), layout.scaffold.tail)


def answer_segments(
    messages: Sequence[Message], answer: Message, persona: Persona, chat: ChatFormat, tools: Tools = None
) -> tuple[list[Segment], bool]:
    """What is to be written behind `asked_segments` of the same messages, and whether its end of turn is in it.

    It ends with the first token that ends the turn. Where the template has none, the tokenizer's end of text stands for
    it, which has no text.

    Some prompts open a block of reasoning that the template does not write around a finished answer; then the answer
    closes the block, behind the answer's reasoning where it has some.

    Raises:
        UserError: the chat template cannot show the conversation.
    """
    asked = "".join(segment.text for segment in asked_segments(messages, persona, chat, tools))
    whole: Sequence[Message] = [*messages, answer]
    if persona.tools_as_text:
        whole, tools = tools_as_text(whole, tools), None
    turns = turns_of(whole, persona, chat)
    layout = chat.layout(turns, tools)
    shown = [layout.leaves[slot.leaf] for slot in layout.scaffold.slots]
    n = next(i for i, leaf in enumerate(shown) if leaf.message == len(turns) - 1)
    before = _with(filled(layout, n), layout.scaffold.before[n])
    said = filled(layout, len(shown))[len(filled(layout, n)) + bool(layout.scaffold.before[n]) :]
    written = _behind([*before, *said], asked)
    if written is None:
        written = [*_closed_block(turns[-1], chat), *said]
    closing, has_end = _closing(layout.scaffold.tail, chat)
    if not turns[-1].reasoning or "reasoning" in {leaf.what for leaf in shown[n:]}:
        chat.note_left_out(layout, len(turns) - 1)
    return _with(written, closing), has_end


def _with(segments: list[Segment], text: str) -> list[Segment]:
    return [*segments, Segment(Kind.TEMPLATE, text)] if text else segments


def _behind(segments: Sequence[Segment], prompt: str) -> list[Segment] | None:
    """What stands behind the prompt; None where the segments do not begin with it.

    White space at the prompt's end does not count: some templates write it behind an opened block of reasoning alone.
    """
    text = "".join(segment.text for segment in segments)
    n = len(prompt) if text.startswith(prompt) else len(prompt.rstrip())
    if not text.startswith(prompt[:n]):
        return None
    rest = []
    for segment in segments:
        if n < len(segment.text):
            rest.append(Segment(segment.kind, segment.text[n:]))
        n = max(0, n - len(segment.text))
    return rest


def _closed_block(turn: Turn, chat: ChatFormat) -> list[Segment]:
    """The end of the block of reasoning that the prompt opens, behind the answer's own reasoning."""
    spelling = chat.opened_reasoning
    if spelling is None:
        return []
    thought = (turn.block.reasoning if turn.block else turn.reasoning).strip("\n")
    said = [Segment(Kind.RESPONSE, thought)] if thought.strip() else []
    return [*said, Segment(Kind.TEMPLATE, f"\n{spelling.closing}\n\n")]


def _closing(tail: str, chat: ChatFormat) -> tuple[str, bool]:
    """The template's text behind an answer, up to and with the token that ends the turn."""
    end = chat.end_token("assistant")
    for text in (tail, chat.user_prefix()):
        if (cut := _after(text, {end}, chat, last=False)) is not None:
            return text[:cut], True
    control = control_ids(chat.tokenizer)
    cut = _after(tail, control, chat, last=True)  # a call may end with a token of its own
    return (tail[:cut], True) if cut is not None else ("", False)


def _after(text: str, ids: Mapping[int, Any] | frozenset[int] | set[int], chat: ChatFormat, last: bool) -> int | None:
    """Where the first, or the last, of these tokens ends in the text; None: the text has none of them."""
    encoded = chat.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ends = [end for i, (_, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True) if i in ids]
    return ends[-1 if last else 0] if ends else None
