"""Which of two detectors is better, and is the difference more than chance? Paired over the same records.

    comparison = compare(Path("checkpoints/a/eval"), Path("checkpoints/b/eval"))
    comparison.row("within").differences["auroc"].interval
    print_comparison(comparison)

Records are matched by part and `record_id`. The differences are those of statistics/comparison.py.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from honest_persona.base import json_text
from honest_persona.base.console import Column, Table, one_line, say, show
from honest_persona.base.errors import UserError
from honest_persona.base.words import ALL, FLAGS
from honest_persona.evaluation.samples import Group, GroupRow, groups_of
from honest_persona.evaluation.sets import EVALUATION, SAMPLES_FILE, read_set, settle
from honest_persona.statistics.columns import Columns, Judged
from honest_persona.statistics.comparison import Difference, differences
from honest_persona.statistics.metrics import METRICS, Place, shown

_SHARED = ("truth", "topic", "variant", "cluster")


@dataclass(frozen=True)
class ComparedRow(GroupRow):
    n: int
    n_clusters: int
    differences: dict[str, Difference]


@dataclass(frozen=True)
class Comparison:
    a: str
    b: str
    matched: int
    only_a: int
    only_b: int
    rows: list[ComparedRow]

    def row(self, part: str, topic: str = ALL, variant: str = ALL) -> ComparedRow:
        return next(r for r in self.rows if r.group == Group(part, topic, variant))


def compare(a: Path, b: Path, seed: int = 0, resamples: int = 1000) -> Comparison:
    """Paired differences B - A (`comparison.differences`): per part, topic and variant, and over unions of them.

    Args:
        a: a samples.jsonl, or a folder with one in it or in its `eval/`.
        b: the same.

    Raises:
        UserError: a file that cannot be read, no common record, or records that differ in truth, topic, variant or
            cluster: then they are of different data.
    """
    lines_a, lines_b = read_samples(a), read_samples(b)
    keys = [key for key in lines_a if key in lines_b]
    if not keys:
        raise UserError(
            f"{a} and {b} have no record in common ({len(lines_a)} and {len(lines_b)} records, matched by part and "
            f"record_id; parts {_parts(lines_a)} and {_parts(lines_b)}). Evaluate both on the same data"
        )
    for key in keys:
        for name in _SHARED:
            in_a, in_b = getattr(lines_a[key], name), getattr(lines_b[key], name)
            if in_a != in_b:
                raise UserError(
                    f"record {key[1]!r} of part {key[0]!r} has the {name} {in_a!r} in {a} and {in_b!r} in {b}: these "
                    "are not the same data. Evaluate both on one version of it"
                )
    groups = groups_of([lines_a[key] for key in keys], union_of_parts=True)
    rows = [
        _row(group, of_a, [lines_b[line.part, line.record_id] for line in of_a], seed, resamples)
        for group, of_a in groups.items()
    ]
    return Comparison(str(a), str(b), len(keys), len(lines_a) - len(keys), len(lines_b) - len(keys), rows)


def _row(group: Group, a: Sequence[Judged], b: Sequence[Judged], seed: int, resamples: int) -> ComparedRow:
    scored = all(line.p_fail is not None for line in (*a, *b))
    left, right = Columns.of_samples(a), Columns.of_samples(b)
    return ComparedRow(*group, len(a), left.k, differences(left, right, scored, seed, resamples))


def _parts(lines: dict[tuple[str, str], Judged]) -> str:
    return "/".join(sorted({part for part, _ in lines})) or "none"


def samples_file(path: Path) -> Path:
    """Raises UserError: there is none."""
    for found in (path, path / SAMPLES_FILE, path / "eval" / SAMPLES_FILE):
        settle(found.parent)
        if found.is_file():
            return found
    raise UserError(f"{path}: no {SAMPLES_FILE} there; name the output folder of eval.py, or the file itself")


def read_samples(path: Path) -> dict[tuple[str, str], Judged]:
    """The lines by (part, record_id), in the order of the file.

    Raises:
        UserError: not JSON lines of samples, a record twice in one part, or lines of two evaluations; or a results.json
            beside them that is not of their evaluation.
    """
    file = samples_file(path)
    if file.name == SAMPLES_FILE:
        read_set(file.parent)
    lines: dict[tuple[str, str], Judged] = {}
    for number, line in _lines(file):
        key = line.part, line.record_id
        if key in lines:
            raise UserError(f"{file}:{number}: record {key[1]!r} of part {key[0]!r} is there twice; evaluate again")
        lines[key] = line
    return lines


def _lines(file: Path) -> Iterator[tuple[int, Judged]]:
    first: str | None = None
    with file.open(encoding="utf-8", newline="\n") as stream:
        for number, text in enumerate(stream, start=1):
            if not text.strip():
                continue
            try:
                content = json_text.loads(text)
                evaluation = content.get(EVALUATION, "")
                line = Judged(**{field.name: content[field.name] for field in fields(Judged)})
            except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
                problem = f"no {error}" if isinstance(error, KeyError) else str(error)
                raise UserError(
                    f"{file}:{number}: not a line that eval.py writes ({problem}); name its file"
                ) from error
            if evaluation != (first := evaluation if first is None else first):
                raise UserError(
                    f"{file}:{number}: of the evaluation {evaluation!r}, and the lines before are of {first!r}; run "
                    "eval.py again"
                )
            scored = line.p_fail is None or (isinstance(line.p_fail, int | float) and 0 <= line.p_fail <= 1)
            if line.truth not in FLAGS or line.flag not in (*FLAGS, None) or not scored:
                raise UserError(
                    f"{file}:{number}: truth {line.truth!r}, flag {line.flag!r}, p_fail {line.p_fail!r}: wanted are "
                    "PASS or FAIL, PASS, FAIL or null, and a probability or null"
                )
            yield number, line


def comparison_table(comparison: Comparison) -> Table:
    """A line per metric and group: all metrics of each part, balanced accuracy and AUROC of its topics and variants."""
    headings = ("A", "B", "B - A", "95 %", "")
    out = Table(
        f"A: {one_line(comparison.a)}\nB: {one_line(comparison.b)}",
        [Column("metric", "name"), Column("n"), Column("items", tier=1), *(Column(heading) for heading in headings)],
        "paired, clustered by item; each interval is 95 % by itself, so of 20 rows with no difference one is expected "
        "to exclude 0; * excludes it",
        "the output of --json",
    )
    for row in comparison.rows:
        whole = row.group == Group(row.part)
        if sum(place != ALL for place in row.group[1:]) > 1:
            continue
        of = next((place for place in row.group[1:] if place != ALL), "")
        out.section(row.part + (f", {f'variant {of}' if of == row.variant else of}" if of else ""))
        headlines = {metric.name for metric in shown(Place.HEADLINE)}
        for name, d in row.differences.items():
            if not whole and name not in headlines:
                continue
            out.add(
                METRICS[name].label,
                str(row.n),
                str(row.n_clusters),
                _number(d.a),
                _number(d.b),
                _number(d.difference, "+.3f"),
                f"{d.interval[0]:+.3f} to {d.interval[1]:+.3f}" if d.interval else "-",
                "*" if d.resolved else "",
                bold=whole,
            )
    return out


def print_comparison(comparison: Comparison) -> None:
    show(comparison_table(comparison))
    say(
        f"{comparison.matched} records matched; only in A: {comparison.only_a}, only in B: {comparison.only_b} "
        "(left out)"
    )


def _number(number: float | None, form: str = ".3f") -> str:
    return "-" if number is None else f"{number:{form}}"
