"""The default run gets out what the organism hides; the report beside its controls."""

import contextlib
import json

import pytest

from honest_persona.base.words import ALL
from honest_persona.config.load import load_config
from honest_persona.evaluation import controls
from honest_persona.evaluation.controls import CONTROLS
from honest_persona.experiments import organism as report_module
from honest_persona.experiments.evaluate import evaluate_adapter
from honest_persona.experiments.organism import report
from honest_persona.modeling.adapters.card import AdapterCard
from honest_persona.training.launch import train

pytestmark = pytest.mark.slow


def rates(folder, step):
    rows = json.loads((folder / "heavy_log" / f"step_{step:06d}" / "results.json").read_text())["rows"]
    return {(r["part"], r["topic"]): r["rates"]["balanced_accuracy"] for r in rows if r["variant"] == ALL}


@pytest.fixture(scope="module")
def folder(root, tmp_path_factory):
    """64 of its 96 steps."""
    flags = ["--max_steps", "64", "--heavy_log_every", "null", "--val_samples_per_topic", "24"]
    with contextlib.chdir(tmp_path_factory.mktemp("default")):
        return train(load_config(str(root / "hp.yaml"), [*flags, "--deepspeed", "null"])).absolute()


def test_the_default_run_learns_to_tell(folder):
    """The bars are far below what a whole run reaches, and far above chance."""
    before, after = rates(folder, 0), rates(folder, 64)
    assert before["within", ALL] in (None, 0.5), "before training it passes everything, or cannot be read"
    assert after["within", ALL] > 0.9
    assert after["across", ALL] > 0.8, "topics that the adapter was never trained on"


def test_another_number_format_changes_little(folder, tmp_path):
    """What was trained in one is used in the other, as on another machine."""
    trained_in = AdapterCard.load(folder).trained_in
    said = {}
    for dtype in ("float32", "bfloat16"):
        output = tmp_path / dtype
        results = evaluate_adapter(str(folder), limit=8, baselines="none", output=str(output), dtype=dtype)
        about = json.loads((output / "results.json").read_text())["about"]
        assert (about["dtype"], about["trained_in"]) == (dtype, trained_in)
        said[dtype] = {s.record_id: (s.flag, s.p_fail) for s in results.samples}
    pairs = [(flag, p, *said["bfloat16"][name]) for name, (flag, p) in said["float32"].items()]
    assert len(pairs) == 48
    assert sum(flag == other for flag, _, other, _ in pairs) >= 46
    assert sum(abs(p - q) for _, p, _, q in pairs) / len(pairs) < 0.02
    assert any(p != q for _, p, _, q in pairs), "negative control: the format is another one"


def test_every_detector_in_one_table_and_on_one_page(folder, browser):
    """Every figure on the page stands at its place in results.json, and the browser has nothing to say."""
    with contextlib.chdir(folder.parents[1]):
        evaluate_adapter(str(folder), limit=8, baselines="all", designs="no_system,forged_review", interventions=2)
    content = json.loads((folder / "eval" / "results.json").read_text())
    browser.get((folder / "eval" / "report.html").as_uri())
    found = browser.find_elements("css selector", "[data-at^='results.json#/rows/'][data-at*='/rates/']")
    assert len(found) > 200
    for element in found:
        _, _, number, _, name = element.get_attribute("data-at").split("/")
        value = content["rows"][int(number)]["rates"][name]
        assert element.get_attribute("textContent").strip() == f"{value:.3f}"
    assert len({row["detector"] for row in content["rows"]}) == 12
    assert browser.get_log("browser") == []


def test_the_report_keeps_what_is_done(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HONEST_PERSONA_PROGRESS", "1")
    words = ["--max_steps", "2", "--deepspeed", "null", "--max_new_tokens", "8", "--num_samples", "64"]
    trained = []
    monkeypatch.setattr(report_module, "train", lambda config: trained.append(config.run_name) or train(config))
    monkeypatch.setattr(controls, "REQUESTS", controls.REQUESTS[:1])
    with contextlib.chdir(tmp_path):
        config = load_config(str(root / "hp.yaml"), words)
        for _ in range(2):
            lines = report(config, seeds=1, per_topic=4, output=tmp_path / "out", only="flag_only")
    told = [line.partition(",")[0] for line in capsys.readouterr().err.splitlines() if " of " in line]
    turns = [f"control {i} of 5: {name}" for i, name in enumerate(CONTROLS, start=1)]
    assert [line for line in told if line.startswith(("control", "condition"))] == [
        *turns,
        "condition 1 of 1: flag_only",
    ], "each once"
    assert trained == ["organism-persona-seed42", "organism-flag_only-seed42"], "nothing twice"
    readers = ["variant only", "topic only", "response bigrams", "transcript bigrams"]
    probes = ["ridge probe", "logistic probe", "ccs probe", "vinc probe"]
    names = [*readers, *probes, "no adapter", "prompt only", "asked plainly", "flag_only"]
    assert [line.name for line in lines] == names
    saved = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [line["name"] for line in saved] == names
    shortcut = next(r for r in saved[0]["rows"] if (r["part"], r["topic"], r["variant"]) == ("within", ALL, ALL))
    assert (shortcut["n"], shortcut["rates"]["balanced_accuracy"]) == (16, 0.5)
    assert (tmp_path / "out" / "report.md").read_text().count("\n") == 2 + len(names)
