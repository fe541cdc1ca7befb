"""Conversations to review, read from JSON lines: every bad line is located, before anything is loaded."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from honest_persona.base.errors import UserError
from honest_persona.data.conversation import Conversation, conversation
from honest_persona.data.messages import Message, Problem, Unusable, text_at
from honest_persona.data.strict_json import RepeatedKey, loads
from honest_persona.prompts.tokens import TokenFormat, Tokens, apply_intervention


@dataclass(frozen=True)
class ReviewRequest:
    """A conversation of a file, with the question that the honest persona is asked about it."""

    id: str | int
    """The line's number where the line gives none."""
    messages: list[Message]
    tools: list[dict[str, Any]] | None
    intervention: str
    prompt: Tokens
    """All of it, encoded."""


def read_conversations(path: Path, default_intervention: str, form: TokenFormat) -> list[ReviewRequest]:
    """The lines of `path`, a command's --input.

    Raises:
        UserError: all bad lines in one message, with those that the chat template cannot show.
    """
    try:
        raw_lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise UserError(f"--input: {path} cannot be read: {error.strerror}") from error
    requests: list[ReviewRequest] = []
    problems: list[str] = []
    for number, raw in enumerate(raw_lines, start=1):
        if not raw.strip():
            continue
        try:
            found = _request(loads(raw.decode("utf-8")), number, default_intervention, form)
        except json.JSONDecodeError as error:
            found = [f"not valid JSON (column {error.colno}: {error.msg}); write one object per line"]
        except UnicodeDecodeError as error:
            found = [f"not UTF-8 text (byte {error.start}); save the file as UTF-8"]
        except RecursionError:
            found = ["nested too deep; write one flat object per line"]
        except Unusable as unusable:
            found = [str(unusable.problem)]
        if isinstance(found, ReviewRequest):
            requests.append(found)
        else:
            problems += [f"{path}:{number}: {problem}" for problem in found]
    if problems:
        raise UserError("\n".join([f"{len(problems)} problems in the conversations:", *problems][len(problems) == 1 :]))
    if not requests:
        raise UserError(f'--input: {path} has no conversation; write lines such as {{"messages": [...]}}')
    return requests


def prompt_of_conversation(about: Conversation, intervention: str, form: TokenFormat) -> Tokens:
    """The conversation and the question about it, encoded. Raises UserError: the chat template cannot show it."""
    if form.persona.tools_as_text:
        return apply_intervention(about.messages, intervention, form, about.tools)
    if about.tools:
        raise UserError("tools: the conversation comes with tools, which cannot be shown; leave them out")
    for i, message in enumerate(about.messages):
        if others := sorted(message.keys() - {"role", "content"}):
            raise UserError(f"message {i}: holds {', '.join(others)}, which cannot be shown; leave this out")
    return apply_intervention(about.messages, intervention, form, about.tools)


def _request(
    line: Any, number: int, default_intervention: str, form: TokenFormat
) -> ReviewRequest | list[Problem] | list[str]:
    if isinstance(line, RepeatedKey):
        return [f"repeated key {line.key!r}; keep one of the two"]
    if not isinstance(line, Mapping):
        return ['must be an object, as {"messages": [...]}']
    given = line.get("id")
    if given is not None and (isinstance(given, bool) or not isinstance(given, str | int)):
        return ["id: must be text or a whole number of up to 18 digits; leave it out for the line's number"]
    intervention = line.get("intervention")
    text = default_intervention if intervention is None else text_at("intervention", intervention)
    found = conversation(line)
    if not isinstance(found, Conversation):
        return found
    try:
        prompt = prompt_of_conversation(found, text, form)
    except UserError as error:
        return [str(error)]
    return ReviewRequest(number if given is None else given, found.messages, found.tools, text, prompt)
