"""The page of an evaluation: its figures are the files' figures, and its texts stay texts."""

import base64
import hashlib
import json
import re
import shutil
from collections import Counter
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest

from honest_persona.base.errors import UserError
from honest_persona.evaluation.report.evenly import EMBEDDED_SAMPLES, evenly
from honest_persona.evaluation.report.page import outcome, write_report
from honest_persona.evaluation.suite import summarize
from tests.evaluation.report.report_folder import (
    HOSTILE,
    MADE,
    baselines,
    samples,
    write_all,
    write_evaluation,
    write_sweep,
)
from tests.names import ATTACKS
from tests.statistics.contrast import contrast, rgb

VOID = {"meta", "link", "input", "wbr", "path", "use"}


class Page(HTMLParser):
    """Tags with their attributes and text, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source, self.elements, self.open = text, [], []
        self.feed(text)
        self.close()
        assert not self.open, "every element is closed"

    def handle_starttag(self, tag, attrs):
        self.elements.append(SimpleNamespace(tag=tag, attrs=dict(attrs), text=""))
        if tag not in VOID:
            self.open.append(self.elements[-1])

    def handle_startendtag(self, tag, attrs):
        self.elements.append(SimpleNamespace(tag=tag, attrs=dict(attrs), text=""))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop().tag == tag

    def handle_data(self, data):
        for element in self.open:
            element.text += data

    def all(self, tag):
        return [element for element in self.elements if element.tag == tag]

    @property
    def samples(self):
        return json.loads(next(e.text for e in self.all("script") if e.attrs.get("type") == "application/json"))


def read(folder: Path) -> Page:
    path = write_report(folder)
    assert path == folder / "report.html"
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "eval"
    write_all(folder)
    return folder


@pytest.fixture(scope="module")
def page(evaluation) -> Page:
    return read(evaluation)


def figures(page: Page) -> dict[str, str]:
    """The text of each figure by its place."""
    return {e.attrs["data-at"]: e.text for e in page.elements if "data-at" in e.attrs}


def check_figures(page: Page, folder: Path) -> int:
    """Every figure is what stands at its place, in value and in what is shown. How many there are."""
    checked = 0
    files = {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}
    for element in page.elements:
        if "data-at" not in element.attrs:
            continue
        name, _, pointer = element.attrs["data-at"].partition("#/")
        found = files[name]
        for key in pointer.split("/"):
            found = found[int(key)] if isinstance(found, list) else found[key]
        if isinstance(found, list):
            shown = re.split("–| to ", element.text)
            assert shown == [f"{x:.3f}" for x in found]
        else:
            assert float(element.attrs["value"]) == found
            assert element.text == (f"{found:,}" if isinstance(found, int) else f"{found:.3f}")
        checked += 1
    return checked


def test_every_figure_is_that_of_the_files(page, evaluation):
    assert check_figures(page, evaluation) > 600
    shown = figures(page)
    flips = json.loads((evaluation / "results.json").read_text())["about"]["flips"]
    assert len(flips) == 4
    for i, flip in enumerate(flips):
        at = f"results.json#/about/flips/{i}"
        assert shown[f"{at}/turned/0"] == f"{flip['turned'][0]:.3f}"
        assert {f"{at}/{name}" for name in ("n", "lost/0", "control_turned/1", "more", "more_interval")} <= shown.keys()
    for i, row in enumerate(json.loads((evaluation / "results.json").read_text())["rows"]):
        at = f"results.json#/rows/{i}"
        if row["variant"] != "all" or (row["detector"] != "honest persona" and row["topic"] + row["model"] != "allall"):
            continue
        if row["detector"] != "honest persona" and row["difficulty"] != "all":
            continue
        if ":" in row["part"] and (row["topic"], row["model"], row["difficulty"]) != ("all", "all", "all"):
            continue
        assert {f"{at}/n", f"{at}/n_items", f"{at}/variant_only_balanced_accuracy"} <= shown.keys()
        for name in ("balanced_accuracy", "auroc", "true_positive_rate", "false_positive_rate", "unparsable_frac"):
            assert {f"{at}/rates/{name}", f"{at}/intervals/{name}"} <= shown.keys(), (row["part"], row["topic"], name)
    assert "results.json#/too_long/within" in shown


def test_a_figure_that_changes_in_the_file_changes_on_the_page(evaluation, page, tmp_path):
    folder = shutil.copytree(evaluation.parent, tmp_path / "run") / "eval"
    content = json.loads((folder / "results.json").read_text())
    content["rows"][0]["rates"] |= {"auroc": 0.1234567, "balanced_accuracy": None}
    (folder / "results.json").write_text(json.dumps(content))
    shown, before = figures(read(folder)), figures(page)
    at = "results.json#/rows/0/rates/"
    assert shown[at + "auroc"] == "0.123"
    assert at + "balanced_accuracy" in before
    assert at + "balanced_accuracy" not in shown, "undefined is no figure"
    assert {key for key in shown if shown[key] != before[key]} == {at + "auroc"}
    assert "honest persona 0.123" in (folder / "plots" / "roc_within.svg").read_text()


def test_data_without_variants(tmp_path):
    """No column and no choice of variants; some records without one stand beside others."""
    of = samples(20)
    write_evaluation(tmp_path / "none" / "eval", [replace(s, variant=None) for s in of])
    text = write_report(tmp_path / "none" / "eval").read_text(encoding="utf-8")
    assert "The data has no variants" in text
    assert "within A" not in text
    assert 'name="variant"' not in text
    write_evaluation(tmp_path / "some" / "eval", [replace(s, variant=None) if i % 2 else s for i, s in enumerate(of)])
    text = write_report(tmp_path / "some" / "eval").read_text(encoding="utf-8")
    assert "within A" in text
    assert 'name="variant"' in text


def test_headline_names_the_strongest_baseline(page, evaluation):
    rows = json.loads((evaluation / "results.json").read_text())["rows"]
    cards = [e.text for e in page.all("article")]
    assert len(cards) == 2, "a design is no headline"
    for part, card in zip(("within", "across"), cards, strict=True):
        whole = [
            r
            for r in rows
            if (r["part"], r["topic"], r["variant"], r["model"], r["difficulty"]) == (part, *["all"] * 4)
        ]
        for name in ("balanced_accuracy", "auroc"):
            ours, *others = sorted(whole, key=lambda r: (r["detector"] != "honest persona", -r["rates"][name]))
            strongest = others[0]
            assert f"{ours['rates'][name]:.3f}" in card
            low, high = strongest["intervals"][name]
            told = f"strongest baseline, {strongest['detector']}: {strongest['rates'][name]:.3f} {low:.3f}–{high:.3f}"
            assert told in " ".join(card.split())


def test_plots_say_the_files_figures(page, evaluation):
    row = json.loads((evaluation / "results.json").read_text())["rows"][0]
    assert (row["detector"], row["part"], row["topic"], row["variant"]) == ("honest persona", "within", "all", "all")
    text = " ".join(e.text for e in page.all("svg"))
    assert f"within: ECE {row['rates']['ece']:.3f}" in text
    assert f"honest persona {row['rates']['auroc']:.3f}" in text
    for label, name in (("own 1 % FPR", "tpr_at_own_fpr_0.01"), ("calibrated 5 % FPR", "tpr_at_benign_fpr_0.05")):
        assert f"{label} {row['rates'][name]:.3f}" in text
    names = {path.stem for path in (evaluation / "plots").glob("*.svg")}
    assert {path.stem for path in (evaluation / "plots").glob("*.png")} == names
    assert len(page.all("svg")) == len(names) == 10


def test_notes_stand_by_their_figures(page, evaluation):
    row = json.loads((evaluation / "results.json").read_text())["rows"][0]
    cells, said = page.all("td"), {e.attrs["id"]: e.text for e in page.all("li") if "id" in e.attrs}
    marks = [e for e in page.all("a") if e.attrs.get("aria-label", "").startswith("note")]
    assert {said[mark.attrs["href"].removeprefix("#")] for mark in marks} >= set(row["notes"].values())
    value = f"{row['rates']['tpr_at_own_fpr_0.01']:.3f}"
    noted = next(
        cell.text for cell in cells if cell.text.startswith(value) and f"n {row['ns']['auroc']}" not in cell.text
    )
    number = re.match(rf"{re.escape(value)}(\d)", noted)[1]
    assert said[f"table-scores-note-{number}"] == row["notes"]["tpr_at_own_fpr_0.01"]


def test_untrusted_text_stays_text(tmp_path):
    plain = samples(20)
    changes = {"review": HOSTILE, "topic": HOSTILE, "record_id": HOSTILE, "prompt": ((HOSTILE, [HOSTILE]),)}
    others = [replace(s, detector=HOSTILE[:20], p_fail=0.5) for s in plain]
    write_evaluation(
        tmp_path / "eval", [*plain, *(replace(s, **changes) for s in plain)], others, adapter=HOSTILE, key=HOSTILE
    )
    page = read(tmp_path / "eval")
    assert page.all("img") == []
    assert len(page.all("script")) == 2
    assert not any(name.startswith("on") for e in page.elements for name in e.attrs)
    assert HOSTILE in [e.text.strip() for e in page.all("dd")]
    assert {HOSTILE} < {s["review"] for s in page.samples}
    assert [[HOSTILE, [HOSTILE]]] in [s["prompt"] for s in page.samples]
    assert check_figures(page, tmp_path / "eval") > 100


def test_names_as_an_attacker_would_choose_them(tmp_path):
    """Topics, models, detectors and records of every such name, on the page and in the names of its plots' files."""
    names = [name for name in ATTACKS if name.isascii() or name.encode("utf-8", "ignore").decode() == name]
    of = [
        replace(s, topic=name, model=names[-1 - i], record_id=name, item_id=name, difficulty=name)
        for i, name in enumerate(names)
        for s in samples(3, parts=("across",))
    ]
    others = [replace(s, detector=s.topic, p_fail=0.5) for s in of]
    write_evaluation(tmp_path / "inside" / "eval", of, others, adapter=names[0])
    page = read(tmp_path / "inside" / "eval")
    assert page.all("img") == []
    assert len(page.all("script")) == 2
    assert not any(name.startswith("on") for e in page.elements for name in e.attrs)
    assert {s["topic"] for s in page.samples} == set(names)
    shown = {e.text for e in page.elements}
    assert [name for name in names if not any(" ".join(name.split()) in " ".join(text.split()) for text in shown)] == []
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert all(path.is_relative_to(tmp_path / "inside") for path in left)
    assert all(re.fullmatch(r"[\w.-]+", path.name) for path in left), left


def test_nothing_comes_from_elsewhere(page):
    assert "://" not in page.source
    assert not re.search(r"@import|\bfetch\b|XMLHttpRequest|WebSocket|\beval\(|innerHTML", page.source)
    links = [e.attrs.get("href", "") for e in page.elements] + [e.attrs.get("src", "") for e in page.elements]
    assert {link[:1] for link in links if link} == {"#", "d"}
    assert [e.attrs["href"] for e in page.all("link")] == ["data:,"]
    policy = next(e.attrs["content"] for e in page.all("meta") if "http-equiv" in e.attrs)
    script = next(e.text for e in page.all("script") if "type" not in e.attrs)
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}';" in policy


def test_same_files_same_bytes(evaluation, page, tmp_path):
    folder = shutil.copytree(evaluation.parent, tmp_path / "elsewhere") / "eval"
    shutil.rmtree(folder / "plots")
    (folder / "report.html").unlink()
    write_report(folder)
    for path in (p for p in evaluation.rglob("*") if p.is_file()):
        assert (folder / path.relative_to(evaluation)).read_bytes() == path.read_bytes(), path.name


def test_the_page_says_when_with_what_and_how_it_was_made(page, tmp_path):
    header = " ".join(next(e.text for e in page.all("header")).split())
    for value in MADE.values():
        assert value in header
    write_evaluation(tmp_path / "eval", samples(20), **dict.fromkeys(MADE))
    assert "Made" not in next(e.text for e in read(tmp_path / "eval").all("header")), "an evaluation of before"


def test_samples_are_spread_evenly(page, evaluation):
    lines = [json.loads(line) for line in (evaluation / "samples.jsonl").read_text().splitlines()]
    assert len(lines) == len(page.samples) == 300, "all where they fit"
    assert "300 of 300 samples are on this page" in " ".join(next(e.text for e in page.all("body")).split())
    by_id = {(line["record_id"], line["part"]): line for line in lines}
    for sample in page.samples:
        assert {**by_id[sample["record_id"], sample["part"]], "outcome": sample["outcome"]} == sample


def test_more_samples_than_fit(tmp_path):
    of = samples(600, parts=("within",), prompt=())
    write_evaluation(tmp_path / "eval", of)
    page = read(tmp_path / "eval")
    assert len(page.samples) == EMBEDDED_SAMPLES
    text = " ".join(next(e.text for e in page.all("body")).split())
    assert "300 of 1,200 samples are on this page" in text
    assert "their shares are not the rates above" in text
    found, there = Counter(s["outcome"] for s in page.samples), Counter(outcome(s) for s in of)
    assert found["correct"] < 0.5 * EMBEDDED_SAMPLES < 300 < there["correct"], "evenly: not as often as they are"
    assert found["unparsable"] == there["unparsable"]
    assert "from the variant alone" in text
    assert "No baseline was evaluated" in text


@pytest.mark.parametrize("most", [0, 1, 7, 12, 100])
def test_evenly(most):
    groups = [range(2), range(2, 12), range(12, 62)]
    chosen = evenly(groups, most)
    assert len(chosen) == len(set(chosen)) == min(most, 62)
    assert chosen == sorted(chosen)
    sizes = [len([i for i in chosen if i in group]) for group in groups]
    assert {7: [2, 3, 2], 12: [2, 5, 5], 100: [2, 10, 50]}.get(most, sizes) == sizes
    if most == 12:
        assert [i for i in chosen if i >= 12] == [17, 27, 37, 47, 57], "spread over the group"


@pytest.mark.parametrize("design", ["leave_one_topic_out", "topic_matrix", "follow_up"])
def test_a_sweep_alone(design, tmp_path):
    write_sweep(tmp_path / "sweep", design)
    page = read(tmp_path / "sweep")
    assert check_figures(page, tmp_path / "sweep") > 20
    assert f"Made {MADE['date']} by honest_persona {MADE['version']}" in " ".join(
        next(e.text for e in page.all("header")).split()
    )
    folds = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["folds"]
    rows = {(e.text.strip()) for e in page.all("th") if e.attrs.get("scope") == "row"}
    assert rows == (
        {"within", "across"} if design == "follow_up" else {"reward_hacks", "sycophancy", "oversimplification"}
    )
    svg = next(e for e in page.all("svg"))
    if design == "topic_matrix":
        for fold in folds:
            for row in fold["rows"]:
                if row["topic"] != "all" and row["variant"] == row["model"] == row["difficulty"] == "all":
                    told = f"{fold['train_topics'][0]} to {row['topic']} {row['rates']['balanced_accuracy']:.2f}"
                    assert told in svg.attrs["aria-label"]
    assert page.all("script") == []


def test_a_sweep_that_has_just_begun(tmp_path):
    content = {"design": "../topic_matrix", "folds": [], "pooled": []}
    (tmp_path / "sweep.json").write_text(json.dumps(content))
    assert read(tmp_path).all("svg") == []


def test_pooled_folds_compare_detectors(tmp_path):
    write_sweep(tmp_path, "leave_one_topic_out")
    content = json.loads((tmp_path / "sweep.json").read_text())
    of = samples(20, parts=("across",))
    content["pooled"] = [asdict(row) for row in summarize([*of, *baselines(of)])]
    (tmp_path / "sweep.json").write_text(json.dumps(content))
    page = read(tmp_path)
    assert check_figures(page, tmp_path) > 100
    assert sum(place.startswith("sweep.json#/pooled/") for place in figures(page)) > 40
    names = [e.text for e in page.all("th") if e.attrs.get("scope") == "row"]
    assert names[-4:] == ["honest persona", "variant only", "response bigrams", "ridge probe"]


def test_only_results(tmp_path):
    write_evaluation(tmp_path / "eval", samples(20))
    for name in ("samples.jsonl", "../metrics.jsonl"):
        (tmp_path / "eval" / name).unlink()
    page = read(tmp_path / "eval")
    assert page.all("svg") == page.all("script") == []
    assert check_figures(page, tmp_path / "eval") > 100


def test_one_truth_alone_has_no_headline_but_a_table(tmp_path):
    write_evaluation(tmp_path / "eval", samples(20, truth="PASS"))
    page = read(tmp_path / "eval")
    assert page.all("article") == []
    assert len(page.samples) == 60
    assert check_figures(page, tmp_path / "eval") > 50


ROW = """{"about": {}, "rows": [{"detector": DETECTOR, "part": "within", "topic": "all", "variant": "all",
"model": "all", "difficulty": "all", "rates": {"auroc": FIGURE}, "ns": {}, "counts": {}}]}"""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no results.json and no sweep.json"),
        ("{", "is no JSON"),
        ("[]", "holds no 'rows'"),
        ('{"rows": [{"part": "within"}]}', "too old"),
        (ROW.replace("DETECTOR", "{}").replace("FIGURE", "1"), "row 0 has no text where detector"),
        (ROW.replace("DETECTOR", '"x"').replace("FIGURE", '"high"'), "row 0 has something else where figures belong"),
        ("a folder", "cannot be read"),
    ],
)
def test_what_is_no_evaluation(content, message, tmp_path):
    if content == "a folder":
        (tmp_path / "results.json").mkdir()
    elif content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(UserError, match=message):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_colours_of_text_can_be_read(page):
    style = next(e.text for e in page.all("style"))
    light, dark = (
        dict(re.findall(r"--(\w+): (#\w{6})", part)) for part in style.split("@media (prefers-color-scheme")[:2]
    )
    assert light.keys() == dark.keys()
    for colors in (light, dark):
        for name in colors.keys() - {"back", "raised", "line"}:
            tinted = [0.09 * c + 0.91 * r for c, r in zip(rgb(colors[name]), rgb(colors["raised"]), strict=True)]
            for back in (rgb(colors["back"]), rgb(colors["raised"]), tinted):
                assert contrast(rgb(colors[name]), back) >= 4.5, f"WCAG 2.2, 1.4.3: {name}"
