"""Counts of a loaded dataset, behind `python -m honest_persona data`: what was kept, what was rejected, and why."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from honest_persona.data.records import Record, Rejection, remedy_for
from honest_persona.data.sources import Loaded
from honest_persona.data.splits import Splits

EXAMPLES_PER_REASON = 3


def inventory(loaded: Loaded, splits: Splits | None = None) -> dict[str, Any]:
    """JSON-able counts; `read == kept + sum(rejected.values())`. The `by_` counts are of the kept records."""
    counts: dict[str, Any] = {
        "read": loaded.read,
        "kept": len(loaded.records),
        "rejected": dict(loaded.rejected.most_common()),
        "items": len({record.item_id for record in loaded.records}),
        "by_topic": _counts(record.topic for record in loaded.records),
        "by_variant": _counts(record.variant for record in loaded.records),
        "by_flag": _counts(record.flag for record in loaded.records),
        "by_variant_and_flag": _counts(f"{record.variant} {record.flag}" for record in loaded.records),
        "by_model": _counts(record.model for record in loaded.records),
        "by_intervention": _counts(record.intervention_name for record in loaded.records),
        "rejections": {
            reason: {"total": total, "remedy": remedy_for(reason), "examples": _examples(loaded.rejections, reason)}
            for reason, total in loaded.rejected.most_common()
        },
    }
    if splits is not None:
        counts["splits"] = {name: _part(part) for name, part in splits._asdict().items()}
    return counts


def render(counts: dict[str, Any], width: int = 120) -> str:
    """`inventory`'s counts as tables to read."""
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False)
    rejected = sum(counts["rejected"].values())
    console.print(
        f"read {counts['read']} = kept {counts['kept']} + rejected {rejected}; kept items {counts['items']}",
        markup=False,
    )
    for key in ("topic", "variant", "flag", "variant_and_flag", "model", "intervention"):
        console.print(_table(key.replace("_", " "), counts[f"by_{key}"]))
    if "splits" in counts:
        table = Table("split", "records", "items", "topics", title_justify="left")
        for name, part in counts["splits"].items():
            if name == "unused" and not part["records"]:
                continue  # only data with a split of its own has any
            table.add_row(name, str(part["records"]), str(part["items"]), Text(", ".join(part["by_topic"])))
        console.print(table)
    if rejected:
        table = Table(Column("rejected because", overflow="fold"), "n", Column("what to do", overflow="fold"))
        for reason, entry in counts["rejections"].items():
            table.add_row(Text(reason), str(entry["total"]), Text(entry["remedy"]))
        console.print(table)
        console.print("The first of each:")
        for reason, entry in counts["rejections"].items():
            first = entry["examples"][0]
            console.print(f"  {reason}: {first['file']}: {first['place']}", markup=False, soft_wrap=True)
    return out.getvalue()


def _counts(values: Any) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def _part(records: Sequence[Record]) -> dict[str, Any]:
    return {
        "records": len(records),
        "items": len({record.item_id for record in records}),
        "by_topic": _counts(record.topic for record in records),
        "by_variant_and_flag": _counts(f"{record.variant} {record.flag}" for record in records),
    }


def _examples(rejections: Sequence[Rejection], reason: str) -> list[dict[str, str | None]]:
    found = (rejection for rejection in rejections if rejection.reason == reason)
    return [rejection._asdict() for rejection, _ in zip(found, range(EXAMPLES_PER_REASON), strict=False)]


def _table(name: str, counts: dict[str, int]) -> Table:
    table = Table(name, "kept")
    for value, n in counts.items():
        table.add_row(Text(value), str(n))  # as Text, since names may look like rich's markup
    return table
