"""A conversation, its trigger and its review as a list of (kind, text): plain strings, in token order.

One function makes the prompts of training and of generation, so they cannot differ. The order of the parts in the three
elicitations and the text around the parts come from Split Personality Training (arXiv 2602.05532).
"""

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, Literal, NamedTuple

from honest_persona.base.errors import UserError
from honest_persona.config.persona import Persona
from honest_persona.data.messages import Message
from honest_persona.data.records import Record
from honest_persona.data.splits import uniform
from honest_persona.data.tools_text import tools_as_text
from honest_persona.prompts.chat_format import ChatFormat


class Kind(IntEnum):
    """The role of a token. Loss masks are a pure function of it (`tokens.labels`)."""

    PAD = 0
    TEMPLATE = 1
    SYSTEM = 2
    USER = 3
    RESPONSE = 4
    PERSONA_TOKEN = 5
    INTERVENTION = 6
    REVIEW = 7
    FLAG = 8
    END = 9


SUPERVISED = frozenset({Kind.REVIEW, Kind.FLAG, Kind.END})


class Segment(NamedTuple):
    kind: Kind
    text: str


def prompt_segments(
    messages: Sequence[Message],
    intervention: str,
    persona: Persona,
    chat: ChatFormat,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> list[Segment]:
    """Everything up to the review: the transcript and the trigger.

    Args:
        messages: from an optional system message to the main persona's answer, which is last.
        intervention: the trigger's text, without `intervention_prefix`.
        tools: the functions that the main persona could call, as JSON schemas.

    Raises:
        UserError: the conversation does not end with an answer, or the intervention is empty.
    """
    if not messages or messages[-1]["role"] != "assistant":
        raise UserError("the conversation must end with the assistant's answer: the review is about this answer")
    if not intervention.strip():
        raise UserError("the intervention has no text; give the honest persona something to answer")
    if persona.tools_as_text:
        messages, tools = tools_as_text(messages, tools), None
    contents = _contents(messages, persona, chat)
    trigger = Segment(Kind.INTERVENTION, persona.intervention_prefix + intervention)
    token = [Segment(Kind.PERSONA_TOKEN, "")] if persona.sp_token_id is not None else []
    if persona.elicitation_type == "hp":  # the answer's turn stays open
        return [*_render(contents, chat, "open"), *token, trigger]
    if persona.elicitation_type == "up":  # the review is the next user turn
        return [*_render([*contents, ("user", [])], chat, "before_last"), *token, trigger]
    turns = [*contents, ("user", [trigger]), ("assistant", [])]  # ur: the trigger is the user's request
    return [*_render(turns, chat, "before_last"), *token]


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


_KIND_OF_ROLE = {"system": Kind.SYSTEM, "user": Kind.USER, "assistant": Kind.RESPONSE}


def _contents(messages: Sequence[Message], persona: Persona, chat: ChatFormat) -> list[tuple[str, list[Segment]]]:
    """Turns as (role, parts). The system prompt gets its tags; without a system role it joins the first user turn."""
    turns: list[tuple[str, list[Segment]]] = []
    system: list[Segment] = []
    for i, message in enumerate(messages):
        role, text = message["role"], message["content"]
        if role not in _KIND_OF_ROLE:
            raise UserError(f"message {i}: role {role!r} is unknown; use system, user and assistant")
        if role == "system":
            if i > 0:
                raise UserError(f"message {i}: a system message can only come first")
            system = [Segment(Kind.SYSTEM, f"{persona.system_tag}{text}{persona.system_tag}")] if text.strip() else []
            if system and chat.has_system_role:
                turns.append(("system", system))
                system = []
        else:
            turns.append((role, [Segment(_KIND_OF_ROLE[role], text)]))
    if system:
        role, parts = turns[0]
        turns[0] = (role, [*system, Segment(Kind.TEMPLATE, "\n\n"), *parts])
    return turns


def _render(
    turns: list[tuple[str, list[Segment]]], chat: ChatFormat, end: Literal["open", "before_last"]
) -> list[Segment]:
    """Template text and contents in order; ends with the last turn's content, or just before it."""
    scaffold = chat.scaffold([role for role, _ in turns])
    segments: list[Segment] = []
    for i, (before, (_, parts)) in enumerate(zip(scaffold.before, turns, strict=True)):
        segments.append(Segment(Kind.TEMPLATE, before))
        if i == len(turns) - 1 and end == "before_last":
            break
        segments += _strip_outside(parts, scaffold.strips[i])
    return [s for s in segments if s.text]


def _strip_outside(parts: list[Segment], strips: tuple[str, str]) -> list[Segment]:
    left, right = strips
    parts = [Segment(kind, text.lstrip(left) if i == 0 else text) for i, (kind, text) in enumerate(parts)]
    return [Segment(k, text.rstrip(right) if i == len(parts) - 1 else text) for i, (k, text) in enumerate(parts)]
