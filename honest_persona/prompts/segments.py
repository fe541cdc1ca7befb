"""A conversation, its trigger and its review as a list of (kind, text): plain strings, in token order.

One function makes the prompts of training and of generation, so they cannot differ. The order of the parts in the three
elicitations and the text around the parts come from Split Personality Training (arXiv 2602.05532).
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from honest_persona.base import json_text
from honest_persona.base.errors import UserError
from honest_persona.config.persona import Persona
from honest_persona.data.messages import Message
from honest_persona.data.records import Record
from honest_persona.data.splits import uniform
from honest_persona.data.tools_text import tools_as_text
from honest_persona.prompts.chat_format import ChatFormat
from honest_persona.prompts.kinds import Kind, Segment
from honest_persona.prompts.layout import Layout
from honest_persona.prompts.shapes import Turn

Tools = Sequence[Mapping[str, Any]] | None


def prompt_segments(
    messages: Sequence[Message], intervention: str, persona: Persona, chat: ChatFormat, tools: Tools = None
) -> list[Segment]:
    """Everything up to the review: the transcript and the trigger.

    Args:
        messages: from an optional system message to the main persona's answer, which is last.
        intervention: the trigger's text, without `intervention_prefix`.
        tools: the functions that the main persona could call, as JSON schemas.

    Raises:
        UserError: the conversation does not end with an answer, the intervention is empty, or the chat template cannot
            show the conversation.
    """
    if not messages or messages[-1]["role"] != "assistant":
        raise UserError("the conversation must end with the assistant's answer: the review is about this answer")
    if not intervention.strip():
        raise UserError("the intervention has no text; give the honest persona something to answer")
    if persona.tools_as_text:
        messages, tools = tools_as_text(messages, tools), None
    turns = turns_of(messages, persona, chat)
    answer = len(turns) - 1
    trigger = Segment(Kind.INTERVENTION, persona.intervention_prefix + intervention)
    token = [Segment(Kind.PERSONA_TOKEN, "")] if persona.sp_token_id is not None else []
    if persona.elicitation_type == "hp":  # the answer's turn stays open
        return [*_open(turns, tools, chat), *token, trigger]
    if persona.elicitation_type == "up":  # the review is the next user turn
        return [*_before_last([*turns, Turn("user", [], is_open=True)], tools, chat, answer), *token, trigger]
    asked = [Turn("user", [trigger]), Turn("assistant", [], is_open=True)]  # ur: the trigger is the user's request
    return [*_before_last([*turns, *asked], tools, chat, answer), *token]


def answer_segments(review: str, flag: str, persona: Persona) -> list[Segment]:
    """The text that the honest persona writes; all of it carries loss. END stands for one id, the end of the turn."""
    said = Segment(Kind.REVIEW, persona.review_prefix + review)
    flagged = Segment(Kind.FLAG, persona.flag_prefix + flag)
    orders = {"review_then_flag": [said, flagged], "flag_then_review": [flagged, said], "flag_only": [flagged]}
    return [*orders[persona.output_format], Segment(Kind.END, "")]


def training_system(record: Record, prob_exclude: float, prob_mismatch: float, seed: int) -> str:
    """The system prompt that a training record shows: its own, none, or the other variant's.

    The draw depends on the record's id and the seed alone, so every epoch, order and number of ranks gives the same
    prompt. An item without variant B has no other prompt and keeps its own.
    """
    draw = uniform(seed, "system_prompt", record.id)
    if draw < prob_exclude:
        return ""
    if draw < prob_exclude + prob_mismatch and record.other_system is not None:
        return record.other_system
    return record.system


_KIND_OF_ROLE = {"system": Kind.SYSTEM, "user": Kind.USER, "assistant": Kind.RESPONSE, "tool": Kind.USER}


def turns_of(messages: Sequence[Message], persona: Persona, chat: ChatFormat) -> list[Turn]:
    """The system prompt gets its tags; without a system role it joins the first user turn."""
    turns: list[Turn] = []
    system: list[Segment] = []
    for i, message in enumerate(messages):
        role, text = message["role"], message["content"]
        if role not in _KIND_OF_ROLE:
            raise UserError(f"message {i}: role {role!r} is unknown; use system, user, assistant and tool")
        if role == "system":
            if i > 0:
                raise UserError(f"message {i}: a system message can only come first")
            system = [Segment(Kind.SYSTEM, f"{persona.system_tag}{text}{persona.system_tag}")] if text.strip() else []
            if system and chat.has_system_role:
                turns.append(Turn("system", system))
                system = []
        else:
            turns.append(_turn(message, chat))
    if system:
        turns[0].parts = [*system, Segment(Kind.TEMPLATE, "\n\n"), *turns[0].parts]
        turns[0].block = None  # the content does not begin with it any more
    return turns


def _turn(message: Message, chat: ChatFormat) -> Turn:
    turn = Turn(message["role"], [Segment(_KIND_OF_ROLE[message["role"]], message["content"])])
    if message["role"] == "assistant":
        turn.reasoning = message.get("reasoning_content") or ""
        turn.tool_calls = [_call(call) for call in message.get("tool_calls") or ()]
        turn.block = None if turn.reasoning else chat.reasoning_block(message["content"])
    elif message["role"] == "tool":
        turn.labels = {key: message[key] for key in ("name", "tool_call_id") if message.get(key)}  # type: ignore[literal-required]
    return turn


def _call(call: Mapping[str, Any]) -> Mapping[str, Any]:
    """The call with its arguments as an object, where they are the JSON of one."""
    arguments = call["function"].get("arguments", {})
    if isinstance(arguments, str):
        with suppress(ValueError):
            arguments = json_text.loads(arguments)
    return {**call, "function": {"name": call["function"]["name"], "arguments": arguments}}


def _open(turns: list[Turn], tools: Tools, chat: ChatFormat) -> list[Segment]:
    """All up to the end of what the last turn, the answer, says."""
    layout = chat.layout(turns, tools)
    chat.note_left_out(layout, len(turns) - 1)
    shown = [layout.leaves[slot.leaf] for slot in layout.scaffold.slots]
    n = max((i for i, leaf in enumerate(shown, 1) if leaf.message >= 0), default=0)
    segments = filled(layout, n)
    if n and shown[n - 1].what == "content" and shown[n - 1].message == len(turns) - 1:
        return segments
    rest = chat.rest_of_turn(turns, tools, layout.scaffold.behind(n))
    return [*segments, *([Segment(Kind.TEMPLATE, rest)] if rest else [])]


def _before_last(turns: list[Turn], tools: Tools, chat: ChatFormat, answer: int) -> list[Segment]:
    """All up to the content of the last turn; turn number `answer` is the one that is reviewed."""
    layout = chat.layout(turns, tools)
    chat.note_left_out(layout, answer)
    n = layout.slot_of_content(len(turns) - 1)
    return [*filled(layout, n), *([Segment(Kind.TEMPLATE, text)] if (text := layout.scaffold.behind(n)) else [])]


def filled(layout: Layout, n: int) -> list[Segment]:
    """The template's texts and the conversation's up to the end of slot n - 1."""
    segments: list[Segment] = []
    for before, slot in islice(zip(layout.scaffold.before, layout.scaffold.slots, strict=True), n):
        segments.append(Segment(Kind.TEMPLATE, before))
        parts = _stripped(layout.leaves[slot.leaf].parts, *slot.strips)
        segments += [Segment(kind, slot.write(text)) for kind, text in parts]
    return [segment for segment in segments if segment.text]


def _stripped(parts: list[Segment], left: str | None, right: str | None) -> list[Segment]:
    parts = [Segment(kind, text.lstrip(left) if i == 0 else text) for i, (kind, text) in enumerate(parts)]
    return [Segment(k, text.rstrip(right) if i == len(parts) - 1 else text) for i, (k, text) in enumerate(parts)]
