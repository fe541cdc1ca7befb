"""One entry in the table of metrics, and the metric is in every result, table and page; no other file is touched."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from honest_persona.evaluation.compare import compare, comparison_table
from honest_persona.evaluation.report.page import write_report
from honest_persona.evaluation.report.tables import detectors_table, table, topics_table, write_results
from honest_persona.evaluation.samples import write_samples
from honest_persona.evaluation.suite import Results, summarize
from honest_persona.hub.model_card import write_model_card
from honest_persona.modeling.adapters.card import AdapterCard
from honest_persona.statistics.columns import Columns
from honest_persona.statistics.detection import detect
from honest_persona.statistics.estimators import share_statistic
from honest_persona.statistics.metrics import METRICS, Metric, Place
from tests.evaluation.report.report_folder import baselines, samples
from tests.tiny import form_of


def sure(columns: Columns):
    return share_statistic(columns, np.abs(columns.p_fail - 0.5) > 0.4, np.ones(len(columns.p_fail), dtype=bool))


TOY = Metric(
    "sure_frac",
    "sure of itself",
    "share of records with P(FAIL) below 0.1 or above 0.9",
    sure,
    ~Place(0),  # everywhere
    short="sure",
    note=lambda columns, seed: f"of {len(columns.p_fail)} scores",
)
MADE = samples(20)


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    """The folder of an evaluation with the toy metric, and its results."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METRICS, TOY.name, TOY)
        others = baselines(MADE)[: len(MADE)]
        results = Results(summarize([*MADE, *others]), MADE)
    folder = tmp_path_factory.mktemp("run") / "eval"
    folder.mkdir()
    write_samples(MADE, folder / "samples.jsonl", "id")
    write_samples(others, folder / "baselines.jsonl", "id")
    write_results(results, folder, {"evaluation": "id", "dataset": "made up", "adapter": "toy"})
    return folder, results


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setitem(METRICS, TOY.name, TOY)


def test_figures(evaluation, registered):
    folder, results = evaluation
    columns = Columns.of_samples(MADE)
    found = detect(columns, resamples=50)
    expected = np.mean([abs(s.p_fail - 0.5) > 0.4 for s in MADE])
    assert found["sure_frac"].value == expected
    assert found["sure_frac"].interval[0] < expected < found["sure_frac"].interval[1]
    content = json.loads((folder / "results.json").read_text())
    assert all("sure_frac" in row["rates"] for row in content["rows"])
    whole = results.row("within")
    assert whole.notes["sure_frac"] == "of 40 scores"
    ours = [row for row in results.rows if row.detector == whole.detector]
    assert Results(ours, []).scalars()["within/all/sure_frac"] == whole.rates["sure_frac"]


def test_terminal(evaluation, registered):
    _, results = evaluation
    share = results.row("within").rates["sure_frac"]
    topics = table(results, "title")
    names = [column.name for column in topics.columns]
    assert topics.rows[1][0][names.index("sure")] == f"{share:.2f}"
    detectors = detectors_table(results.rows)
    names = [column.name for column in detectors.columns]
    assert detectors.rows[1][0][names.index("sure")] == f"{share:.3f}"
    assert "sure of itself" in topics_table(results.rows, "within").title


def test_comparison(evaluation, registered, tmp_path):
    weaker = samples(20, strength=1.0)
    (tmp_path / "b").mkdir()
    write_samples(weaker, tmp_path / "b" / "samples.jsonl", "other")
    found = compare(evaluation[0], tmp_path / "b", resamples=50)
    lines = [row for row, _ in comparison_table(found).rows if row[0].strip() == "sure of itself"]
    assert len(lines) == len([row for row in found.rows if sum(x != "all" for x in row.group[1:]) < 2])
    of = found.row("within").differences["sure_frac"]
    wanted = np.mean([abs(s.p_fail - 0.5) > 0.4 for s in weaker if s.part == "within"])
    assert of.b == pytest.approx(wanted, abs=1e-12)


def test_page_and_model_card(evaluation, registered):
    folder, results = evaluation
    share = results.row("within").rates["sure_frac"]
    page = write_report(folder).read_text()
    assert '<p class="label">Sure of itself</p>' in page
    assert f'<th scope="col" title="{TOY.meaning}">sure</th>' in page
    assert f'<th scope="row" title="{TOY.meaning}">Sure of itself</th>' in page
    assert page.count(f'<data value="{share}" data-at="results.json#/rows/0/rates/sure_frac">{share:.3f}</data>') > 2
    assert "of 40 scores" in page
    assert (folder / "plots" / "detectors_sure_frac.svg").exists()
    card = AdapterCard(form_of().persona, "builtin:tiny", None, "f", "What did you do?", ["sycophancy"])
    write_model_card(folder.parent, card, "user/name")
    text = (folder.parent / "README.md").read_text()
    assert "| sure of itself |" in text
    low, high = results.row("within").intervals["sure_frac"]
    assert f"| {share:.3f} ({low:.2f}-{high:.2f}) |" in text
    assert "metric_type" not in text
    assert "type: sure_frac" in text
    assert "of 40 scores" in text


@pytest.mark.parametrize("of", ["an older version", "a newer version"])
def test_results_of_another_version_are_shown(of, monkeypatch, tmp_path):
    """Without a metric that this version knows, and with one that it does not know."""
    if of == "a newer version":
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(METRICS, TOY.name, TOY)
            rows = summarize(MADE)
    else:
        rows = summarize(MADE)
        monkeypatch.setitem(METRICS, TOY.name, TOY)
    content = {"about": {}, "rows": [asdict(row) for row in rows], "too_long": {}}
    (tmp_path / "results.json").write_text(json.dumps(content))
    page = write_report(tmp_path).read_text()
    assert f"{rows[0].rates['auroc']:.3f}" in page
    assert f"{rows[0].rates['ece']:.3f}" in page
    assert "rates/sure_frac" not in page
    assert table(Results(rows, []), "title").rows
