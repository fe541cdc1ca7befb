"""A transcript: what the main persona was told and asked, and what it answered."""

import hashlib
from collections.abc import Mapping, Sequence

from honest_persona.base import json_text


def transcript(system: str, task: str, response: str) -> list[dict[str, str]]:
    """The messages of one question and its answer; without a system prompt where that has no text."""
    return [
        *([{"role": "system", "content": system}] if system.strip() else []),
        {"role": "user", "content": task},
        {"role": "assistant", "content": response},
    ]


def transcript_id(messages: Sequence[Mapping[str, str]]) -> str:
    """First 16 hex digits of the SHA-256 of JSON [[role, content], ...]: equal contents have one id."""
    content = json_text.dumps([[message["role"], message["content"]] for message in messages])
    return hashlib.sha256(content.encode()).hexdigest()[:16]
