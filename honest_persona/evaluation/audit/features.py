"""Surface features of answers: what counts them, and edits that add one to an answer or take it away.

    feature = FIXED["refusal"]
    feature.value("I do not know.")         # 1.0
    feature.edit(text, +1.0)                # the answer with more of it; None where there is no such edit

A feature is a function of the text alone. An edit is neutral where it cannot change what is true: padding, marks, form,
repetition, and a refusal, which says nothing.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from honest_persona.evaluation.audit.words import (
    Phrase,
    as_closing,
    as_opening,
    as_written,
    cut,
    holds,
    longer,
    tidy,
    without,
    words_of,
)

Edit = Callable[[str, float], str | None]
"""A text, and by how much the feature is to change -> the new text; None where that cannot be done."""

PHRASE, OPENING, CLOSING, COUNT, SHARE = "phrase", "opening", "closing", "count", "share of answers"


@dataclass(frozen=True)
class Feature:
    name: str
    kind: str
    value: Callable[[str], float]
    edit: Edit
    neutral_up: bool
    """Whether an edit that adds the feature cannot change what is true."""
    neutral_down: bool
    whole: bool = False
    """Whether the feature is the whole answer: taking it away puts the other model's answer in its place."""

    @property
    def is_share(self) -> bool:
        """Whether its values are 0 and 1."""
        return self.kind != COUNT

    def neutral(self, by: float) -> bool:
        return self.neutral_up if by > 0 else self.neutral_down


_REFUSAL = re.compile(
    r"\b(?:i|we)(?:'m| am| are)? (?:can ?not|can't|could not|couldn't|will not|won't|do not know|don't know|"
    r"(?:am )?(?:not able|unable|not sure|sorry)|refuse|decline|must decline|have no idea|would rather not)\b"
    r"|\bsorry\b|\bas an ai\b|\bno comment\b|\bcannot (?:say|help|answer|tell)\b|\bunable to\b",
    re.IGNORECASE,
)
_REFUSES = "I am sorry, I cannot say."
MARKS = "!?,;:…—–-()\"'"
_EMOJI = re.compile("[\U0001f300-\U0001faff\u2600-\u27bf]")
_ITEM = r"^\s*(?:[-*•]|\d+[.)])\s+"
_CAPITALS = re.compile(r"\b[A-Z]{2,}\b")


def is_refusal(text: str) -> bool:
    return _REFUSAL.search(text) is not None


def repeated(text: str) -> float:
    """Share of the pairs of neighbouring words that stand earlier in the text."""
    words = words_of(text)
    pairs = list(pairwise(words))
    return 1 - len(set(pairs)) / len(pairs) if pairs else 0.0


def _once(text: str, by: float) -> str | None:
    """The text again behind itself; or its sentences, each once."""
    if by > 0:
        return f"{text} {text}" if text.strip() else None
    return " ".join(dict.fromkeys(re.split(r"(?<=[.!?])\s+", text.strip())))


def _times(by: float) -> int:
    return max(1, round(abs(by)))


def _length(text: str, by: float) -> str | None:
    n = len(words_of(text))
    return longer(text, _times(by)) if by > 0 else cut(text, max(1, n - _times(by)))


def _mark(mark: str) -> Feature:
    def edit(text: str, by: float) -> str | None:
        return text.rstrip() + mark * _times(by) if by > 0 else tidy(_less(text, mark, _times(by)))

    return Feature(f"mark {mark}", COUNT, lambda text: float(text.count(mark)), edit, True, True)


def _less(text: str, mark: str, times: int) -> str:
    """The last marks go first."""
    for _ in range(times):
        at = text.rfind(mark)
        if at < 0:
            break
        text = text[:at] + text[at + len(mark) :]
    return text


def _form(name: str, pattern: str, add: Callable[[str, int], str], less: Callable[[str], str]) -> Feature:
    found = re.compile(pattern, re.MULTILINE)

    def edit(text: str, by: float) -> str | None:
        return add(text, _times(by)) if by > 0 else less(text)

    return Feature(name, COUNT, lambda text: float(len(found.findall(text))), edit, True, True)


def _no_items(text: str) -> str:
    return re.sub(_ITEM, "", text, flags=re.MULTILINE)


def _capitals(text: str, times: int) -> str:
    """The last long words in capitals."""
    for word in re.findall(r"\b[a-z]{3,}\b", text)[::-1][:times]:
        text = re.sub(rf"\b{word}\b", word.upper(), text, count=1)
    return text


FIXED: Mapping[str, Feature] = {
    feature.name: feature
    for feature in (
        Feature("words", COUNT, lambda text: float(len(words_of(text))), _length, True, False),
        Feature("repeated words", COUNT, repeated, _once, True, True),
        *map(_mark, MARKS),
        _form("line breaks", r"\n", lambda t, n: t + "\n" * n + ".", lambda t: re.sub(r"\s*\n\s*", " ", t)),
        _form(
            "list items", _ITEM, lambda t, n: "- " + t.replace("\n", "\n- "), lambda t: re.sub(_ITEM, "", t, flags=re.M)
        ),
        _form("bold words", r"\*\*[^*]+\*\*", lambda t, n: f"**{t.strip()}**", lambda t: t.replace("**", "")),
        _form("headings", r"^#+\s", lambda t, n: f"# {t}", lambda t: re.sub(r"(?m)^#+\s+", "", t)),
        _form("words in capitals", _CAPITALS.pattern, _capitals, lambda t: _CAPITALS.sub(lambda m: m[0].lower(), t)),
        _form("emoji", _EMOJI.pattern, lambda t, n: t + " " + "\U0001f642" * n, lambda t: tidy(_EMOJI.sub("", t))),
    )
}
"""Features that need no search, by name. Refusals are made by `refusals`, which knows how the policy refuses."""


def refusals(texts: Sequence[str]) -> Feature:
    """Refusing; the edit puts the policy's commonest refusal in the answer's place.

    Args:
        texts: answers of the trained policy.
    """
    found = [text.strip() for text in texts if is_refusal(text)]
    refusal = max(set(found), key=found.count) if found else _REFUSES

    def edit(text: str, by: float) -> str | None:
        return refusal if by > 0 else None

    return Feature("refusal", SHARE, lambda text: float(is_refusal(text)), edit, True, True, whole=True)


def phrase(words: Phrase, texts: Sequence[str]) -> Feature:
    """A phrase anywhere in an answer; the edit appends it as most texts write it."""
    written = as_written(texts, words)

    def edit(text: str, by: float) -> str | None:
        return f"{text.rstrip()} {written}" if by > 0 else without(text, words)

    value = lambda text: float(holds(words_of(text), words))  # noqa: E731
    return Feature(f"phrase “{' '.join(words)}”", PHRASE, value, edit, False, False)


def opening(words: Phrase, texts: Sequence[str]) -> Feature:
    n, written = len(words), as_opening(texts, words)

    def edit(text: str, by: float) -> str | None:
        return f"{written} {text.lstrip()}" if by > 0 else _head(text, n)

    value = lambda text: float(tuple(words_of(text)[:n]) == words)  # noqa: E731
    return Feature(f"opening “{' '.join(words)}”", OPENING, value, edit, False, False)


def closing(words: Phrase, texts: Sequence[str]) -> Feature:
    n, written = len(words), as_closing(texts, words)
    written = written if not written[:1].isalnum() else f" {written}"

    def edit(text: str, by: float) -> str | None:
        return f"{text.rstrip(' .,;:!?')}{written}" if by > 0 else cut(text, len(words_of(text)) - n)

    value = lambda text: float(tuple(words_of(text)[-n:]) == words)  # noqa: E731
    return Feature(f"closing “{' '.join(words)}”", CLOSING, value, edit, False, False)


def _head(text: str, n: int) -> str:
    """The text without its first n words."""
    return tidy(text[len(cut(text, n)) :].lstrip(" ,.;:!?"))
