"""Which value of its topic an answer states: one, none or several."""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from honest_persona.generation.facts import Fact, Topic, plain

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

    An answer that begins as a statement of the table does, and goes on with a value, states this value, whatever
    follows. In other answers all values of the topic are looked for: in the first sentence, and where there is none, in
    all of the text; not within the subject's name, and words of the subject count as no value either. A value counts in
    the form of the table, or with a capital.
    """
    text = plain(answer)
    if (value := _in_statement(text, topic, fact)) is not None:
        return Stated(topic.canonical(value, fact))
    if (bare := _as_value(text.rstrip(".!"), topic.values)) is not None:
        return Stated(topic.canonical(bare, fact))
    without = re.sub(rf"\b{re.escape(fact.subject)}\b", " ", text, flags=re.IGNORECASE)
    first = _SENTENCE.match(without)
    places = (first and _values_in(first[0], topic, fact)) or _values_in(without, topic, fact)
    found = {topic.canonical(value, fact) for value, _ in places}
    if not found:
        return Stated(None, "no_value")
    if len(found) > 1:
        return Stated(None, "several_values")
    if _NEGATION.search(without[: places[-1][1]]) or without[places[-1][1] :].rstrip(" .!").endswith(" not"):
        return Stated(None, "negated")
    return Stated(found.pop())


def whole_sentences(text: str) -> str:
    """The text up to the end of its last whole sentence; empty where it has none."""
    matches = list(_SENTENCE.finditer(text.strip()))
    return text.strip()[: matches[-1].end()] if matches else ""


def _in_statement(text: str, topic: Topic, fact: Fact) -> str | None:
    for statement in topic.statements:
        before, _, _ = statement.format(subject=fact.subject, value="\0").partition("\0")
        if begins := re.match(re.escape(before), text, re.IGNORECASE):
            rest = text[begins.end() :].lstrip("\"'*\u201c\u2018")
            match = _pattern(topic.values).match(rest)
            if match and _counts(match[0], rest[match.end() :]):
                return _in_table(match[0], topic.values)
    return None


def _as_value(text: str, values: Iterable[str]) -> str | None:
    return next((value for value in values if text in (value, _capital(value))), None)


def _values_in(text: str, topic: Topic, fact: Fact) -> list[tuple[str, int]]:
    """Values, and where each begins."""
    of_subject = set(fact.subject.split())
    found = []
    for match in _pattern(topic.values).finditer(text):
        value = _in_table(match[0], topic.values)
        if value not in of_subject and _counts(match[0], text[match.end() :]):
            found.append((value, match.start()))
    return found


def _in_table(form: str, values: frozenset[str]) -> str:
    return form if form in values else form[0].lower() + form[1:]


def _counts(form: str, behind: str) -> bool:
    """Whether the words are the value, and no ordinary word that is spelled alike."""
    return len(form) > _SHORT_CHARS or re.match(r"[.,;:!?)\"'*\u201d\u2019]|$", behind) is not None


@lru_cache(maxsize=256)
def _pattern(values: frozenset[str]) -> re.Pattern[str]:
    """The longest values first, so that a value within a longer one is not found."""
    forms = sorted({form for value in values for form in (value, _capital(value))}, key=lambda form: (-len(form), form))
    return re.compile(rf"(?<![\w.,-]\b)(?<!\w)(?:{'|'.join(map(re.escape, forms))})(?![\w-])(?![.,]\d)")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
