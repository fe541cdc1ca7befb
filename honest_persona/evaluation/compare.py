"""Which of two detectors, or of two main personas, is better, and is the difference more than chance? Paired.

    comparison = compare(Path("checkpoints/a/eval"), Path("checkpoints/b/eval"))
    comparison.row("within").differences["auroc"].interval
    print_comparison(comparison)

Records are matched by part and `record_id`. The differences are those of statistics/comparison.py; what is compared of
reviews, and what of answers, says compared.py.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from honest_persona.base import json_text
from honest_persona.base.console import Column, Table, one_line, say, show
from honest_persona.base.errors import UserError
from honest_persona.base.words import ALL
from honest_persona.evaluation.compared import KINDS, Kind, Line, is_headline, kind_of, label_of
from honest_persona.evaluation.samples import Group, GroupRow, groups_of
from honest_persona.evaluation.sets import EVALUATION, read_set, settle
from honest_persona.statistics.answers import ANSWER_METRICS
from honest_persona.statistics.comparison import Difference


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
        UserError: a file that cannot be read, one of reviews and one of answers, no common record, or records that
            differ in truth, topic, variant or cluster: then they are of different data.
    """
    kind, other = kind_of(samples_file(a)), kind_of(samples_file(b))
    if kind is not other:
        raise UserError(f"{a} is an evaluation of {kind.what}, and {b} of {other.what}; name two of one kind")
    lines_a, lines_b = read_samples(a), read_samples(b)
    if kind.check is not None:
        kind.check(*(read_set(samples_file(path).parent) for path in (a, b)))
    keys = [key for key in lines_a if key in lines_b]
    if not keys:
        raise UserError(
            f"{a} and {b} have no record in common ({len(lines_a)} and {len(lines_b)} records, matched by part and "
            f"record_id; parts {_parts(lines_a)} and {_parts(lines_b)}). Evaluate both on the same data"
        )
    for key in keys:
        for name in kind.shared:
            in_a, in_b = getattr(lines_a[key], name), getattr(lines_b[key], name)
            if in_a != in_b:
                raise UserError(
                    f"record {key[1]!r} of part {key[0]!r} has the {name} {in_a!r} in {a} and {in_b!r} in {b}: these "
                    "are not the same data. Evaluate both on one version of it"
                )
    groups = groups_of([lines_a[key] for key in keys], union_of_parts=True)
    rows = [
        _row(kind, group, of_a, [lines_b[line.part, line.record_id] for line in of_a], seed, resamples)
        for group, of_a in groups.items()
    ]
    return Comparison(str(a), str(b), len(keys), len(lines_a) - len(keys), len(lines_b) - len(keys), rows)


def _row(kind: Kind, group: Group, a: Sequence[Line], b: Sequence[Line], seed: int, resamples: int) -> ComparedRow:
    n_clusters = len({line.cluster for line in a})
    return ComparedRow(*group, len(a), n_clusters, kind.differences(a, b, seed, resamples))


def _parts(lines: dict[tuple[str, str], Line]) -> str:
    return "/".join(sorted({part for part, _ in lines})) or "none"


def samples_file(path: Path) -> Path:
    """Raises UserError: there is none."""
    names = [kind.file for kind in KINDS]
    for folder in (path, path / "eval"):
        settle(folder.parent if folder.is_file() else folder)
        for found in (folder, *(folder / name for name in names)):
            if found.is_file():
                return found
    raise UserError(f"{path}: no {' and no '.join(names)} there; name the output folder of eval.py, or the file itself")


def read_samples(path: Path) -> dict[tuple[str, str], Line]:
    """The lines by (part, record_id), in the order of the file.

    Raises:
        UserError: not JSON lines of samples, a record twice in one part, or lines of two evaluations; or a results.json
            beside them that is not of their evaluation.
    """
    file = samples_file(path)
    kind = kind_of(file)
    if file.name == kind.file:
        read_set(file.parent)
    lines: dict[tuple[str, str], Line] = {}
    for number, line in _lines(file, kind):
        key = line.part, line.record_id
        if key in lines:
            raise UserError(f"{file}:{number}: record {key[1]!r} of part {key[0]!r} is there twice; evaluate again")
        lines[key] = line
    return lines


def _lines(file: Path, kind: Kind) -> Iterator[tuple[int, Line]]:
    first: str | None = None
    with file.open(encoding="utf-8", newline="\n") as stream:
        for number, text in enumerate(stream, start=1):
            if not text.strip():
                continue
            try:
                content = json_text.loads(text)
                evaluation = content.get(EVALUATION, "")
                lines = kind.read(content)
            except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
                problem = f"no {error}" if isinstance(error, KeyError) else str(error)
                raise UserError(
                    f"{file}:{number}: not a line that eval.py writes ({problem}); name its file"
                ) from error
            except ValueError as error:
                raise UserError(f"{file}:{number}: {error}") from error
            if evaluation != (first := evaluation if first is None else first):
                raise UserError(
                    f"{file}:{number}: of the evaluation {evaluation!r}, and the lines before are of {first!r}; run "
                    "eval.py again"
                )
            yield from ((number, line) for line in lines)


def comparison_table(comparison: Comparison) -> Table:
    """A line per metric and group: all metrics of each part, balanced accuracy and AUROC of its topics and variants."""
    headings = ("A", "B", "B - A", "95 %", "")
    out = Table(
        f"A: {one_line(comparison.a)}\nB: {one_line(comparison.b)}",
        [Column("metric", "name"), Column("n"), Column("items", tier=1), *(Column(heading) for heading in headings)],
        "paired, clustered by item or group; each interval is 95 % by itself, so of 20 rows with no difference one is "
        "expected to exclude 0; * excludes it",
        "the output of --json",
    )
    for row in comparison.rows:
        whole = row.group == Group(row.part)
        if sum(place != ALL for place in row.group[1:]) > 1:
            continue
        of = next((place for place in row.group[1:] if place != ALL), "")
        out.section(row.part + (f", {f'variant {of}' if of == row.variant else of}" if of else ""))
        for name, d in row.differences.items():
            if (not whole and not is_headline(name)) or (name in ANSWER_METRICS and d.a is None and d.b is None):
                continue
            out.add(
                label_of(name),
                str(d.n if name in ANSWER_METRICS else row.n),
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
