"""The result of a reader, and the steps that readers share: open a file, decode its JSON, show its name."""

import json
import os
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol

from honest_persona.base.progress import followed
from honest_persona.data.rejections import Candidate, Outcome, Rejection
from honest_persona.data.sources.kinds import kind_problem
from honest_persona.data.sources.text import COMPRESSED, encoding_problem, first_damage
from honest_persona.data.strict_json import loads

RowForm = Callable[[Any, str, str], Outcome]
"""Turns (the row, the name of its file, its place in that file) into an outcome. Hashable; equal forms act alike."""


class AsItIs:
    """A row form whose rows get no column beside their own."""


KEPT_BYTES = 128 * 2**20
"""What was read of a dataset stays in memory where its files are not larger; larger ones are read anew each time."""


class Part(Hashable, Protocol):
    """A file of a dataset, or what stands for one. It can be read more than once."""

    @property
    def name(self) -> str: ...

    def stamp(self) -> tuple[int, int]:
        """Time of the last change and size in bytes. Raises OSError: there is no such file."""

    def read(self) -> Iterator[Outcome]:
        """Raises OSError: the file cannot be read, or not to its end."""


@dataclass(frozen=True)
class FilePart:
    path: Path
    reader: Callable[[Path], Iterator[Outcome]]

    @property
    def name(self) -> str:
        return shown(self.path)

    def stamp(self) -> tuple[int, int]:
        stat = self.path.stat()
        if not self.path.is_file():  # a pipe would be waited for
            raise OSError(f"{self.path} is no file")
        return stat.st_mtime_ns, stat.st_size

    def read(self) -> Iterator[Outcome]:
        yield from self.reader(self.path)


@dataclass(frozen=True)
class RowReader:
    """Reads a file of rows. Raises OSError."""

    rows: Callable[[Path], Iterator[tuple[Any, str]]]
    """Gives each row, or its Rejection, with its place in the file."""
    form: RowForm

    def __call__(self, path: Path) -> Iterator[Outcome]:
        file = shown(path)
        if problem := kind_problem(path):
            yield Rejection(file, "whole file", "file", problem)
            return
        try:
            for row, place in self.rows(path):
                yield row if isinstance(row, Rejection) else self.form(row, file, place)
        except OSError:
            if path.suffix.lower() not in COMPRESSED:
                raise
            yield Rejection(file, "after the last row", "file", f"damaged_file:{COMPRESSED[path.suffix.lower()]} file")


@dataclass
class Summary:
    """What names occur in a dataset, before any selection."""

    topics: Counter[str] = field(default_factory=Counter)
    names: Counter[str] = field(default_factory=Counter)
    """Of interventions."""
    models: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)
    """Columns that are not used, and the number of their rows."""

    def add(self, other: "Summary") -> None:
        for name in ("topics", "names", "models", "ignored"):
            getattr(self, name).update(getattr(other, name))


@dataclass(frozen=True)
class Source:
    """A dataset that was found. Nothing is read before `outcomes` or `summary` is asked for."""

    label: str
    parts: Sequence[Part]
    batch_files: Mapping[str, int] | None = None
    """Number of batch files of each topic; None for rows, which name their topics themselves."""
    rejections: Sequence[Rejection] = ()
    """What cannot be used, as is known before a file is opened."""
    config: str | None = None
    """The config that was taken, where the dataset has such."""
    splits: Mapping[str, str | None] = field(default_factory=dict)
    """The splits that were taken, and what each is for: train, validation, or None for the seeded split."""

    def outcomes(self) -> Iterator[Outcome]:
        """One after another, in the order of the files; each call reads anew what is too large to be kept."""
        yield from self.rejections
        for part in followed(self.parts, "reading", "files") if len(self.parts) > 1 else self.parts:
            yield from _outcomes(part, self._is_kept)

    def state(self) -> Hashable:
        """Equal for sources that give the same outcomes: the files are the same, and unchanged."""
        files = tuple((part, _stamp(part)) for part in self.parts)
        return self.label, files, tuple(self.rejections), self.config, tuple(self.splits.items())

    @cached_property
    def summary(self) -> Summary:
        total = Summary()
        for part in followed(self.parts, "looking", "files") if len(self.parts) > 1 else self.parts:
            total.add(_summary(part, _stamp(part), self._is_kept))
        return total

    @property
    def topics(self) -> Mapping[str, int]:
        """Number of batch files (or sound rows) of each topic."""
        return self.summary.topics if self.batch_files is None else self.batch_files

    @cached_property
    def _is_kept(self) -> bool:
        return sum(stamp[1] for part in self.parts if (stamp := _stamp(part))) <= KEPT_BYTES


def _stamp(part: Part) -> tuple[int, int] | None:
    try:
        return part.stamp()
    except OSError:
        return None


# Time and size are part of the key, so that an edited file is read again. The cache holds the columns, not the JSON.
@lru_cache(maxsize=4096)
def _kept_outcomes(part: Part, stamp: tuple[int, int]) -> tuple[Outcome, ...]:
    return tuple(_all_of(part))


@lru_cache(maxsize=4096)
def _summary(part: Part, stamp: tuple[int, int] | None, is_kept: bool) -> Summary:
    found = Summary()
    for outcome in _outcomes(part, is_kept):
        found.ignored.update(outcome.ignored)
        if isinstance(outcome, Candidate):
            found.topics[outcome.values["topic"]] += 1
            found.models[outcome.values["model"]] += 1
            if (name := outcome.values.get("intervention_name")) is not None:  # feedback has none
                found.names[name] += 1
    return found


def _outcomes(part: Part, is_kept: bool) -> Iterator[Outcome]:
    stamp = _stamp(part)
    return iter(_kept_outcomes(part, stamp)) if is_kept and stamp else _all_of(part)


def _all_of(part: Part) -> Iterator[Outcome]:
    """What one file holds, and a rejection where it cannot be read, or not to its end."""
    try:
        part.stamp()
        yield from part.read()
    except OSError:
        yield Rejection(part.name, "whole file", "file", "unreadable_file")


def decode(text: str, file: str, line: int | None = None) -> Any:
    """The parsed JSON, or a Rejection; `line` is the number of a JSONL line, else the decoder's own is used."""
    reason = "malformed_json"
    if problem := encoding_problem(text):
        reason, at = problem, first_damage(text)
        place = f"line {line or text.count(chr(10), 0, at) + 1}, column {at - text.rfind(chr(10), 0, at)}"
    else:
        try:
            return loads(text)
        except json.JSONDecodeError as error:
            place = f"line {line or error.lineno}, column {error.colno}"
        except RecursionError:
            place = f"line {line or 1}, nested too deep"
    return Rejection(file, place, "file" if line is None else "row", reason)


def shown(path: str | Path) -> str:
    """A path as printable text; bytes of its name that are not UTF-8 appear as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
