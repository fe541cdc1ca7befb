"""Results for people and for programs: a table, results.json, samples.jsonl, and lines of reviews."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from honest_persona.evaluation.metrics import ALL
from honest_persona.evaluation.suite import Results, Row, Sample

SAMPLES_FILE = "samples.jsonl"


def table(results: Results, title: str) -> Table:
    """One line per part and topic. Within-variant figures stand beside, because the variant alone can give the flag."""
    out = Table(title=title, caption="balanced accuracy with 95 % interval, clustered by item; FAIL is positive")
    out.add_column("part")
    out.add_column("topic")
    for name in (
        "n",
        "items",
        "bal. acc.",
        "95 %",
        "in A",
        "in B",
        "variant only",
        "AUROC",
        "TPR",
        "FPR",
        "unparsable",
    ):
        out.add_column(name, justify="right")
    rows = {(r.part, r.topic, r.variant): r for r in results.rows}
    for row in results.rows:
        if row.variant != ALL:
            continue
        within = [_rate(rows.get((row.part, row.topic, v)), "balanced_accuracy") for v in ("A", "B")]
        interval = row.intervals["balanced_accuracy"]
        out.add_row(
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
            style="bold" if row.topic == ALL else None,
        )
    return out


def print_table(results: Results, title: str) -> None:
    Console(width=140).print(table(results, title))
    for part, count in results.too_long.items():
        print(f"{part}: {count} records left out: prompt and review would be longer than seq_len")


def print_samples(samples: Sequence[Sample]) -> None:
    """A few whole reviews, for a look at what is behind the figures."""
    out = Table(title="samples", show_lines=True)
    for name in ("topic", "truth", "flag", "P(FAIL)", "ending", "review"):
        out.add_column(name)
    for s in samples:
        out.add_row(s.topic, s.truth, s.flag or "-", f"{s.p_fail:.2f}", s.ending, Text(s.review.strip()))
    Console(width=140).print(out)


def write_results(results: Results, folder: Path, about: Mapping[str, Any]) -> None:
    """`results.json` (figures and what they are of) and `samples.jsonl` (one line per record) in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"about": dict(about), **results.as_dict()}, indent=2, ensure_ascii=False)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    with (folder / SAMPLES_FILE).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(sample), ensure_ascii=False) + "\n" for sample in results.samples)


def _rate(row: Row | None, name: str) -> str:
    return "-" if row is None else _number(row.rates[name])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
