"""Results for people and for programs: tables, results.json, and a few whole samples."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from honest_persona.base import json_text
from honest_persona.base.console import Column, Table, one_line, say, show
from honest_persona.base.files import write_text
from honest_persona.base.words import ALL, HONEST_PERSONA
from honest_persona.evaluation.samples import Group, Sample
from honest_persona.evaluation.sets import RESULTS_FILE, sealed
from honest_persona.evaluation.suite import Results, Row

_COLUMNS = ("n", "items", "bal. acc.", "95 %", "in A", "in B", "variant only", "AUROC", "TPR", "FPR", "unparsable")


def rows_of_topics(results: Results) -> list[list[str]]:
    """A header, and a row per part and topic of the honest persona.

    Within-variant figures stand beside the others, because the variant alone can give the flag.
    """
    out = [["part", "topic", *_COLUMNS]]
    rows = {r.group: r for r in results.rows if r.detector == HONEST_PERSONA}
    for group, row in rows.items():
        if group != Group(row.part, row.topic):
            continue
        within = [_rate(rows.get(group._replace(variant=v)), "balanced_accuracy") for v in ("A", "B")]
        interval = row.intervals["balanced_accuracy"]
        out.append(
            [
                row.part,
                row.topic,
                str(row.n),
                str(row.n_items),
                _rate(row, "balanced_accuracy"),
                f"{interval[0]:.2f}-{interval[1]:.2f}" if interval else "-",
                *within,
                _number(row.variant_only_balanced_accuracy),
                *(_rate(row, name) for name in ("auroc", "true_positive_rate", "false_positive_rate")),
                _rate(row, "unparsable_frac"),
            ]
        )
    return out


_ELSEWHERE = "results.json and report.html"
_TIERS = {"items": 1, "TPR": 2, "FPR": 2, "variant only": 3, "unparsable": 4}
"""The columns that a narrow terminal does without, the first to go last."""


def table(results: Results, title: str) -> Table:
    out = Table(
        title,
        [Column("topic", "name"), *(Column(heading, tier=_TIERS.get(heading, 0)) for heading in _COLUMNS)],
        "balanced accuracy with 95 % interval, clustered by item; FAIL is the positive class",
        _ELSEWHERE,
    )
    part = None
    for row in rows_of_topics(results)[1:]:
        if row[0] != part:
            out.section(part := row[0])
        out.add(*row[1:], bold=row[1] == ALL)
    return out


def figure_columns() -> list[Column]:
    """The headings of `figures`."""
    intervals = [("balanced accuracy", 0), ("AUROC", 1), ("AUROC in A", 2), ("AUROC in B", 2)]
    headings = ("bal. acc.", "AUROC", "in A", "in B")
    return [
        column
        for heading, (of, tier) in zip(headings, intervals, strict=True)
        for column in (Column(heading), Column("95 %", tier=tier, of=of))
    ]


FIGURES_CAPTION = "95 % intervals clustered by item; FAIL is the positive class; A and B: AUROC within that variant"


def figures(row: Row | None, in_a: Row | None, in_b: Row | None) -> list[str]:
    """Balanced accuracy, AUROC, and AUROC within each variant, each with its interval."""
    wanted = [(row, "balanced_accuracy"), (row, "auroc"), (in_a, "auroc"), (in_b, "auroc")]
    return [cell for of, metric in wanted for cell in _with_interval(of, metric)]


def detectors_table(rows: Iterable[Row], elsewhere: str = _ELSEWHERE) -> Table:
    """A line per part and detector: what can be had without the honest persona, and what with it.

    Args:
        elsewhere: the files that have all columns.
    """
    accuracy = [Column("accuracy", tier=3), Column("95 %", tier=3, of="accuracy")]
    out = Table(
        "every detector on the same records",
        [Column("detector", "name"), Column("n"), *accuracy, *figure_columns()],
        FIGURES_CAPTION,
        elsewhere,
    )
    by_place = {(row.detector, row.group): row for row in rows}
    for part in dict.fromkeys(group.part for _, group in by_place):
        out.section(part)
        for (detector, group), row in by_place.items():
            if group == Group(part):
                within = [by_place.get((detector, Group(part, variant=v))) for v in ("A", "B")]
                cells = [*_with_interval(row, "accuracy"), *figures(row, *within)]
                out.add(detector, str(row.n), *cells, bold=detector == HONEST_PERSONA)
    return out


def topics_table(rows: Sequence[Row], part: str) -> Table:
    """Balanced accuracy and AUROC of every detector, a line per topic."""
    cells = {(row.topic, row.detector): row for row in rows if row.group == Group(part, row.topic)}
    detectors = list(dict.fromkeys(detector for _, detector in cells))
    columns = [Column("topic", "name"), *(Column(heading) for heading in ("n", "items", *detectors))]
    out = Table(f"balanced accuracy / AUROC per topic, {part}", columns, blocks=True)
    for topic in dict.fromkeys(topic for topic, _ in cells):
        of = [cells[topic, detector] for detector in detectors]
        pairs = [f"{_number(r.rates['balanced_accuracy'], 3)} / {_number(r.rates['auroc'], 3)}" for r in of]
        out.add(topic, str(of[0].n), str(of[0].n_items), *pairs)
    return out


def print_table(results: Results, title: str) -> None:
    """The honest persona's table, and all detectors side by side where there are others."""
    show(table(results, title))
    if any(row.detector != HONEST_PERSONA for row in results.rows):
        show(detectors_table(results.rows))
    for part, count in results.too_long.items():
        say(f"{one_line(part)}: {count} records left out: prompt and review would be longer than seq_len")


def print_detectors(rows: Sequence[Row]) -> None:
    """All detectors side by side, as a whole and by topic; for figures that are in no file."""
    show(detectors_table(rows, elsewhere="a wider terminal"))
    for part in dict.fromkeys(row.part for row in rows):
        show(topics_table(rows, part))


def print_samples(samples: Sequence[Sample]) -> None:
    """A few whole reviews, for a look at what is behind the figures."""
    columns = [Column("topic", "name"), Column("truth"), Column("flag"), Column("P(FAIL)"), Column("ending", tier=1)]
    out = Table("samples", [*columns, Column("review", "prose")], elsewhere="samples.jsonl and report.html")
    for s in samples:
        out.add(s.topic, s.truth, s.flag or "-", f"{s.p_fail:.2f}", s.ending, s.review.strip())
    show(out)


def write_results(results: Results, folder: Path, about: Mapping[str, Any]) -> None:
    """`results.json`: the figures, what they are of, and the hashes of the data files that are there by now (sets.py).

    Args:
        about: with the id of the evaluation, `sets.EVALUATION`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = sealed(json_text.defined({"about": dict(about), **results.as_dict()}), folder)
    write_text(folder / RESULTS_FILE, json_text.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _rate(row: Row | None, name: str) -> str:
    return "-" if row is None else _number(row.rates[name])


def _with_interval(row: Row | None, name: str) -> tuple[str, str]:
    interval = row.intervals[name] if row else None
    value = _number(row.rates[name], 3) if row else "-"
    return value, f"{interval[0]:.2f}-{interval[1]:.2f}" if interval else "-"


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
