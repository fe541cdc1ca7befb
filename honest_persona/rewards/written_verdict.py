"""The verdict in what a judge has written, and P(true) at the place where it wrote it.

    found = written_verdict(text, ended=True, answer=answer, wording=CHAT)
    probability = 1.0 if found is None else p_true(found, tokens, CHAT)

A judge may think aloud, and quote the answer that it judges. So the last verdict on a line of its own counts, and a
verdict inside a sentence only where it cannot be a quote.
"""

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from honest_persona.rewards.wording import Wording

_MARKS = "*`"
"""Emphasis of Markdown: models write **Verdict:** true."""
_AROUND = re.compile(r"[\s*#.!-]*")
"""What may stand beside a verdict on its line. Quotation marks may not."""


class Written(NamedTuple):
    """A verdict in a text."""

    text: str
    start: int
    """The character with which the verdict's word begins."""
    is_true: bool


def written_verdict(text: str, ended: bool, answer: str, wording: Wording) -> Written | None:
    """The verdict that a text comes to; None where it comes to none, or to both.

    Args:
        text: what the judge wrote.
        ended: whether it came to an end by itself. If not, only a verdict at the very end is one.
        answer: what was judged. Where it holds words of a verdict itself, only a line of its own counts.
    """
    places = [i for i, character in enumerate(text) if character not in _MARKS]
    plain = "".join(text[i] for i in places)
    pattern = re.compile(wording.pattern.pattern, re.IGNORECASE)
    found = [match for match in pattern.finditer(plain) if ended or not re.search(r"\w", plain[match.end() :])]
    alone = [match for match in found if _is_alone(match)]
    if not alone and wording.before and pattern.search(answer):
        return None
    words = {match["word"].casefold() for match in alone[-1:] or found}
    if len(words) != 1:
        return None
    start = places[(alone or found)[-1].start("word")]
    return Written(text, start, words == {wording.true.casefold()})


def _is_alone(match: re.Match[str]) -> bool:
    """Whether nothing else stands on its line, or on its lines."""
    begin = match.string.rfind("\n", 0, match.start()) + 1
    end = match.string.find("\n", match.end())
    rest = match.string[begin : match.start()], match.string[match.end() : None if end < 0 else end]
    return all(_AROUND.fullmatch(part) for part in rest)


def p_true(found: Written, tokens: Sequence[Any] | None, wording: Wording) -> float:
    """P(true) against P(false) at the token in which the words of the two verdicts part.

    Args:
        tokens: of the text, as the API gives them: `token`, perhaps `bytes`, `logprob`, and the likeliest tokens at its
            place as `top_logprobs`. Without them the probability is 1 or 0, by the verdict's word.
    """
    written = 1.0 if found.is_true else 0.0
    sides = wording.true.casefold(), wording.false.casefold()
    common = next((i for i, (a, b) in enumerate(zip(*sides, strict=False)) if a != b), min(map(len, sides)))
    pieces = [_bytes(token) for token in tokens or ()]
    whole = b"".join(pieces).decode("utf-8", "surrogateescape")
    before = whole.rfind(found.text)  # a server may count tokens of its reasoning, too
    if before < 0:
        return written
    start, parting = (_n_bytes(whole[: before + found.start + n]) for n in (0, common))
    at = 0
    for token, piece in zip(tokens or (), pieces, strict=True):
        if at <= parting < at + len(piece):
            begun = b"".join(pieces)[start:at].decode("utf-8", "ignore")
            sums = [0.0, 0.0]
            for text, logprob in _likeliest(token):
                word = (begun + text if begun else re.sub(r"^[\W_]+", "", text)).casefold()
                fits = [word.startswith(side) or (len(word) > common and side.startswith(word)) for side in sides]
                if fits.count(True) == 1:
                    sums[fits.index(True)] += math.exp(logprob)
            return sums[0] / sum(sums) if sum(sums) else written
        at += len(piece)
    return written


def _likeliest(token: Any) -> Iterator[tuple[str, float]]:
    """The likeliest tokens at a place, with the one that was written."""
    likeliest = {one.token: one.logprob for one in token.top_logprobs or ()}
    yield from ({token.token: token.logprob} | likeliest).items()


def _bytes(token: Any) -> bytes:
    """A token may be a part of a character; then its bytes say which."""
    return bytes(token.bytes) if token.bytes is not None else token.token.encode("utf-8", "surrogateescape")


def _n_bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogateescape"))
