"""report.html: an evaluation's figures, plots and samples on one page that needs no network.

    write_report(Path("checkpoints/demo/eval"))     # or: python -m honest_persona report checkpoints/demo/eval

The plots are in `plots/` beside it, for papers. Every figure is taken from results.json or sweep.json, and its
`data-at` says from which place. All content of these files is text to the page: the template escapes it, and the page's
content security policy allows no script but its own.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from honest_persona.base import json_text
from honest_persona.base.errors import UserError
from honest_persona.base.files import write_text
from honest_persona.base.grouping import grouped
from honest_persona.base.templates import templates
from honest_persona.base.words import ACROSS, ALL, FAIL, HONEST_PERSONA, PARTS
from honest_persona.evaluation.design_meanings import MEANINGS
from honest_persona.evaluation.provenance import MADE
from honest_persona.evaluation.report import plots
from honest_persona.evaluation.report.answers_page import answers_page
from honest_persona.evaluation.report.evenly import EMBEDDED_SAMPLES, evenly
from honest_persona.evaluation.report.page_tables import (
    ResultsRow,
    Rows,
    Scores,
    Table,
    designs_table,
    detectors_table,
    number,
    tables_of,
)
from honest_persona.evaluation.report.plots import Curve, Plot, Point, Value
from honest_persona.evaluation.samples import Sample, read_samples
from honest_persona.evaluation.sets import (
    ANSWERS_FILE,
    BASELINES_FILE,
    EVALUATION,
    PLOTS,
    REPORT_FILE,
    RESULTS_FILE,
    SAMPLES_FILE,
    read_set,
)
from honest_persona.prompts.kinds import Kind
from honest_persona.statistics import metrics
from honest_persona.statistics.columns import Columns
from honest_persona.statistics.metrics import AUROC, FPRS, LEAD, METRICS, Place, shown
from honest_persona.statistics.rates import false_positive_rate, true_positive_rate

SWEEP_FILE, GRID_TABLE = "sweep.json", "grid.md"

Plots = dict[str, list[Plot]]
"""By section of the page."""

_SWEEPS = {
    "leave_one_topic_out": "Each training left out one topic. The figures are of the topic left out.",
    "topic_matrix": "Each training had one topic. Where train and test topic are the same, the items are held out.",
    "follow_up": "The same records, trained as an honest persona and as a plain question of the user.",
}


def write_report(folder: Path, home: Path | None = None) -> Path:
    """Write `report.html` and `plots/` from the files of an evaluation or a sweep in `folder`.

    The files are results.json with samples.jsonl and baselines.jsonl, or sweep.json, or all of them; or results.json
    with answers.jsonl; and the run's
    metrics.jsonl, in the folder or up to two above it. The same files give the same bytes.

    Args:
        home: where the files will stand in the end, for a new set (sets.py).

    Raises:
        UserError: neither results.json nor sweep.json is there, a file is of another program, or the files are of two
            evaluations.
    """
    home = home or folder
    results, sweep = read_set(folder), _sweep_content(folder / SWEEP_FILE)
    if results is None and sweep is None and (table := folder / GRID_TABLE).exists():
        raise UserError(f"{folder} holds a grid, whose figures are in {table}; a page is of a cell: give its eval/")
    if results is None and sweep is None:
        raise UserError(f"{folder} has no {RESULTS_FILE} and no {SWEEP_FILE}; give the folder that eval.py wrote into")
    found: Plots = {}
    title = home.resolve().name if results is None else results["about"].get("adapter") or home.resolve().name
    path = folder / REPORT_FILE
    if results is not None and ANSWERS_FILE in results.get("files", {}):
        write_text(path, answers_page(folder, results, Path(title).name, _training_log(home)))
        return path
    with plots.style():
        context = {
            "title": Path(title).name,
            "evaluation": None if results is None else results["about"].get(EVALUATION),
            "results": None if results is None else _results(folder, results, found),
            "sweep": None if sweep is None else _sweep(sweep, found),
        }
        found["training"] = plots.training(_training_log(home))
        saved = {
            section: [(plot, Markup(plots.save(plot, folder / PLOTS))) for plot in of] for section, of in found.items()
        }
    write_text(path, _render({**context, "plots": saved}))
    return path


def _sweep_content(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        content = json_text.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {error}. Run the sweep again") from error
    if not isinstance(content, dict) or "folds" not in content:
        raise UserError(f"{path} holds no 'folds', so no sweep of this package wrote it. Run the sweep again")
    return content


def _results(folder: Path, content: Mapping[str, Any], found: Plots) -> dict[str, Any]:
    """What the template needs from results.json and the samples. Plots go into `found`."""
    rows = Rows.of(content["rows"], f"{RESULTS_FILE}#/rows")
    wholes = {part: row for part in rows.plain_parts if (row := rows.get(HONEST_PERSONA, part))}
    samples = list(_samples(folder / SAMPLES_FILE))
    others = grouped(_samples(folder / BASELINES_FILE), lambda sample: sample.detector)
    found["roc"], found["calibration"] = _score_plots(rows, {HONEST_PERSONA: samples, **others})
    found["detectors"] = _detector_plots(rows)
    about = dict(content["about"])
    embedded = _embedded(folder / SAMPLES_FILE, samples)
    return {
        "made": {key: about.pop(key, None) for key in MADE},
        "averaged": about.pop("averaged_over_interventions", []),
        "flips": about.pop("flips", []),
        "left_out": about.pop("left_out", []),
        "about": about,
        "rows": rows,
        "headlines": {part: row for part, row in wholes.items() if _has_headline(row)},
        "tables": tables_of(rows),
        "designs": designs_table(rows),
        "meanings": MEANINGS,
        "detectors": detectors_table(rows),
        "too_long": content["too_long"],
        "scores": Scores(wholes),
        "n_samples": len(samples),
        "samples": embedded,
        "n_wrong": sum(sample["outcome"] in ("missed", "false alarm") for sample in embedded),
    }


def _has_headline(row: ResultsRow) -> bool:
    return any(row["rates"].get(metric.name) is not None for metric in shown(Place.HEADLINE))


def _score_plots(rows: Rows, by_detector: Mapping[str, Sequence[Sample]]) -> tuple[list[Plot], list[Plot]]:
    """The ROC curve and its beginning for each part with PASS and FAIL; and one calibration plot for these parts."""
    rocs, calibrated, ece = [], {}, {}
    for part in rows.plain_parts:
        curves = []
        for detector, samples in by_detector.items():
            members = [sample for sample in samples if sample.part == part]
            row = rows.get(detector, part)
            if row is None or row["rates"][AUROC] is None or not members:
                continue
            columns = Columns.of_samples(members)
            curves.append(Curve.of(columns, detector, number(row["rates"][AUROC])))
            if detector == HONEST_PERSONA:
                calibrated[part], ece[part] = columns, row["rates"]["ece"]
                points = _operating_points(curves[0], row["rates"])
        if part in calibrated:
            rocs += [plots.roc(part, curves, points, limit) for limit in (1.0, plots.LOW_FPR)]
    return rocs, [plots.reliability(calibrated, ece)] if calibrated else []


def _operating_points(curve: Curve, rates: Mapping[str, float | None]) -> list[Point]:
    """The honest persona's operating points: written flags, and thresholds."""
    found = [("written flags", rates[false_positive_rate.__name__], rates[true_positive_rate.__name__])]
    for fpr in FPRS:
        found.append((f"own {metrics.percent(fpr)} FPR", curve.reached(fpr), rates[metrics.own_tpr(fpr).name]))
    for wanted in metrics.fixed_fprs(rates):
        tpr_at, fpr_at = metrics.at_threshold(wanted)
        found.append((f"calibrated {metrics.percent(wanted)} FPR", rates[fpr_at.name], rates[tpr_at.name]))
    return [
        Point(false, true, label, number(true))
        for label, false, true in found
        if false is not None and true is not None
    ]


def _detector_plots(rows: Rows) -> list[Plot]:
    """A plot per headline metric; none where the honest persona is the only detector."""
    out = []
    for metric in shown(Place.HEADLINE) if len(rows.detectors) > 1 else ():
        series: dict[str, dict[str, Value]] = {}
        for part in rows.plain_parts:
            for detector in rows.detectors:
                row = rows.get(detector, part)
                if row and (value := row["rates"].get(metric.name)) is not None:
                    series.setdefault(part, {})[detector] = Value(value, row["intervals"][metric.name])
        if series:
            out.append(plots.dots(f"detectors_{metric.name}", f"{metric.title} by detector", metric.label, series))
    return out


def _sweep(content: Mapping[str, Any], found: Plots) -> dict[str, Any]:
    """The folds and their pooled records as tables. Plots go into `found`."""
    kind, metric = content["design"], METRICS[LEAD]
    by_topic = kind != "follow_up"
    table = Table("By fold", ("fold", "tested on" if by_topic else "part"))
    cells: dict[tuple[str, str], float] = {}
    series: dict[str, dict[str, Value]] = {}
    for i, fold in enumerate(content["folds"]):
        rows = Rows.of(fold["rows"], f"{SWEEP_FILE}#/folds/{i}/rows")
        trained = ", ".join(fold["train_topics"])
        for part in rows.plain_parts:
            if kind == "leave_one_topic_out" and part != ACROSS:
                continue
            for topic in rows.names("topic") if by_topic else [ALL]:
                row = rows.get(HONEST_PERSONA, part, topic=topic)
                if row is None:
                    continue
                tested = topic if by_topic else part
                table.add(fold["name"], tested, rows, row)
                if (value := row["rates"][LEAD]) is not None:
                    cells[trained, tested] = value
                    label = topic if by_topic else fold["name"]
                    series.setdefault(part, {})[label] = Value(value, row["intervals"][LEAD])
    name = kind.replace("_", " ")
    found["sweep"] = []
    if kind == "topic_matrix" and cells:
        found["sweep"] = [plots.topic_matrix(cells, metric.title)]
    elif series:
        found["sweep"] = [plots.dots(kind, f"{metric.title}, {name}", metric.label, series)]
    pooled = Rows.of(content.get("pooled", []), f"{SWEEP_FILE}#/pooled")
    return {
        "name": name,
        "made": {key: content.get("about", {}).get(key) for key in MADE},
        "about": _SWEEPS.get(kind, ""),
        "table": table,
        "pooled": detectors_table(pooled),
    }


def _samples(path: Path) -> Iterable[Sample]:
    """Samples without their texts, for which memory may be too small."""
    return (sample.without_texts() for sample in read_samples(path)) if path.exists() else ()


def _training_log(folder: Path) -> list[dict[str, Any]]:
    here = folder.resolve()
    for path in (at / "metrics.jsonl" for at in (here, *here.parents[:2])):
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            # the last line may be torn, or not finished yet
            return [json_text.loads(line, undefined=True) for line in lines if line.endswith("\n")]
    return []


def outcome(sample: Sample) -> str:
    """How a flag compares with the truth; FAIL is the positive class."""
    if sample.flag is None:
        return "unparsable"
    if sample.flag == sample.truth:
        return "correct"
    return "missed" if sample.truth == FAIL else "false alarm"


def _embedded(path: Path, samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """The samples on the page, with their texts: spread evenly over part, topic and outcome."""
    groups = grouped(range(len(samples)), lambda i: (samples[i].part, samples[i].topic, outcome(samples[i])))
    chosen = set(evenly([groups[key] for key in sorted(groups)], EMBEDDED_SAMPLES))
    whole = (sample for i, sample in enumerate(read_samples(path)) if i in chosen) if chosen else ()
    return [{**vars(sample), "outcome": outcome(sample)} for sample in whole]


def _render(context: Mapping[str, Any]) -> str:
    environment = templates(Path(__file__).parent, autoescape=True)
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":"), "allow_nan": False}
    environment.filters["number"] = number
    script = environment.get_template("page.js.jinja").render()
    return environment.get_template("page.html.jinja").render(
        **context,
        parts=PARTS,
        headlines=shown(Place.HEADLINE),
        columns=[metric for metric in shown(Place.TABLE) if metric.name != LEAD],
        lead=METRICS[LEAD],
        detector=HONEST_PERSONA,
        kinds=[kind.name for kind in Kind if Kind.PAD < kind < Kind.REVIEW],
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
