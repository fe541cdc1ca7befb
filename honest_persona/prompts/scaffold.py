"""The scaffold of a shape: what a chat template writes around the texts, and what it does to the texts themselves.

The template is rendered a few times with other texts in place of the markers. The differences show which white space it
strips and which characters it escapes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import NamedTuple

from honest_persona.base import json_text
from honest_persona.prompts.rendering import Refused, render
from honest_persona.prompts.shapes import BROKEN_MARK, MARK, Form, filled, marker

_SHOWN = re.compile(rf"{MARK.pattern}|Z[QI](\d{{5,}})QZ")
"""A marker in a rendering; some templates write some texts in capitals."""
_PADS = (("\n", " "), (" ", "\t"), ("\t", "\n"))
"""White space put in front of each text and behind it: two kinds at once, so that one can be told from the other."""
_PROBES = "\"\\'\n\r\t\b\f\x01<>&/é"
"""Characters that templates escape; \x01 stands for all other control characters, é for all that are not ASCII."""


@dataclass(frozen=True)
class Escape:
    """What a template makes of single characters, as in JSON."""

    table: tuple[tuple[str, str], ...] = ()
    control: str = ""
    """How U+0001 is written, where that differs from the character."""
    other: str = ""
    """How é is written, where that differs from the character."""

    def __call__(self, text: str) -> str:
        if not self.table and not self.control and not self.other:
            return text
        table = {ord(c): self.control.replace("0001", f"{ord(c):04x}") for c in _CONTROLS} if self.control else {}
        text = text.translate({**table, **{ord(c): written for c, written in self.table}})
        return re.sub(r"[^\x00-\x7f]", self._other, text) if self.other else text

    def _other(self, match: re.Match[str]) -> str:
        units = match[0].encode("utf-16-be")
        return "".join(
            self.other.replace("00e9", f"{int.from_bytes(units[i : i + 2]):04x}") for i in range(0, len(units), 2)
        )


_CONTROLS = [chr(code) for code in range(32) if chr(code) not in _PROBES] + ["\x01"]


class Slot(NamedTuple):
    """The place of a text."""

    leaf: int
    """The number of the text's marker."""
    strips: tuple[str | None, str | None] = ("", "")
    """The characters that the template strips from the start and from the end of the text; None: all white space."""
    escape: Escape = Escape()
    capitals: bool = False

    def write(self, text: str) -> str:
        return self.escape(text.upper() if self.capitals else text)


@dataclass(frozen=True)
class Scaffold:
    """The template's text around the texts of a conversation: before[0] slots[0] before[1] ... tail."""

    before: tuple[str, ...]
    """The text in front of each slot."""
    slots: tuple[Slot, ...]
    tail: str
    """The text after the last slot."""

    def behind(self, n: int) -> str:
        """The text behind the first n slots, up to the next one."""
        return self.before[n] if n < len(self.before) else self.tail


@lru_cache(maxsize=4096)
def scaffold_of(template: str, special_tokens: str, skeleton: str, form: Form) -> Scaffold | str:
    """The scaffold, or why there is none. Cached by all that the scaffold depends on; `special_tokens` is JSON.

    Raises:
        Exceeded: the template does not end, or takes too much memory.
    """
    around = {"tools": None, "documents": None, "add_generation_prompt": form.asks, **json_text.loads(special_tokens)}
    found = (match[0] for match in MARK.finditer(skeleton))
    leaves = {mark for mark in found if mark.startswith("zq")}  # ids and numbers stay as they are

    def rendered(parts: Sequence[str]) -> "_Rendering | None":
        """With `mark.join(parts)` in place of each marker of a text."""
        variables = filled(skeleton, form, {mark: mark.join(parts) for mark in leaves})
        return _Rendering.of(render(template, {**around, **variables}))

    try:
        plain = rendered(["", ""])
        probes = rendered(["", *_PROBES, ""])
        padded = [rendered(pads) for pads in _PADS]
    except Refused as refused:
        return str(refused)
    if plain is None:
        return ""
    texts = [marker(leaf) in leaves for leaf in plain.leaves]
    escapes = _escapes(plain, probes, texts)
    kept = [_kept(plain, escapes, texts, *both) for both in zip(padded, _PADS, strict=True)] if escapes else []
    known = [pairs for pairs in kept if pairs is not None]
    if escapes is None or len(known) < len(kept):
        return ""
    strips = [(_stripped(known, i, 0), _stripped(known, i, 1)) for i in range(len(texts))]
    slots = tuple(map(Slot, plain.leaves, strips, escapes, plain.capitals))
    return Scaffold(tuple(plain.pieces[:-1]), slots, plain.pieces[-1])


class _Rendering(NamedTuple):
    pieces: list[str]
    """The texts around the markers."""
    leaves: list[int]
    """The markers' numbers."""
    capitals: list[bool]
    """Whether the markers are written so."""

    @classmethod
    def of(cls, text: str) -> "_Rendering | None":
        """None where the template has changed a marker."""
        found = list(_SHOWN.finditer(text))
        edges = [0, *(edge for match in found for edge in match.span()), len(text)]
        pieces = [text[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)]
        leaves = [int(match[1] or match[2] or match[3]) for match in found]
        return None if any(map(BROKEN_MARK.search, pieces)) else cls(pieces, leaves, [bool(m[3]) for m in found])


def _escapes(plain: _Rendering, probes: _Rendering | None, texts: Sequence[bool]) -> list[Escape] | None:
    """Per slot; None where the template writes something else around texts with such characters."""
    if probes is None:
        return None
    escapes, at = [], 0
    for i, is_text in enumerate(texts):
        if probes.pieces[at : at + 1] != plain.pieces[i : i + 1]:
            return None
        n = len(_PROBES) if is_text else 0
        if probes.leaves[at : at + n + 1] != [plain.leaves[i]] * (n + 1):
            return None
        escapes.append(_escape(probes.pieces[at + 1 : at + 1 + n], plain.capitals[i]) if is_text else Escape())
        at += n + 1
    return escapes if probes.pieces[at:] == plain.pieces[-1:] else None


def _escape(written: Sequence[str], capitals: bool) -> Escape:
    given = _PROBES.upper() if capitals else _PROBES
    changed = {probe: text for probe, text in zip(given, written, strict=True) if probe != text}
    control, other = changed.pop("\x01", ""), changed.pop("é", "")
    return Escape(tuple(changed.items()), control, other)


def _kept(
    plain: _Rendering,
    escapes: Sequence[Escape],
    texts: Sequence[bool],
    padded: _Rendering | None,
    pads: tuple[str, str],
) -> list[tuple[bool, bool]] | None:
    """Per slot, whether the white space in front of the text and behind the text is kept."""
    if padded is None or padded.leaves != plain.leaves:
        return None
    in_front, behind = [False] * len(texts), [False] * len(texts)
    for i, (piece, with_pads) in enumerate(zip(plain.pieces, padded.pieces, strict=True)):
        # the piece stands between slot i - 1 and slot i
        last = escapes[i - 1](pads[1]) if i and texts[i - 1] else ""
        first = escapes[i](pads[0]) if i < len(texts) and texts[i] else ""
        for a, b in product(dict.fromkeys((last, "")), dict.fromkeys((first, ""))):
            if a + piece + b == with_pads:
                break
        else:
            return None
        if i:
            behind[i - 1] = bool(a)
        if i < len(texts):
            in_front[i] = bool(b)
    return list(zip(in_front, behind, strict=True))


def _stripped(kept: Sequence[list[tuple[bool, bool]]], slot: int, side: int) -> str | None:
    gone = "".join(pads[side] for pads, slots in zip(_PADS, kept, strict=True) if not slots[slot][side])
    return gone if len(gone) < len(_PADS) else None
