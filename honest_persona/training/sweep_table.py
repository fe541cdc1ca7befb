"""What a sweep found, as tables: a line per fold, and of a matrix what was trained against what was asked about."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from honest_persona.evaluation.metrics import ALL
from honest_persona.evaluation.report import detectors_table
from honest_persona.evaluation.samples import HONEST_PERSONA, Group
from honest_persona.evaluation.suite import Row


def print_sweep(content: Mapping[str, Any]) -> None:
    """Print what `sweep.json` holds; beside the folds, every detector on the pooled records."""
    console = Console(width=160)
    console.print(_folds_table(content))
    if content["pooled"]:
        console.print(detectors_table([Row(**row) for row in content["pooled"]]))
    if content["design"] == "topic_matrix":
        console.print(_matrix(content["folds"]))


def _folds_table(content: Mapping[str, Any]) -> Table:
    out = Table(
        title=content["design"].replace("_", " "),
        caption="95 % intervals clustered by item; FAIL is positive; A and B: AUROC within that variant",
    )
    for name in ("fold", "part", "n", "items", "balanced accuracy", "AUROC", "in A", "in B"):
        out.add_column(name, justify="right" if name in ("n", "items") else "left")
    parts = ("across",) if content["design"] == "leave_one_topic_out" else ("within", "across")
    for fold in (*content["folds"], {"name": "pooled", "rows": content["pooled"]}):
        rows = _by_group(fold["rows"])
        for part in parts:
            if row := rows.get(Group(part)):
                figures = [_figure(row, name) for name in ("balanced_accuracy", "auroc")]
                within = [_figure(rows.get(Group(part, variant=variant)), "auroc") for variant in "AB"]
                counts = str(row["n"]), str(row["n_items"])
                style = "bold" if fold["name"] == "pooled" else None
                out.add_row(fold["name"], part, *counts, *figures, *within, style=style)
    return out


def _matrix(folds: Sequence[Mapping[str, Any]]) -> Table:
    out = Table(title="by trained topic", caption="balanced accuracy / AUROC of held-out items, a column per topic")
    out.add_column("trained")
    cells: dict[tuple[str, str], Mapping[str, Any]] = {}
    for fold in folds:
        for group, row in _by_group(fold["rows"]).items():
            if group == Group(group.part, group.topic) and group.topic != ALL:
                cells.setdefault((", ".join(fold["train_topics"]), group.topic), row)
    topics = sorted({topic for _, topic in cells})
    for topic in topics:
        out.add_column(topic)
    for trained in dict.fromkeys(trained for trained, _ in cells):
        rows = [cells.get((trained, topic)) for topic in topics]
        out.add_row(
            trained, *(f"{_figure(r, 'balanced_accuracy', False)} / {_figure(r, 'auroc', False)}" for r in rows)
        )
    return out


def _by_group(rows: Sequence[Mapping[str, Any]]) -> dict[Group, Mapping[str, Any]]:
    """The honest persona's rows."""
    return {Group(*(r[name] for name in Group._fields)): r for r in rows if r["detector"] == HONEST_PERSONA}


def _figure(row: Mapping[str, Any] | None, name: str, with_interval: bool = True) -> str:
    if row is None or row["rates"][name] is None:
        return "-"
    interval = row["intervals"][name] if with_interval else None
    return f"{row['rates'][name]:.3f}" + (f" ({interval[0]:.2f}-{interval[1]:.2f})" if interval else "")
