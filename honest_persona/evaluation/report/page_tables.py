"""The tables of an evaluation's page, made of rows of results.json.

rows = Rows.of(content["rows"], "results.json#/rows")
rows.get("honest persona", "within", topic="sycophancy")["rates"]["auroc"]
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from honest_persona.base.words import ALL, HONEST_PERSONA, VARIANTS
from honest_persona.statistics.metrics import Metric, Place, named, shown

ResultsRow = dict[str, Any]
"""A row of results.json, with its place `at`: `<file>#<JSON pointer>` (RFC 6901)."""


@dataclass(frozen=True)
class Rows:
    rows: list[ResultsRow]

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]], at: str) -> "Rows":
        return cls([{**row, "at": f"{at}/{i}"} for i, row in enumerate(rows)])

    def get(self, detector: str, part: str, **of: str) -> ResultsRow | None:
        """The row of a group; `topic`, `variant`, `model` and `difficulty` are `all` where they are not given."""
        wanted = {"topic": ALL, "variant": ALL, "model": ALL, "difficulty": ALL, **of}
        wanted |= {"detector": detector, "part": part}
        return next((row for row in self.rows if all(row.get(key) == value for key, value in wanted.items())), None)

    def names(self, key: str) -> list[str]:
        """The values of `part`, `topic`, ... in the honest persona's rows, in their order, without `all`."""
        return [n for n in dict.fromkeys(r[key] for r in self.rows if r.get("detector") == HONEST_PERSONA) if n != ALL]

    @property
    def have_variants(self) -> bool:
        return any(row["variant"] != ALL for row in self.rows)

    @property
    def plain_parts(self) -> list[str]:
        """The parts without a design behind a colon."""
        return [part for part in self.names("part") if ":" not in part]

    @property
    def detectors(self) -> list[str]:
        """All detectors, the honest persona first."""
        return list(dict.fromkeys([HONEST_PERSONA, *(row["detector"] for row in self.rows if "detector" in row)]))

    def strongest_baseline(self, part: str, metric: str) -> ResultsRow | None:
        rows = [row for name in self.detectors[1:] if (row := self.get(name, part))]
        defined = [row for row in rows if row["rates"].get(metric) is not None]
        return max(defined, key=lambda row: row["rates"][metric], default=None)


@dataclass
class Table:
    """Rows of metrics in groups, with notes."""

    caption: str
    heads: tuple[str, str]
    """What the groups are, and what the rows are."""
    groups: dict[str, list[tuple[str, ResultsRow, list[ResultsRow | None]]]] = field(default_factory=dict)
    """By group: name, row, and the rows of variant A and of B."""
    notes: dict[str, int] = field(default_factory=dict)
    """Texts with their numbers."""

    @property
    def have_variants(self) -> bool:
        return any(any(within) for lines in self.groups.values() for _, _, within in lines)

    def add(self, group: str, name: str, rows: Rows, row: ResultsRow) -> None:
        of = {key: row[key] for key in ("topic", "model", "difficulty")}
        within = [rows.get(row["detector"], row["part"], **of, variant=variant) for variant in VARIANTS]
        self.groups.setdefault(group, []).append((name, row, within))
        for metric in shown(Place.TABLE):
            if note := row["notes"].get(metric.name):
                self.notes.setdefault(note, len(self.notes) + 1)


def tables_of(rows: Rows) -> list[Table]:
    """The honest persona's rows by topic, and by main model and by difficulty where there are several."""
    tables = []
    for key, head in (("topic", "topic"), ("model", "main model"), ("difficulty", "difficulty")):
        names = rows.names(key)
        table = Table(f"By {head}", ("part", head))
        for part in rows.plain_parts:
            for name in (ALL, *names):
                if row := rows.get(HONEST_PERSONA, part, **{key: name}):
                    table.add(part, name, rows, row)
        if key == "topic" or len(names) > 1:
            tables.append(table)
    return tables


def designs_table(rows: Rows) -> Table:
    """Each part unchanged and under its designs; a table without groups where there are no designs."""
    table = Table("Held-out records with one thing changed", ("part", "design"))
    for part in rows.plain_parts:
        designs = [name for name in rows.names("part") if name.startswith(f"{part}: ")]
        for name in [part, *designs] if designs else []:
            if row := rows.get(HONEST_PERSONA, name):
                table.add(part, name.removeprefix(f"{part}: ") if name != part else "unchanged", rows, row)
    return table


def detectors_table(rows: Rows) -> Table:
    table = Table("The honest persona, and what can be had without it", ("part", "detector"))
    for part in rows.plain_parts:
        for name in rows.detectors:
            if row := rows.get(name, part):
                table.add(part, name, rows, row)
    return table


@dataclass
class Scores:
    """The metrics of `Place.SCORES`: a line per metric, a column per part."""

    rows: dict[str, ResultsRow]
    metrics: dict[str, Metric] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for row in self.rows.values():
            for name in row["rates"]:
                if (metric := named(name)) and Place.SCORES in metric.places:
                    self.metrics[name] = metric
                    if note := row["notes"].get(name):
                        self.notes.setdefault(note, len(self.notes) + 1)


def number(value: float | None) -> str:
    """How the page writes a figure."""
    return "–" if value is None else f"{value:.3f}"
