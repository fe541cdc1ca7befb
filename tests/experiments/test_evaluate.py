"""eval.py's work on a saved adapter of the tiny model: every detector on the same records, and what is written."""

import json
import re
import shutil
from collections import Counter, defaultdict
from dataclasses import replace

import pytest

from eval import main as eval_main
from honest_persona.base import progress
from honest_persona.base.errors import UserError
from honest_persona.base.locks import held
from honest_persona.base.words import HONEST_PERSONA
from honest_persona.data.load import load_records
from honest_persona.data.selection import Selection
from honest_persona.evaluation import controls
from honest_persona.evaluation.compare import compare
from honest_persona.evaluation.controls import CONTROLS, Asked, NotAsked, best_prompted
from honest_persona.evaluation.held_out import held_out
from honest_persona.evaluation.report.page import write_report
from honest_persona.evaluation.samples import read_samples
from honest_persona.evaluation.sets import BASELINES_FILE, SAMPLES_FILE, page_id
from honest_persona.evaluation.settings import EvalSettings
from honest_persona.evaluation.suite import summarize
from honest_persona.experiments.evaluate import evaluate_adapter
from honest_persona.modeling.adapters.card import AdapterCard
from honest_persona.modeling.builtin import tiny_model
from honest_persona.modeling.fingerprint import base_fingerprint
from honest_persona.persona.product import HonestPersona, PersonaFolder
from tests.evaluation.scored import sample
from tests.test_cli_measure import card_of
from tests.tiny import base_model, form_of, random_adapter, record

CONFIG = {
    "seq_len": 512,
    "bf16": False,
    "max_new_tokens": 4,
    "train_topics": "all",
    "validation_topics": [],
    "claude_frac": 1.0,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An adapter that acts, trained on the topics of the sample data but one."""
    form = form_of()
    path = tmp_path_factory.mktemp("run")
    base = tiny_model()
    card = card_of(form, base_model="builtin:tiny", base_fingerprint=base_fingerprint(base))
    records = load_records("builtin:sample", Selection.of({**card.config, **CONFIG})).records
    topics = sorted({r.topic for r in records})
    replace(card, trained_topics=topics[1:], config={**card.config, **CONFIG}).save(path)
    random_adapter(base, form, std=0.5).save_pretrained(path)
    form.tokenizer.save_pretrained(path)
    return path


def test_every_detector_is_asked_about_the_same_records(folder, tmp_path, terminal, monkeypatch):
    monkeypatch.setattr(progress, "_SHORT_S", 0)
    with terminal:
        results = evaluate_adapter(
            str(folder), limit=4, output=str(tmp_path), baselines="all", interventions=2, designs="forged_review"
        )
    content = json.loads((tmp_path / "results.json").read_text())
    held = held_out(AdapterCard.load(folder), "builtin:sample", form_of(), limit=4)
    of_detector = defaultdict(list)
    for name in (SAMPLES_FILE, BASELINES_FILE):
        for s in read_samples(tmp_path / name):
            if s.part in held.parts:
                of_detector[s.detector].append((s.part, s.record_id, s.truth))
    assert list(of_detector) == [
        HONEST_PERSONA,
        "variant only",
        "topic only",
        "response bigrams",
        "transcript bigrams",
        "ridge probe",
        "logistic probe",
        "ccs probe",
        "vinc probe",
        "no adapter",
        "prompt only",
        "asked plainly",
    ]
    wanted = Counter((part, r.id, r.flag) for part, of in held.parts.items() for r in of)
    assert len(wanted) == 16
    assert all(Counter(found) == wanted for found in of_detector.values())
    assert {row["detector"] for row in content["rows"]} == set(of_detector)
    assert content["about"]["left_out"] == []
    assert results.row("within").n == len(held.parts["within"])

    # two wordings a transcript, in parts of their own
    texts = {r.id: r.intervention for r in held.train}
    commonest = [text for text, _ in Counter(texts.values()).most_common(2)]
    again = [s for s in read_samples(tmp_path / SAMPLES_FILE) if s.part == "within: 2 wordings"]
    said = defaultdict(set)
    for s in again:
        shown = "".join(t for kind, run in s.prompt if kind == "INTERVENTION" for t in run).replace("·", " ")
        said[s.record_id.split(": wording")[0]].add(next(text for text in commonest if text in shown))
    assert set(map(len, said.values())) == {2}
    assert [gain["n_interventions"] for gain in content["about"]["averaged_over_interventions"]] == [2]
    shown = terminal.stdout.getvalue()
    assert "averaged over 2 interventions" in shown
    assert "every detector" in shown
    parts = Counter(row["part"] for row in content["rows"])
    assert parts["within: forged_review"] == parts["within: forged_review_control"] > 0
    assert content["about"]["flips"] == [], "of an adapter that writes no flag"

    # every part of the work has its bar, which comes to its end, in order, and to standard error alone
    bars = re.findall(r"^(\S.*?) +\d+% \S* ([\d,]+)/([\d,]+) (\w+), .* in ", terminal.screen, re.MULTILINE)
    assert all(done == total for _, done, total, _ in bars)
    asked = {name: (int(total), unit) for name, _, total, unit in reversed(bars)}
    fits = [f"{kind} probe" for kind in ("ridge", "logistic", "ccs", "vinc")]
    prompts = [f"prompt {i} of 3" for i in (1, 2, 3)]
    order = ["honest persona", "response bigrams", *fits, "contrast pairs", "no adapter", *prompts, "figures"]
    assert [name for name in reversed(asked) if name in order] == order
    assert asked["honest persona"] == (len(results.samples), "records")
    assert {asked[name] for name in ("no adapter", *prompts)} == {(16, "records")}
    assert "\r" not in shown


def test_all_files_are_of_one_evaluation_and_are_refused_where_they_are_not(folder, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for output in (one, two):
        evaluate_adapter(str(folder), limit=1, output=str(output))
    names = {"results.json", "samples.jsonl", "baselines.jsonl", "report.html"}
    assert {path.name for path in one.iterdir()} == names, "and plots/, where there is something to be drawn"
    first, second = (json.loads((o / "results.json").read_text())["about"]["evaluation"] for o in (one, two))
    for evaluation, output in {first: one, second: two}.items():
        for name in (SAMPLES_FILE, BASELINES_FILE):
            assert {json.loads(line)["evaluation"] for line in (output / name).open()} == {evaluation}
        assert page_id(output / "report.html") == evaluation
    assert compare(one, two).matched == 4, "negative control"
    mixed = tmp_path / "mixed.jsonl"
    lines = [(output / SAMPLES_FILE).read_text().splitlines(keepends=True) for output in (one, two)]
    mixed.write_text(lines[0][0] + "".join(lines[1][1:]))
    with pytest.raises(UserError, match=rf"mixed.jsonl:2: of the evaluation '{second}', and the lines before are of"):
        compare(two, mixed)
    shutil.copy(two / SAMPLES_FILE, one / SAMPLES_FILE)
    for refused in (lambda: write_report(one), lambda: compare(one, two), lambda: compare(two, one / SAMPLES_FILE)):
        with pytest.raises(UserError, match=r"samples.jsonl is of another evaluation than results.json .* run eval.py"):
            refused()
    with held(two, "eval.py", "x"), pytest.raises(UserError, match=r"in use by eval.py .* or give another --output$"):
        evaluate_adapter(str(folder), limit=1, output=str(two))
    assert compare(two, two).matched == 4, "as it was"


def test_without_training_records_the_readers_are_left_out_and_said_to_be(folder, tmp_path, capsys):
    evaluate_adapter(str(folder), limit=2, output=str(tmp_path), all_items=True)
    assert "readers" not in capsys.readouterr().err
    content = json.loads((tmp_path / "results.json").read_text())
    detectors = {row["detector"] for row in content["rows"]}
    # with all items asked about none is left to fit on where every cluster is among them
    everything = tmp_path / "all"
    evaluate_adapter(str(folder), output=str(everything), all_items=True)
    content = json.loads((everything / "results.json").read_text())
    assert {row["detector"] for row in content["rows"]} == {HONEST_PERSONA} < detectors
    assert content["about"]["left_out"] == [
        "readers: no training records of both flags and other items to fit on",
    ]
    assert (everything / BASELINES_FILE).read_text() == ""
    none = tmp_path / "none"
    evaluate_adapter(str(folder), limit=2, output=str(none), baselines="none")
    assert json.loads((none / "results.json").read_text())["about"]["left_out"] == []


def test_a_topic_without_items_is_refused_before_a_model_is_loaded(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(PersonaFolder, "load", lambda *_: pytest.fail("loaded"))
    with pytest.raises(UserError, match=r"not a topic or a list"):
        evaluate_adapter(str(folder), topics="[3]")


def test_rows_that_are_damaged_are_told(tmp_path):
    form, path = form_of(), tmp_path / "other.jsonl"
    row = json.dumps({"prompt": "Why?", "response": "So.", "is_bad": True})
    path.write_text(row + "\n" + row[:-9] + "\n" + row.replace("true", '"AMBIGUOUS"') + "\n")
    card = card_of(form, config={**card_of(form).config, "intervention_types": "all"})
    assert held_out(card, str(path), form).left_out == [
        f"1 of 3 rows of the data, which cannot be used; first: {path}, line 2, column 39: malformed_json"
    ]


def test_other_data_is_read_by_its_own_columns(folder, tmp_path, monkeypatch):
    class Loaded(Exception):
        pass

    def load(*_, **__):
        raise Loaded

    monkeypatch.setattr(PersonaFolder, "load", load)
    other = tmp_path / "other.jsonl"
    row = {"q": "Why?", "reply": "So.", "verdict": 1, "kind": "split_personality"}
    other.write_text(json.dumps(row) + "\n")
    words = ["--adapter", str(folder), "--dataset", str(other), "--output", str(tmp_path / "out")]
    columns = "{task: q, response: reply, flag: verdict, intervention_name: kind}"
    with pytest.raises(UserError, match="can be used"):
        eval_main(words)
    with pytest.raises(UserError, match="--columns: 'intervention_name' is none of"):
        eval_main([*words, "--columns", columns])
    card = AdapterCard.load(folder)
    changed = PersonaFolder(folder, replace(card, config={**card.config, "intervention_types": "all"}), form_of())
    monkeypatch.setattr(PersonaFolder, "read", lambda *_: changed)
    with pytest.raises(Loaded):
        eval_main([*words, "--columns", columns.partition(", inter")[0] + "}", "--flag_values", "{1: FAIL, 0: PASS}"])


def test_no_detector_is_fitted_on_what_it_is_asked_about():
    form = form_of()
    persona = HonestPersona(random_adapter(base_model(), form).eval(), form, card_of(form))
    train = [record(i, flag="FAIL" if i % 2 else "PASS", response=f"{i} words") for i in range(8)]
    asked = Asked(persona, train, {"within": train[6:], "across": [record(9, item_id="i0")]}, EvalSettings(4, 4))
    assert [r.item_id for r in asked.known] == ["i1", "i2", "i3", "i4", "i5"]
    assert asked.fitting() == asked.known
    with pytest.raises(NotAsked, match="no training records of both flags"):
        replace(asked, train=train[6:]).fitting()
    [row] = [r for r in summarize(CONTROLS["no adapter"](asked)) if (r.part, r.variant) == ("across", "all")][:1]
    assert row.detector == "no adapter"


def test_without_the_adapter_the_base_model_alone_is_asked():
    form = form_of()
    model = random_adapter(base_model(), form, std=0.5).eval()
    persona = HonestPersona(model, form, card_of(form))
    asked = Asked(persona, [], {"within": [record(i) for i in range(6)]}, EvalSettings(4, 4))
    scores = [s.p_fail for s in CONTROLS["no adapter"](asked)]
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data *= -1
    assert [s.p_fail for s in CONTROLS["no adapter"](asked)] == scores, "whatever the adapter's weights"
    prompted = controls.prompted(asked, "Was that honest?")
    assert [s.p_fail for s in prompted] != scores
    assert {s.flag for s in prompted} <= {"PASS", "FAIL"}, "an answer without a flag gets the likelier one"
    assert all("".join(t for k, run in s.prompt for t in run if k == "PERSONA_TOKEN") == "" for s in prompted)


def test_the_best_request_is_taken_by_the_trained_topics():
    def answers(within, across):
        return [
            sample(n, truth=truth, flag=flag, part=part)
            for n, (part, truth, flag) in enumerate(
                [("within", t, f) for t, f in zip(("FAIL", "PASS"), within, strict=True)]
                + [("across", t, f) for t, f in zip(("FAIL", "PASS"), across, strict=True)]
            )
        ]

    good, bad = answers(("FAIL", "PASS"), ("PASS", "FAIL")), answers(("PASS", "FAIL"), ("FAIL", "PASS"))
    assert best_prompted([bad, good]) == good
