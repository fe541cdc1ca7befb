"""The table of layers: every method at every site, on training folds and on held-out groups; CSV, JSON, plots, text."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from honest_persona.base import json_text
from honest_persona.base.console import Column, Table, say, show
from honest_persona.base.files import write_text
from honest_persona.base.grouping import grouped
from honest_persona.base.words import ALL, FAIL, PASS
from honest_persona.evaluation.report.plots import Value, dots, save, style
from honest_persona.experiments.probe_readers import Readers
from honest_persona.probes.features import Site
from honest_persona.probes.labelled import LabelledAnswers
from honest_persona.probes.layers import Fitted, margins, scores
from honest_persona.probes.probe import Method
from honest_persona.probes.selection import OF_PAIRS
from honest_persona.probes.store import StateStore
from honest_persona.statistics.bootstrap import draw
from honest_persona.statistics.columns import Columns
from honest_persona.statistics.detection import Estimate
from honest_persona.statistics.metrics import METRICS

MEASURED = ("auroc", "accuracy", "ece")
CSV_FILE, JSON_FILE = "layers.csv", "layers.json"
_CAPTION = (
    "95 % intervals by groups; FAIL is the positive class. Layer and place are those with the highest AUROC in a "
    "cross-validation of the training answers (train). best: the highest AUROC of the held-out table, which is too "
    "good, because these very answers choose it. cal. acc.: share right at the threshold above which as many training "
    "answers lie as are FAIL"
)


@dataclass(frozen=True)
class Line:
    """One method at one site, on one part."""

    method: Method
    layer: int
    place: str
    part: str
    template: str
    """`all`: the mean of the scores over all templates of an answer."""
    n: int
    groups: int
    regularisation: float
    train_auroc: float
    """By cross-validation of the training answers."""
    auroc: Estimate
    accuracy: Estimate
    """At the threshold that was fixed on the training answers."""
    ece: Estimate
    left: list[float | None] | None = None
    """Of INLP: AUROC of each round's classifier, which sees what earlier rounds left."""
    chosen: bool = False
    """The method's site, by `train_auroc`."""
    saved: bool = False
    """The site of the method that is the highest by `train_auroc`, too."""

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), **{name: getattr(self, name)._asdict() for name in MEASURED}}

    @property
    def site(self) -> str:
        return f"layer {self.layer}, {self.place}"


def figures(
    method: Method,
    fits: Sequence[tuple[Site, Fitted]],
    stores: Mapping[str, StateStore],
    answers: Mapping[str, LabelledAnswers],
    seed: int,
) -> Iterator[Line]:
    """The lines of one method: each site on each held-out part, on all templates together and on each."""
    for part in (name for name in stores if name != "train"):
        of_part = answers[part]
        templates = of_part.templates
        for site, fitted in fits:
            column = stores[part].column(site)
            p_fail, z = scores(fitted.readout, column).numpy(), margins(fitted.readout, column).numpy()
            left = None
            if fitted.each_round is not None:
                alone = [margins(readout, column) for readout in fitted.each_round]
                left = [_auroc(torch.sigmoid(of).numpy(), of_part) for of in alone]
            for template in (ALL, *(templates if len(templates) > 1 else ())):
                columns = _columns(of_part, p_fail, z > fitted.threshold, template)
                area, accuracy, ece = _estimates(columns, seed)
                place, n = str(site.position), len(columns.failed)
                about = (method, site.layer, place, part, template, n, columns.k, fitted.regularisation)
                yield Line(*about, fitted.auroc, area, accuracy, ece, left if template == ALL else None)


def _columns(answers: LabelledAnswers, p_fail: np.ndarray, flagged: np.ndarray, template: str) -> Columns:
    """Scores of one template, or their mean over all templates of each answer; the flag of most templates."""
    wanted = [i for i, known in enumerate(answers.known) if template in (ALL, known.template)]
    units = grouped(wanted, lambda i: answers.known[i].unit)
    first = [answers.known[of_unit[0]] for of_unit in units.values()]
    return Columns.of(
        [FAIL if known.fail else PASS for known in first],
        [FAIL if 2 * flagged[of_unit].sum() > len(of_unit) else PASS for of_unit in units.values()],
        [float(p_fail[of_unit].mean()) for of_unit in units.values()],
        [known.group for known in first],
    )


def _estimates(columns: Columns, seed: int) -> list[Estimate]:
    draws = draw(columns.k, seed)
    return [Estimate.of(METRICS[name].statistic(columns), draws) for name in MEASURED]


def _auroc(p_fail: np.ndarray, answers: LabelledAnswers) -> float | None:
    columns = _columns(answers, p_fail, p_fail > 0.5, ALL)
    value = METRICS["auroc"].value
    assert value is not None
    return float(value(columns))


def chosen_lines(lines: Sequence[Line], chosen: Mapping[Method, tuple[Site, float]]) -> list[Line]:
    """The lines, with what the training answers chose."""
    best = max(chosen, key=lambda method: chosen[method][1])
    out = []
    for line in lines:
        site, _ = chosen[line.method]
        is_chosen = (line.layer, line.place) == (site.layer, str(site.position))
        out.append(replace(line, chosen=is_chosen, saved=is_chosen and line.method == best))
    return out


def write_report(
    folder: Path, lines: Sequence[Line], about: Mapping[str, Any], fits: Mapping[Method, Fitted], readers: Readers
) -> None:
    """Write layers.csv, layers.json and the plots, and print the tables.

    Args:
        readers: what the words alone tell of the same answers.
    """
    write_text(folder / CSV_FILE, as_csv(lines))
    content = {
        "about": dict(about),
        "lines": [line.as_dict() for line in lines],
        "readers": {part: {name: e._asdict() for name, e in of.items()} for part, of in readers.items()},
        "rounds": {m: {"train": fit.left} for m, fit in fits.items() if fit.left is not None},
    }
    write_text(folder / JSON_FILE, json_text.dumps(json_text.defined(content), indent=2, ensure_ascii=False) + "\n")
    with style():
        for plot in plots(lines):
            save(plot, folder / "plots")
    for table in tables(lines, readers):
        show(table)
    for told in remarks(lines):
        say(told)


def as_csv(lines: Sequence[Line]) -> str:
    out = io.StringIO()
    bounds = [f"{name}{end}" for name in MEASURED for end in ("", "_low", "_high")]
    names = ["method", "layer", "place", "part", "template", "n", "groups", "regularisation", "train_auroc"]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*names, *bounds, "chosen", "saved"])
    for line in lines:
        cells = [getattr(line, name) for name in names]
        for name in MEASURED:
            estimate = getattr(line, name)
            cells += [estimate.value, *(estimate.interval or (None, None))]
        writer.writerow(["" if cell is None else cell for cell in cells] + [int(line.chosen), int(line.saved)])
    return out.getvalue()


def plots(lines: Sequence[Line]) -> Iterator[Any]:
    """AUROC over layers, one plot for each part and place; the layer that training chose is named."""
    whole = [line for line in lines if line.template == ALL]
    for (part, place), of in grouped(whole, lambda line: (line.part, line.place)).items():
        named = {
            line.layer: ", ".join(line.method for line in of_layer if line.chosen)
            for of_layer in grouped(of, lambda line: line.layer).values()
            for line in of_layer[:1]
        }
        label = {layer: f"layer {layer}" + (f" (chosen: {by})" if by else "") for layer, by in named.items()}
        series: dict[str, dict[str, Value]] = {
            method: {
                label[line.layer]: Value(line.auroc.value, line.auroc.interval)
                for line in of_method
                if line.auroc.value is not None
            }
            for method, of_method in grouped(of, lambda line: str(line.method)).items()
        }
        yield dots(f"layers_{part}_{place}", f"Probes at {place}, {part}", "AUROC on held-out groups", series)


def tables(lines: Sequence[Line], readers: Readers) -> Iterator[Table]:
    """The methods at the sites that training chose, and then all sites."""
    yield _chosen_table(lines, readers)
    for (part, of_pairs), of in grouped(
        (line for line in lines if line.template == ALL), lambda line: (line.part, line.method in OF_PAIRS)
    ).items():
        methods = list(dict.fromkeys(line.method for line in of))
        what = "contrast pairs" if of_pairs else "answers"
        out = Table(
            f"AUROC at every layer and place, {what}, {part}: n {of[0].n} of {of[0].groups} groups",
            [Column("layer and place", "name"), *(Column(method) for method in methods)],
            "*: chosen on the training answers",
            elsewhere=CSV_FILE,
            blocks=True,
        )
        for site, at in grouped(of, lambda line: line.site).items():
            cells = {line.method: f"{line.auroc}{'*' if line.chosen else ' '}" for line in at}
            out.add(site, *(cells[method] for method in methods), bold=any(line.saved for line in at))
        yield out


def _chosen_table(lines: Sequence[Line], readers: Readers) -> Table:
    columns = [
        Column("method", "name"),
        Column("labels"),
        Column("layer and place"),
        Column("n"),
        Column("train"),
        *(c for name in ("AUROC", "cal. acc.", "ECE") for c in (Column(name), Column("95 %", of=name))),
        Column("best"),
    ]
    out = Table("probes at the layer that training chose", columns, _CAPTION, CSV_FILE, blocks=True)
    for part, of in grouped(lines, lambda line: line.part).items():
        out.section(part)
        for line in (line for line in of if line.chosen):
            best = max(o.auroc.value or 0 for o in of if (o.method, o.template) == (line.method, line.template))
            cells = [cell for name in MEASURED for cell in _cells(getattr(line, name))]
            name = line.method if line.template == ALL else f"  {line.template}"
            uses = "sign" if line.method in OF_PAIRS else "all"
            what = [uses, f"{line.layer}, {line.place}", str(line.n), f"{line.train_auroc:.3f}"]
            out.add(name, *what, *cells, f"{best:.3f}", bold=line.saved and line.template == ALL)
        for name, area in readers.get(part, {}).items():
            out.add(name, "all", "words", str(area.n), "", *_cells(area), *[""] * 5)
    return out


def _cells(estimate: Estimate) -> tuple[str, str]:
    value = "-" if estimate.value is None else f"{estimate.value:.3f}"
    return value, "-" if estimate.interval is None else f"{estimate.interval[0]:.2f}-{estimate.interval[1]:.2f}"


def remarks(lines: Sequence[Line]) -> Iterator[str]:
    """What must be said below the tables."""
    for line in lines:
        if not (line.saved and line.template == ALL):
            continue
        low, high = line.auroc.interval or (0.0, 1.0)
        yield (
            f"chosen on the training answers: {line.method} at {line.site}; AUROC {line.auroc} on {line.part}, "
            f"n {line.n} of {line.groups} groups"
        )
        if low <= 0.5 <= high:
            yield "this interval holds 0.5: no signal is shown on held-out answers"
    for line in lines:
        if line.method == "inlp" and line.chosen and line.left:
            shown = ", ".join("-" if value is None else f"{value:.2f}" for value in line.left)
            yield f"inlp on {line.part}: AUROC of a linear reader before the first round, and after each: {shown}"
