"""Conversations to review, read from JSON lines: every bad line is located, before anything is loaded."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from honest_persona.base.errors import UserError
from honest_persona.data.messages import Message, message_problems, text_problems
from honest_persona.data.strict_json import RepeatedKey, loads
from honest_persona.prompts.tokens import TokenFormat, Tokens, apply_intervention

_LINE_FIELDS = ("messages", "id", "intervention")


@dataclass(frozen=True)
class Conversation:
    """One line of a file of conversations."""

    id: str | int
    """The line's number where it gives none."""
    messages: list[Message]
    intervention: str
    prompt: Tokens
    """Both, encoded."""


def read_conversations(path: Path, default_intervention: str, form: TokenFormat) -> list[Conversation]:
    """The lines of `path`, a command's --input.

    Raises:
        UserError: all bad lines in one message, with those that the chat template cannot show.
    """
    try:
        raw_lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise UserError(f"--input: {path} cannot be read: {error.strerror}") from error
    conversations: list[Conversation] = []
    problems: list[str] = []
    for number, raw in enumerate(raw_lines, start=1):
        if not raw.strip():
            continue
        try:
            line = loads(raw.decode("utf-8"))
        except json.JSONDecodeError as error:
            found = [f"not valid JSON (column {error.colno}: {error.msg}); write one object per line"]
        except UnicodeDecodeError as error:
            found = [f"not UTF-8 text (byte {error.start}); save the file as UTF-8"]
        except RecursionError:
            found = ["nested too deep; write one flat object per line"]
        else:
            found = list(_line_problems(line))
        if not found:
            messages, intervention = line["messages"], line.get("intervention", default_intervention)
            try:
                prompt = apply_intervention(messages, intervention, form)
            except UserError as error:
                found = [str(error)]
            else:
                conversations.append(Conversation(line.get("id", number), messages, intervention, prompt))
        problems += [f"{path}:{number}: {problem}" for problem in found]
    if problems:
        raise UserError("\n".join([f"{len(problems)} problems in the conversations:", *problems][len(problems) == 1 :]))
    if not conversations:
        raise UserError(f'--input: {path} has no conversation; write lines such as {{"messages": [...]}}')
    return conversations


def _line_problems(line: Any) -> Iterator[str]:
    if isinstance(line, RepeatedKey):
        yield f"repeated key {line.key!r}; keep one of the two"
        return
    if not isinstance(line, dict):
        yield 'must be an object, as {"messages": [...]}'
        return
    for name in sorted(line.keys() - set(_LINE_FIELDS)):
        yield f"{name!r} is unknown; use {', '.join(_LINE_FIELDS)}"
    if "id" in line and (isinstance(line["id"], bool) or not isinstance(line["id"], str | int)):
        yield "id: must be text or a whole number of up to 18 digits; leave it out for the line's number"
    if "intervention" in line:
        yield from text_problems("intervention", line["intervention"])
    yield from message_problems(line.get("messages"))
