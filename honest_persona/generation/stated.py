"""Which value of its topic an answer states: one, none or several."""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from honest_persona.generation.facts import Fact, Topic

_NEGATION = re.compile(r"\b(?:not|never|neither|nor)\b|n['\u2019]t\b", re.IGNORECASE)
_SENTENCE = re.compile(r".*?[.!?](?=\s|$)", re.DOTALL)
_SHORT_CHARS = 2
"""A value this short may be an ordinary word (`I`, `He`, `no`): it counts where something ends behind it."""


class Stated(NamedTuple):
    """What an answer states."""

    value: str | None
    reason: str = ""
    """Why there is no value: `no_value`, `several_values` or `negated`."""


def stated(answer: str, topic: Topic, fact: Fact) -> Stated:
    """The value that the answer states about the fact's subject.

    An answer whose first sentence is a statement of the table states its value, whatever follows. In other answers all
    values of the topic are looked for, but not within the subject's name; words of the subject count as no value
    either, unless the answer holds nothing else. A value counts in the form of the table, or with a capital.
    """
    text = " ".join(answer.split())
    if (value := _in_statement(text, topic, fact)) is not None:
        return Stated(topic.canonical(value, fact))
    if text.rstrip(".!") in topic.values:
        return Stated(topic.canonical(text.rstrip(".!"), fact))
    without = re.sub(rf"\b{re.escape(fact.subject)}\b", " ", text, flags=re.IGNORECASE)
    found = {topic.canonical(value, fact) for value in _values_in(without, topic, fact)}
    if not found:
        return Stated(None, "no_value")
    if len(found) > 1:
        return Stated(None, "several_values")
    if _NEGATION.search(without):
        return Stated(None, "negated")
    return Stated(found.pop())


def whole_sentences(text: str) -> str:
    """The text up to the end of its last whole sentence; empty where it has none."""
    matches = list(_SENTENCE.finditer(text.strip()))
    return text.strip()[: matches[-1].end()] if matches else ""


def _in_statement(text: str, topic: Topic, fact: Fact) -> str | None:
    for statement in topic.statements:
        before, _, after = statement.format(subject=fact.subject, value="\0").partition("\0")
        match = re.match(rf"{re.escape(before)}(.+?){re.escape(after)}(?:\s|$)", text, re.IGNORECASE)
        if match and (value := _as_value(match[1], topic.values)) is not None:
            return value
    return None


def _as_value(text: str, values: Iterable[str]) -> str | None:
    return next((value for value in values if text in (value, _capital(value))), None)


def _values_in(text: str, topic: Topic, fact: Fact) -> list[str]:
    of_subject = set(fact.subject.split())
    found = []
    for match in _pattern(topic.values).finditer(text):
        value = match[0] if match[0] in topic.values else match[0][0].lower() + match[0][1:]
        ends = re.match(r"[.,;:!?)\"'*\u201d\u2019]|$", text[match.end() :])
        if value not in of_subject and (len(value) > _SHORT_CHARS or ends):
            found.append(value)
    return found


@lru_cache(maxsize=256)
def _pattern(values: frozenset[str]) -> re.Pattern[str]:
    """The longest values first, so that a value within a longer one is not found."""
    forms = sorted({form for value in values for form in (value, _capital(value))}, key=lambda form: (-len(form), form))
    return re.compile(rf"(?<![\w.,-]\b)(?<!\w)(?:{'|'.join(map(re.escape, forms))})(?![\w-])(?![.,]\d)")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
