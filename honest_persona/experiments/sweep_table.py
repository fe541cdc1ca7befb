"""The tables of a sweep: a line per fold; for a topic matrix, trained topics against tested topics."""

from collections.abc import Mapping, Sequence
from typing import Any

from honest_persona.base.console import Column, Table, show
from honest_persona.base.words import ACROSS, ALL, HONEST_PERSONA, PARTS, VARIANTS
from honest_persona.evaluation.report.tables import (
    detectors_table,
    figure_columns,
    figures,
    figures_caption,
    have_variants,
    headline_figures,
    headlines,
)
from honest_persona.evaluation.samples import Group
from honest_persona.evaluation.suite import DetectorRow


def print_sweep(content: Mapping[str, Any]) -> None:
    """Print the content of `sweep.json`: the folds, and every detector on the pooled records."""
    show(_folds_table(content))
    if content["pooled"]:
        show(detectors_table([DetectorRow(**row) for row in content["pooled"]]))
    if content["design"] == "topic_matrix":
        show(_matrix(content["folds"]))


def _folds_table(content: Mapping[str, Any]) -> Table:
    every = (DetectorRow(**row) for fold in content["folds"] for row in fold["rows"])
    variants = VARIANTS if have_variants(every) else ()
    first = [Column("fold", "name"), Column("part", "name"), Column("n"), Column("items", tier=2)]
    columns = [*first, *figure_columns(with_variants=bool(variants))]
    caption = figures_caption(bool(variants))
    out = Table(content["design"].replace("_", " "), columns, caption, "sweep.json and report.html")
    parts = (ACROSS,) if content["design"] == "leave_one_topic_out" else tuple(PARTS)
    for fold in (*content["folds"], {"name": "pooled", "rows": content["pooled"]}):
        rows = {group: DetectorRow(**row) for group, row in _by_group(fold["rows"]).items()}
        for part in parts:
            if row := rows.get(Group(part)):
                within = [rows.get(Group(part, variant=variant)) for variant in variants]
                cells = [str(row.n), str(row.n_items), *figures(row, within)]
                out.add(fold["name"], part, *cells, bold=fold["name"] == "pooled")
    return out


def _matrix(folds: Sequence[Mapping[str, Any]]) -> Table:
    cells: dict[tuple[str, str], Mapping[str, Any]] = {}
    for fold in folds:
        for group, row in _by_group(fold["rows"]).items():
            if group == Group(group.part, group.topic) and group.topic != ALL:
                cells.setdefault((", ".join(fold["train_topics"]), group.topic), row)
    topics = sorted({topic for _, topic in cells})
    out = Table(
        "by trained topic",
        [Column("trained", "name"), *(Column(topic) for topic in topics)],
        f"{headlines()} of held-out items, a column per topic",
        blocks=True,
    )
    for trained in dict.fromkeys(trained for trained, _ in cells):
        rows = [cells.get((trained, topic)) for topic in topics]
        out.add(trained, *(headline_figures(row["rates"] if row else {}) for row in rows))
    return out


def _by_group(rows: Sequence[Mapping[str, Any]]) -> dict[Group, Mapping[str, Any]]:
    """The honest persona's rows."""
    return {Group(*(r[name] for name in Group._fields)): r for r in rows if r["detector"] == HONEST_PERSONA}
