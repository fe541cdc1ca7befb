"""The figures of a grid: of each combination of values over its seeds, and against the first combination."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from honest_persona.base.console import Column, Table, one_line, say, show
from honest_persona.base.words import ALL, HONEST_PERSONA
from honest_persona.evaluation.answers.samples import TRAINED
from honest_persona.evaluation.compare import read_samples, samples_file
from honest_persona.evaluation.compared import kind_of, label_of
from honest_persona.evaluation.sets import read_set
from honest_persona.statistics.comparison import Difference
from honest_persona.statistics.metrics import Place, shown

Folders = Sequence[tuple[int, Path]]
"""Of one combination: each seed with its run's folder."""
Content = Mapping[str, Any]

_OVER_SEEDS = "mean over the seeds, lowest to highest, 95 % of the seed in the middle"
_AGAINST = "change: against the first row, paired, seeds pooled, clustered by item or group"
_OF_ANSWERS = (
    *("truthful", "reward", "accuracy", "mc1", "matching", "well_formed", "chosen_nll", "preference_accuracy"),
    *("preference_gain", "perplexity"),
)
"""In this order; the first that a part has is its lead."""
PICKS_NOTHING = (
    "Nothing was picked. Whoever takes the best row chooses on these held-out rows, so its own figure is too good by "
    "chance: measure it again on rows that had no part in the choice (eval.py --dataset, --ood)."
)


def cells_of(folders: Mapping[str, Folders]) -> list[dict[str, Any]]:
    """For `grid.json`: the figures of each combination that has a finished seed, by part and metric.

    `mean`, `lowest` and `highest` are over the seeds, `interval` is the 95 % one of the seed in the middle, `n` the
    fewest rows of a seed. `changes` are against the first combination: the lines of the seeds that both have, pooled,
    paired, and clustered by item or group, so that one question is one cluster whatever the seeds.
    """
    first = next(iter(folders.values()), [])
    return [
        {
            "values": values,
            "seeds": [seed for seed, _ in of],
            "figures": _figures([folder for _, folder in of]),
            "changes": {} if of is first else _changes(dict(first), dict(of)),
        }
        for values, of in folders.items()
    ]


def _figures(folders: Sequence[Path]) -> dict[str, dict[str, dict[str, Any]]]:
    found: dict[str, dict[str, list[tuple[float, Any, int]]]] = {}
    for folder in folders:
        for row in (read_set(folder / "eval") or {})["rows"]:
            if not _is_whole(row):
                continue
            for name in _names():
                if (value := row["rates"].get(name)) is not None:
                    n = row["ns"][name] if "ns" in row else row["n"]
                    found.setdefault(row["part"], {}).setdefault(name, []).append((value, row["intervals"][name], n))
    return {
        part: {name: _over_seeds(sorted(of, key=lambda each: each[0])) for name, of in by_name.items()}
        for part, by_name in found.items()
    }


def _over_seeds(of: Sequence[tuple[float, Any, int]]) -> dict[str, Any]:
    values = [value for value, _, _ in of]
    return {
        "mean": sum(values) / len(values),
        "lowest": values[0],
        "highest": values[-1],
        "interval": of[len(of) // 2][1],
        "n": min(n for _, _, n in of),
        "seeds": len(of),
    }


def _names() -> list[str]:
    return [*(metric.name for metric in shown(Place.HEADLINE)), *_OF_ANSWERS]


def _is_whole(row: Mapping[str, Any]) -> bool:
    """Whether it is of all records of a part, by what was trained."""
    union = all(row.get(key, ALL) == ALL for key in ("topic", "variant", "model", "difficulty"))
    return union and row.get("policy", TRAINED) == TRAINED and row.get("detector", HONEST_PERSONA) == HONEST_PERSONA


def _changes(first: Mapping[int, Path], of: Mapping[int, Path]) -> dict[str, dict[str, Any]]:
    """The combination less the first one, by part and metric."""
    pairs: dict[str, tuple[list[Any], list[Any]]] = {}
    kind = None
    for seed, folder in of.items():
        if seed not in first:
            continue
        kind = kind_of(samples_file(folder))
        a, b = read_samples(first[seed]), read_samples(folder)
        for key in a:
            if key in b:
                left, right = pairs.setdefault(key[0], ([], []))
                left.append(a[key])
                right.append(b[key])
    if kind is None:
        return {}
    found = {part: kind.differences(left, right, 0, 1000) for part, (left, right) in pairs.items()}
    return {
        part: {name: vars(d) for name in _names() if (d := of_part.get(name)) is not None and d.difference is not None}
        for part, of_part in found.items()
    }


def print_grid(content: Content) -> None:
    """Print a table for each part."""
    for part in _parts(content):
        show(_table(content, part))
    for cell in content["cells"]:
        for line in cell["ended"]:
            say(f"{one_line(cell['values'])}, {one_line(line)}")
    say(PICKS_NOTHING)


def _parts(content: Content) -> list[str]:
    return list(dict.fromkeys(part for cell in content["cells"] for part in cell["figures"]))


def _metrics(content: Content, part: str) -> list[str]:
    there = {name for cell in content["cells"] for name in cell["figures"].get(part, {})}
    return [name for name in _names() if name in there]


def _table(content: Content, part: str) -> Table:
    lead, *others = _metrics(content, part)
    columns = [Column("values", "prose"), Column("seeds"), Column("n"), Column(label_of(lead))]
    columns += [Column(heading, tier=1, of=label_of(lead)) for heading in ("range", "95 %")]
    columns += [Column("change"), Column("95 %", of="change"), Column("")]
    columns += [Column(label_of(name), tier=2) for name in others]
    out = Table(
        f"grid: {part}",
        columns,
        f"{_OVER_SEEDS}; {_AGAINST}; * excludes 0",
        "grid.json and grid.md",
    )
    for cell in content["cells"]:
        of = cell["figures"].get(part, {})
        its = of.get(lead)
        n = "-" if its is None else str(its["n"])
        out.add(
            cell["values"],
            str(len(cell["seeds"])),
            n,
            *("-" if its is None else text for text in (_mean(its), _range(its), _interval(its and its["interval"]))),
            *_change(cell["changes"].get(part, {}).get(lead)),
            *(_mean(of.get(name)) for name in others),
        )
    return out


def _mean(its: Mapping[str, Any] | None) -> str:
    return "-" if its is None else f"{its['mean']:.3f}"


def _range(its: Mapping[str, Any] | None) -> str:
    return "-" if its is None else f"{its['lowest']:.3f} to {its['highest']:.3f}"


def _interval(of: Sequence[float] | None) -> str:
    return "-" if of is None else f"{of[0]:.2f} to {of[1]:.2f}"


def _change(found: Mapping[str, Any] | None) -> tuple[str, str, str]:
    if found is None:
        return "-", "-", ""
    d = Difference(**found)
    between = "-" if d.interval is None else f"{d.interval[0]:+.3f} to {d.interval[1]:+.3f}"
    return f"{d.difference:+.3f}", between, "*" if d.resolved else ""


def markdown(content: Content) -> str:
    """The tables as Markdown."""
    seeds = ", ".join(map(str, content["seeds"]))
    lines = [f"# Grid of `{content['objective']}`, seeds {seeds}", "", PICKS_NOTHING, ""]
    lines.append("Mean over the seeds (lowest to highest) [95 % interval of the seed in the middle]; " + _AGAINST + ".")
    for part in _parts(content):
        names = _metrics(content, part)
        header = ["values", "seeds", "n", *map(label_of, names), f"change of {label_of(names[0])} [95 %]"]
        lines += ["", f"## {part}", "", f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
        for cell in content["cells"]:
            of = cell["figures"].get(part, {})
            change, between, _ = _change(cell["changes"].get(part, {}).get(names[0]))
            n = str(of[names[0]]["n"]) if names[0] in of else "-"
            cells = [cell["values"], str(len(cell["seeds"])), n, *(_cell(of.get(name)) for name in names)]
            cells.append("-" if change == "-" else f"{change} [{between}]")
            lines.append("| " + " | ".join(one_line(text).replace("|", "\\|") for text in cells) + " |")
    ended = [f"- {cell['values']}, {line}" for cell in content["cells"] for line in cell["ended"]]
    return "\n".join([*lines, *(["", "Ended by themselves:", "", *ended] if ended else [])]) + "\n"


def _cell(its: Mapping[str, Any] | None) -> str:
    return "-" if its is None else f"{_mean(its)} ({_range(its)}) [{_interval(its['interval'])}]"
