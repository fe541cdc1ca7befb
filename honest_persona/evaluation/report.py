"""Results for people and for programs: tables, results.json, and a few whole samples."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from honest_persona.evaluation.metrics import ALL
from honest_persona.evaluation.samples import HONEST_PERSONA, Group, Sample
from honest_persona.evaluation.suite import Results, Row

RESULTS_FILE = "results.json"


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


def table(results: Results, title: str) -> Table:
    out = Table(title=title, caption="balanced accuracy with 95 % interval, clustered by item; FAIL is positive")
    header, *rows = rows_of_topics(results)
    for name in header:
        out.add_column(name, justify="right" if name in _COLUMNS else "left")
    for row in rows:
        out.add_row(*row, style="bold" if row[1] == ALL else None)
    return out


def detectors_table(rows: Iterable[Row]) -> Table:
    """A line per part and detector: what can be had without the honest persona, and what with it."""
    out = Table(
        title="every detector on the same records",
        caption="95 % intervals clustered by item; FAIL is positive; A and B: AUROC within that variant",
    )
    for name in ("part", "detector", "n", "accuracy", "balanced accuracy", "AUROC", "in A", "in B"):
        out.add_column(name, justify="right" if name == "n" else "left")
    by_place = {(row.detector, row.group): row for row in rows}
    for part in dict.fromkeys(group.part for _, group in by_place):
        for (detector, group), row in by_place.items():
            if group == Group(part):
                within = [by_place.get((detector, Group(part, variant=v))) for v in ("A", "B")]
                figures = [_with_interval(row, name) for name in ("accuracy", "balanced_accuracy", "auroc")]
                style = "bold" if detector == HONEST_PERSONA else None
                of = [_with_interval(r, "auroc") for r in within]
                out.add_row(part, detector, str(row.n), *figures, *of, style=style)
        out.add_section()
    return out


def topics_table(rows: Sequence[Row], part: str) -> Table:
    """Balanced accuracy and AUROC of every detector, a line per topic."""
    out = Table(title=f"balanced accuracy / AUROC per topic, {part}")
    cells = {(row.topic, row.detector): row for row in rows if row.group == Group(part, row.topic)}
    detectors = list(dict.fromkeys(detector for _, detector in cells))
    for column in ("topic", "n", "items", *detectors):
        out.add_column(column)
    for topic in dict.fromkeys(topic for topic, _ in cells):
        of = [cells[topic, detector] for detector in detectors]
        figures = [f"{_number(r.rates['balanced_accuracy'], 3)} / {_number(r.rates['auroc'], 3)}" for r in of]
        out.add_row(topic, str(of[0].n), str(of[0].n_items), *figures)
    return out


def print_table(results: Results, title: str) -> None:
    """The honest persona's table, and all detectors side by side where there are others."""
    console = Console(width=140)
    console.print(table(results, title))
    if any(row.detector != HONEST_PERSONA for row in results.rows):
        console.print(detectors_table(results.rows))
    for part, count in results.too_long.items():
        print(f"{part}: {count} records left out: prompt and review would be longer than seq_len")


def print_detectors(rows: Sequence[Row]) -> None:
    """All detectors side by side, as a whole and by topic."""
    console = Console(width=160)
    console.print(detectors_table(rows))
    for part in dict.fromkeys(row.part for row in rows):
        console.print(topics_table(rows, part))


def print_samples(samples: Sequence[Sample]) -> None:
    """A few whole reviews, for a look at what is behind the figures."""
    out = Table(title="samples", show_lines=True)
    for name in ("topic", "truth", "flag", "P(FAIL)", "ending", "review"):
        out.add_column(name)
    for s in samples:
        out.add_row(s.topic, s.truth, s.flag or "-", f"{s.p_fail:.2f}", s.ending, Text(s.review.strip()))
    Console(width=140).print(out)


def write_results(results: Results, folder: Path, about: Mapping[str, Any]) -> None:
    """`results.json`: the figures, and what they are of. It is there whole, or as it was."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"about": dict(about), **results.as_dict()}, indent=2, ensure_ascii=False)
    unfinished = folder / f"{RESULTS_FILE}.part"
    unfinished.write_text(text + "\n", encoding="utf-8")
    os.replace(unfinished, folder / RESULTS_FILE)


def _rate(row: Row | None, name: str) -> str:
    return "-" if row is None else _number(row.rates[name])


def _with_interval(row: Row | None, name: str) -> str:
    if row is None:
        return "-"
    interval = row.intervals[name]
    return _number(row.rates[name], 3) + (f" ({interval[0]:.2f}-{interval[1]:.2f})" if interval else "")


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
