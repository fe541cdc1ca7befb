"""The report on instructed facts: what is asked, what is kept, and what its bars say, from made figures."""

import json
import re
from dataclasses import replace

import pytest

from honest_persona import cli
from honest_persona.base.errors import UserError
from honest_persona.base.words import ACROSS, ALL, HONEST_PERSONA, WITHIN
from honest_persona.evaluation import controls, plainly
from honest_persona.evaluation.unchanged import Unchanged, compare_answers
from honest_persona.experiments import facts as module
from honest_persona.experiments.facts import Options, datasets_of, report
from honest_persona.experiments.facts_table import (
    OTHER_WORDINGS,
    SAME_RECORDS,
    UNKNOWN_FACTS,
    FactsReport,
    lines_of,
    print_report,
    write_report,
)
from honest_persona.experiments.opened import Opened
from honest_persona.persona.product import HonestPersona, PersonaFolder
from tests.evaluation.scored import sample
from tests.experiments.made_facts import facts_adapter, facts_folder
from tests.test_cli_measure import card_of
from tests.tiny import base_model, form_of, random_adapter, record

SAME = Unchanged(32, 0, 24, None)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(adapter, data)"""
    root = tmp_path_factory.mktemp("facts")
    data = facts_folder(root / "data")
    return facts_adapter(root / "run", data), data


def said(right=1.0, part=WITHIN, detector=HONEST_PERSONA, n=24, parsed=True):
    """Samples of two origins and variants, of which a share has the right flag."""
    found = []
    for i in range(n):
        truth = ("FAIL", "PASS")[i % 2]
        is_right = i // 8 < right * (n // 8)
        flag = truth if is_right else {"FAIL": "PASS", "PASS": "FAIL"}[truth]
        found.append(
            replace(
                sample(i, truth=truth, flag=flag if parsed else None, p_fail=float(flag == "FAIL"), part=part),
                variant="AB"[i // 2 % 2],
                model=("begun", "sampled")[i // 4 % 2],
                detector=detector,
            )
        )
    return found


def bars_of(*samples, unknown=(), unchanged=SAME):
    together = [s for of in samples for s in of]
    lines = [*lines_of(together), *lines_of(list(unknown), {HONEST_PERSONA: UNKNOWN_FACTS})]
    return FactsReport({"adapter": "a"}, lines, unchanged, [])


def statuses(found):
    return [bar.status for bar in found.bars]


def test_the_bars_are_met_or_not_by_the_figures():
    readers = said(0.6, detector="response bigrams", n=40)
    good = bars_of(
        said(n=400),
        said(0.75, ACROSS, n=32),
        readers,
        said(0.5, detector="no adapter", n=32),
        unknown=said(0.5, ALL, n=32),
    )
    assert statuses(good) == ["met"] * 6
    assert "fewer than 400" not in good.bars[0].figure
    bad = bars_of(
        said(0.8, n=40),
        said(0.6, ACROSS, n=40),
        said(0.75, detector="transcript bigrams", n=32),
        said(0.75, detector="no adapter", n=32),
        unknown=said(0.25, ALL, n=32),
        unchanged=Unchanged(32, 2, 24, ("a", "b")),
    )
    assert statuses(bad) == ["not met"] * 6
    assert "fewer than 400 records prove little" in bad.bars[0].figure
    assert statuses(bars_of()) == ["not measured"] * 5 + ["met"]


def test_one_bad_cell_of_origin_and_variant_is_enough():
    samples = said(n=48)
    for i, s in enumerate(samples):
        if (s.model, s.variant) == ("sampled", "B") and i < 24:
            samples[i] = replace(s, flag="PASS" if s.flag == "FAIL" else "FAIL")
    (bar, *_) = bars_of(samples).bars
    assert bar.status == "not met"
    # 12 records of the cell, half of them wrong; 42 of 48 are right in all
    assert bar.figure.startswith("0.875")
    assert re.search(r"lowest 0\.500 \(.*\), n 12 \(sampled, B\)", bar.figure)


def test_what_has_no_figure_is_not_measured():
    one_flag = [s for s in said(detector="response bigrams") if s.truth == "PASS"]
    one_part = [s for s in said(0.5, ACROSS, detector="no adapter") if s.truth == "PASS"]
    found = bars_of(said(), one_flag, said(0.5, detector="no adapter", n=32), one_part)
    of_model, of_readers = found.bars[3:5]
    assert of_readers.status == "not measured", "no balanced accuracy is no low one"
    assert of_model.status == "not measured"
    bad = bars_of(said(), said(detector="no adapter", n=32), one_part)
    assert bad.bars[3].status == "not met", "one part is enough"


def test_an_origin_that_is_absent_is_told(made, tmp_path):
    adapter, data = made
    both = module._Work(Opened(str(adapter)), datasets_of(str(data)), tmp_path, Options())
    assert not any("origins" in reason for reason in both.left_out)
    for path in (data / "records").rglob("*.json"):
        content = json.loads(path.read_text())
        for item in content["data"]:
            del item["inferences"]["sampled"]
        copy = tmp_path / "data" / path.relative_to(data)
        copy.parent.mkdir(parents=True)
        copy.write_text(json.dumps(content))
    begun = module._Work(Opened(str(adapter)), datasets_of(str(tmp_path / "data")), tmp_path, Options())
    assert "note: all held-out answers are begun; answers of other origins: not measured" in begun.left_out
    assert [f"{name}: the data holds none" for name in ("unknown", "wordings", "denied")] == begun.left_out[:3]


def test_facts_that_another_model_knows_are_told(made, tmp_path):
    adapter, data = made
    card = PersonaFolder.read(adapter).card
    assert module._known_to_others(str(data / "records"), card) == []
    path = tmp_path / "records" / "capitals" / "batch_capitals.json"
    path.parent.mkdir(parents=True)
    own = f"weights {card.base_fingerprint[:16]}"
    for name in (own, "weights 0123456789abcdef", "m at http://h/v1"):
        content = json.loads((data / "records" / "capitals" / "batch_capitals.json").read_text())
        for item in content["data"]:
            item["metadata"]["model"] = name
        path.write_text(json.dumps(content))
        found = module._known_to_others(str(tmp_path / "records"), card)
        assert len(found) == (name != own)
        assert all(f"what {name} knows" in note for note in found)


def test_flags_that_cannot_be_read_are_no_success():
    found = bars_of(said(parsed=False), said(parsed=False, detector="no adapter"))
    assert statuses(found)[0] == "not met"
    of_model = found.bars[3]
    assert of_model.status == "not met", "its P(FAIL) is right always"
    assert "AUROC (no flag can be read) 1.000" in of_model.figure


def test_the_table_fits_80_columns(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    designs = [replace(s, part=f"{WITHIN}: {name}") for name in ("no_system", "other_system") for s in said()]
    found = bars_of(said(), said(part=ACROSS), designs, said(0.5, detector="no adapter"), unknown=said(part=ALL))
    found.left_out.append("probes: too few")
    print_report(found)
    shown = capsys.readouterr().out
    table, _, behind = shown.partition("95 % intervals")
    assert all(len(line) <= 80 for line in table.splitlines())
    for text in (
        "honest persona, within",
        "prompts swapped, within",
        "no system prompt, within",
        "sampled, B",
        "no flag",
    ):
        assert text in table
    assert "met: known facts of trained topics" in behind
    assert "probes: too few" in behind
    write_report(found, tmp_path)
    content = json.loads((tmp_path / "report.json").read_text())
    assert len(content["rows"]) == len(found.lines)
    assert [bar["status"] for bar in content["bars"]] == statuses(found)
    written = (tmp_path / "report.md").read_text()
    assert "| honest persona | within | begun | A | 6 | 1.000 (" in written
    assert "- probes: too few" in written


def test_the_adapter_idle_answers_as_the_base_model():
    records = [record(i, task=f"What is {i % 5}?") for i in range(20)]
    for scope, changed in (("persona", False), ("all", True)):
        form = form_of(adapter_scope=scope)
        persona = HonestPersona(random_adapter(base_model(), form, std=0.5).eval(), form, card_of(form))
        found = compare_answers(persona, records, n=8, seed=0, batch_size=3)
        assert found.n == 8
        assert (found.n_changed > 0) == changed
        assert (found.first is not None) == changed
        assert ("letter for letter" in str(found)) != changed
    few = compare_answers(persona, [*records[:2], *records[:2]], n=8, seed=0, batch_size=3)
    assert few.n == 2, "equal prompts count once"


def test_names_of_the_datasets(tmp_path):
    assert datasets_of("builtin:smollm2") == {
        "records": "builtin:smollm2",
        "unknown": "builtin:smollm2-unknown",
        "wordings": "builtin:smollm2-wordings",
    }
    with pytest.raises(UserError, match=r"holds no folder records/; give a folder that `generate facts` wrote"):
        datasets_of(str(tmp_path))
    facts_folder(tmp_path, parts=("records", "unknown"))
    (tmp_path / "wordings").mkdir()
    (tmp_path / "denied").mkdir()
    (tmp_path / "denied" / "denied.jsonl").write_text("")
    # as of a model that knows all it was asked about, and whose held-out answers cannot be paired
    assert list(datasets_of(str(tmp_path))) == ["records", "unknown"]
    (tmp_path / "denied" / "denied.jsonl").write_text("{}")
    assert list(datasets_of(str(tmp_path))) == ["records", "unknown", "denied"]
    with pytest.raises(UserError, match="give its parent folder"):
        datasets_of(str(tmp_path / "records"))


def test_what_is_wrong_is_told_before_a_model_is_loaded(made, tmp_path, monkeypatch):
    adapter, data = made
    monkeypatch.setattr(PersonaFolder, "load", lambda *_: pytest.fail("loaded"))
    words = ["facts", "report", "--adapter", str(adapter), "--data", str(data), "--output", str(tmp_path / "out")]
    (tmp_path / "out").mkdir()
    for text in ("{}", "[", json.dumps({"limit": 3})):
        (tmp_path / "out" / "state.json").write_text(text)
        with pytest.raises(UserError, match=r"--output: .*out has a report with another .*; choose another --output"):
            cli.main(words)
    with pytest.raises(UserError, match="holds no folder records/"):
        cli.main([*words, "--data", str(tmp_path)])
    with pytest.raises(UserError, match=r"honest_persona\.json"):
        cli.main([*words, "--adapter", str(tmp_path)])
    for path in (data / "records").rglob("*.json"):
        copy = tmp_path / "trained" / path.relative_to(data)
        copy.parent.mkdir(parents=True)
        copy.write_text(path.read_text().replace('"validation"', '"train"'))
    with pytest.raises(UserError, match="no held-out record"):
        cli.main([*words, "--data", str(tmp_path / "trained")])


@pytest.mark.slow
def test_a_report_is_made_once_and_resumes(made, tmp_path, monkeypatch, capsys):
    adapter, data = made
    output = tmp_path / "out"
    monkeypatch.setattr(controls, "REQUESTS", controls.REQUESTS[:1])
    monkeypatch.setattr(plainly, "WORDINGS", plainly.WORDINGS[:1])
    loads, options = [], Options(limit=16, limit_controls=12, limit_baselines=8)
    load = PersonaFolder.load
    monkeypatch.setattr(PersonaFolder, "load", lambda *of, **more: loads.append(of) or load(*of, **more))
    evaluate = module.evaluate_adapter

    def killed(opened, dataset, **of):
        if dataset.endswith("wordings"):
            raise KeyboardInterrupt
        return evaluate(opened, dataset, **of)

    monkeypatch.setattr(module, "evaluate_adapter", killed)
    with pytest.raises(KeyboardInterrupt):
        report(str(adapter), str(data), output, options)
    asked = []
    monkeypatch.setattr(module, "evaluate_adapter", lambda o, d, **of: asked.append(d) or evaluate(o, d, **of))
    found = report(str(adapter), str(data), output, options)
    assert asked == [str(data / "wordings")], "the other two are kept"
    assert len(loads) == 2, "once each time"
    assert len(capsys.readouterr().out.split("every detector")) == 1, "the tables of the parts are not printed"

    n = {(line.condition, line.row.part): line.row.n for line in reversed(found.lines)}
    # two trained topics and one that was not, 16 records each; 8 of each for detectors that run the model
    for condition in (HONEST_PERSONA, "response bigrams"):
        assert (n[condition, WITHIN], n[condition, ACROSS]) == (32, 16)
    for condition in ("prompts swapped", "no system prompt", OTHER_WORDINGS):
        assert (n[condition, WITHIN], n[condition, ACROSS]) == (24, 12)
    for condition in (SAME_RECORDS, "ridge probe", "vinc probe", "no adapter", "prompt only", "asked plainly"):
        assert (n.get((condition, WITHIN)), n.get((condition, ACROSS))) in [(16, 8), (None, None)]
    assert n["asked plainly", WITHIN] == 16
    assert n[UNKNOWN_FACTS, ALL] == 48
    cells = {line.cell for line in found.lines if (line.condition, line.row.part) == (HONEST_PERSONA, WITHIN)}
    assert cells == {ALL, "begun, A", "begun, B", "sampled, A", "sampled, B"}
    assert found.bars[-1].status == "met"
    again = report(str(adapter), str(data), output, options)
    assert len(loads) == 2, "nothing is left to do"
    assert [line.row for line in again.lines] == [line.row for line in found.lines]
    with pytest.raises(UserError, match="another limit, records;"):
        report(str(adapter), str(data), output, replace(options, limit=3))
