"""The rows of a dataset with label, group and part, checked before any text is made.

    chosen = choose(table, templates, Choice(parts, group="title"))
    chosen.items, chosen.left_out

A row's content is what the templates read of it, without the label. Rows of equal content are one row; without a column
of groups each content is a group of its own, so that equal texts never stand in two parts.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, NamedTuple

from honest_persona.base import json_text
from honest_persona.base.console import counted, one_line
from honest_persona.base.errors import UserError
from honest_persona.base.grouping import grouped
from honest_persona.data.parts import Parts
from honest_persona.data.sources.plain import PlainTable
from honest_persona.prompts.text_templates import CHOICES, LABEL, OF_TWO, TextTemplate

FEWEST_GROUPS = 5
"""Of each class in each part: what a cross-validation of five folds holds apart."""
NO_LABEL = "no label"
REPEATED = "repeats a row of the same content"
TWO_LABELS = "the same content with different labels"
REST = "in no part: the shares leave a rest"
_SHOWN = 5


@dataclass(frozen=True)
class Choice:
    """What the command line says of rows."""

    parts: Parts
    group: str | None = None
    """The column of the groups."""
    label: str | None = None
    """The column of the labels; None takes `label`, where there is one."""
    label_values: tuple[str, ...] | None = None
    """The labels' values, in the order of the choices."""
    seed: int = 0


class Item(NamedTuple):
    """A row that is used."""

    place: int
    """In the table."""
    id: str
    """The hash of its content."""
    group: str
    label: int | None
    """The number of the true choice; None where the data has no labels."""
    part: str


class Chosen(NamedTuple):
    items: list[Item]
    """In the order of the rows."""
    left_out: Counter[str]
    label: str | None
    """The column of the labels."""
    content: tuple[str, ...]
    """The columns that make a row's content."""


def choose(table: PlainTable, templates: Sequence[TextTemplate], choice: Choice) -> Chosen:
    """Raises UserError: an unknown column, a label outside the choices, a row without a group, a part too small."""
    need_labels = any(use in OF_TWO for template in templates for use in template.use)
    label = _label_column(table, choice.label, need_labels)
    content = _content_columns(table, templates, label)
    if choice.group is not None and choice.group not in table.columns:
        raise UserError(f"--group: {_no_column(choice.group, table)}")
    left_out: Counter[str] = Counter()
    found: list[Item] = []
    for place in range(len(table)):
        row = table.row(place)
        number = None if label is None else _label(table, place, row.get(label), label, choice.label_values)
        if number is None and need_labels:
            left_out[NO_LABEL] += 1
            continue
        if need_labels and not 0 <= (number or 0) < 2:
            raise UserError(
                f"{table.place(place)}: the label {number} of column {label!r} is outside the choices, 0 and 1; "
                "correct it, or use templates with `use: prompts` alone"
            )
        row_id = _hash({name: row.get(name) for name in content})
        group = row_id if choice.group is None else _group(table, place, row.get(choice.group), choice.group)
        found.append(Item(place, row_id, group, number, choice.parts.part_of(group, choice.seed) or ""))
    once = sorted(_once(table, found, left_out), key=lambda item: item.place)
    left_out[REST] = sum(not item.part for item in once)
    items = [item for item in once if item.part]
    _check_parts(items, choice, need_labels, left_out)
    return Chosen(items, +left_out, label, content)


def _content_columns(table: PlainTable, templates: Sequence[TextTemplate], label: str | None) -> tuple[str, ...]:
    """Raises UserError: a template reads a column that no row has, or a column has a reserved name."""
    if CHOICES in table.columns:
        raise UserError(f"the dataset has a column {CHOICES!r}, a name that templates need for theirs; rename it")
    read: set[str] = set()
    for template in templates:
        for name in sorted(template.columns() - table.columns.keys() - {LABEL}):
            raise UserError(f"template {template.name!r}: {_no_column(name, table)}")
        read |= template.columns()
    return tuple(sorted(read & table.columns.keys() - {label}))


def _no_column(name: str, table: PlainTable) -> str:
    close = get_close_matches(name, table.columns, n=1)
    meant = f" (is {one_line(close[0])!r} meant?)" if close else ""
    return f"no row has a column {one_line(name)!r}{meant}; there are {', '.join(map(one_line, table.columns))}"


def _label_column(table: PlainTable, given: str | None, needed: bool) -> str | None:
    if given is not None or (needed and LABEL not in table.columns):
        name = given or LABEL
        if name not in table.columns:
            raise UserError(f"--label: {_no_column(name, table)}")
    return given or (LABEL if LABEL in table.columns else None)


def _label(table: PlainTable, place: int, value: Any, column: str, values: Sequence[str] | None) -> int | None:
    """The number of the true choice; None where there is no label, which datasets writes as -1 too."""
    if value is None or value in ("", -1, "-1"):
        return None
    named = table.class_names.get(column, {}).get(value) if isinstance(value, int) else None
    if values is not None:
        texts = [named, str(value)]
        if hits := [values.index(text) for text in texts if text in values]:
            return hits[0]
        raise UserError(
            f"{table.place(place)}: the label {one_line(named or value)!r} is none of --label_values "
            f"({', '.join(values)}); name all labels, in the order of the choices"
        )
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return int(value.strip().lower() == "true")
    number = value
    if isinstance(value, str):
        number = int(value) if value.strip().isdecimal() else None
    if not isinstance(number, int | float) or number != number // 1 or number < 0:
        found = sorted({str(table.row(i).get(column)) for i in range(min(len(table), 1000))} - {"", "None"})[:_SHOWN]
        raise UserError(
            f"{table.place(place)}: the label {one_line(value)!r} of column {one_line(column)!r} is no number of a "
            "choice (0, 1, ...); say which value means which choice: "
            f"--label_values {','.join(map(one_line, found))} names the first choice first"
        )
    return int(number)


def _group(table: PlainTable, place: int, value: Any, column: str) -> str:
    if isinstance(value, float) and value == value // 1:
        value = int(value)  # a table's column of whole numbers, of which some are absent
    if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
        what = "has no value" if value in (None, "") else f"is {one_line(value)[:40]!r}, no text or whole number,"
        raise UserError(f"{table.place(place)}: column {column!r}, which --group names, {what}; mend or remove the row")
    return str(value)


def _once(table: PlainTable, items: Sequence[Item], left_out: Counter[str]) -> Iterator[Item]:
    """One item for each content, whichever order the rows stand in: the smallest row as JSON."""
    for alike in grouped(items, lambda item: item.id).values():
        if len({item.label for item in alike}) > 1:
            left_out[TWO_LABELS] += len(alike)
            continue
        left_out[REPEATED] += len(alike) - 1
        yield alike[0] if len(alike) == 1 else min(alike, key=lambda item: _hash(table.row(item.place)))


def _hash(values: Mapping[str, Any]) -> str:
    """First 16 hex digits; equal rows have one hash, whatever the order of their columns."""
    return hashlib.sha256(json_text.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _check_parts(items: Sequence[Item], choice: Choice, need_labels: bool, left_out: Counter[str]) -> None:
    groups: defaultdict[tuple[str, int | None], set[str]] = defaultdict(set)
    for item in items:
        groups[item.part, item.label if need_labels else None].add(item.group)
    reasons = ", ".join(f"{one_line(reason)} {n:,}" for reason, n in (+left_out).most_common())
    by = f"column {choice.group!r}" if choice.group else "the content of the rows"
    for part, share in choice.parts.shares:
        for label in (0, 1) if need_labels else (None,):
            n, fewest = len(groups[part, label]), FEWEST_GROUPS if need_labels else 1
            if n < fewest:
                of = f" with label {label}" if need_labels else ""
                total = len(set().union(*(found for (_, other), found in groups.items() if other == label)))
                raise UserError(
                    f"--parts: {part} (share {share}) would get {counted(n, 'group')}{of} of the {total:,} in all parts"
                    f", and needs {fewest}. Groups are by {by}. Give it a larger share, take finer groups, or more "
                    f"data{f' (left out: {reasons})' if reasons else ''}"
                )
