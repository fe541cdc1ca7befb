"""Entries of `ood` and `--ood`: files of questions with given choices that an evaluation measures beside its own parts.

An entry is FORMAT:PATH or NAME=FORMAT:PATH. The files are parts `ood/NAME` of the results.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator

from honest_persona.base.words import ALL, OOD, PARTS

FORMATS: Mapping[str, str] = MappingProxyType(
    {
        "genies": "pairs of GENIES: prompt, responses with a score of 1 or 0",
        "truthful_qa": "multiple choice of TruthfulQA: question, mc1_targets, mc2_targets",
        "model_written": "Anthropic's model-written evaluations: question, answer_matching_behavior, ...",
        "caa": "contrastive activation addition: the same, with the answers (A) and (B)",
        "pairs": "pairs of this package: prompt, chosen, rejected (docs/data.md)",
    }
)
"""By name, what a file of the format holds; data/choices/ has a reader for each."""
_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)=(.*)", re.DOTALL)
_SAYS_LITTLE = ("data", "dataset", "eval", "examples", "generate_dataset", "test", "test_dataset_ab", "train")
"""Names of files that are told apart by their folder's name."""


class OodEntry(NamedTuple):
    name: str
    format: str
    dataset: str
    """A path or a Hub id."""

    @property
    def part(self) -> str:
        return OOD + self.name


def ood_entries(texts: Sequence[str]) -> list[OodEntry]:
    """Raises ValueError: an entry of another form, an unknown format, two entries of one name."""
    entries = [_entry(text) for text in texts]
    name, n = Counter(entry.name for entry in entries).most_common(1)[0] if entries else ("", 0)
    if n > 1:
        twice = {text: entry for text, entry in zip(texts, entries, strict=True) if entry.name == name}
        if len(twice) == 1:
            raise ValueError(f"{next(iter(twice))} is there twice; remove one")
        *_, last = twice.values()
        other = f"other={last.format}:{last.dataset}"
        raise ValueError(f"{' and '.join(twice)} have one name, {name}; name one, as {other}")
    return entries


def checked_entries(value: Any) -> tuple[str, ...]:
    """The value of the key `ood`. Raises ValueError."""
    texts = [value] if isinstance(value, str) and value else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) and text for text in texts):
        raise ValueError("must be a list of FORMAT:PATH, as [genies:pairs.json]")
    ood_entries(texts)
    return tuple(texts)


Ood = Annotated[tuple[str, ...], BeforeValidator(checked_entries)]


def _entry(text: str) -> OodEntry:
    named = _NAMED.fullmatch(text)
    name, rest = named.groups() if named else ("", text)
    form, colon, dataset = rest.partition(":")
    if form not in FORMATS or not colon or not dataset:
        raise ValueError(f"{text!r} is not FORMAT:PATH, with a FORMAT of {', '.join(FORMATS)}")
    name = name or _name_of(dataset)
    if name in (ALL, *PARTS):
        raise ValueError(f"{text!r} has the name {name}, which is taken; name it otherwise, as mine={rest}")
    return OodEntry(name, form, dataset)


def _name_of(dataset: str) -> str:
    """The file's name without endings, or its folder's where the file's says little; of a Hub id its last word."""
    path = PurePath(dataset.rstrip("/"))
    stem = path.name.split(".")[0] or path.name
    if stem in _SAYS_LITTLE and path.parent.name:
        stem = path.parent.name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._") or "questions"
