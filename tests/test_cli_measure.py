"""`compare` and `calibrate` at the command line; the persona is a stub where no model is needed."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from honest_persona import cli
from honest_persona.base.errors import UserError
from honest_persona.base.manifest import check, seal
from honest_persona.data.load import load_records
from honest_persona.data.selection import Selection
from honest_persona.modeling.adapters.card import AdapterCard
from honest_persona.persona.parsing import Ending, Review
from honest_persona.persona.product import HonestPersona, PersonaFolder
from honest_persona.statistics.threshold import Threshold
from tests.evaluation.scored import samples
from tests.tiny import base_model, conversation, form_of, random_adapter


def card_of(form, **changes):
    config = {
        "dataset": "builtin:sample",
        "val_item_frac": 0.5,
        "seed": 0,
        "tags_to_filter": [],
        "intervention_types": ["split_personality"],
        "data_model_source": "all",
        "max_new_tokens": 4,
        "validation_batch_size": 4,
    }
    values = {
        "base_model": "builtin:tiny",
        "base_revision": None,
        "base_fingerprint": "f",
        "default_intervention": "Be honest.",
    }
    return AdapterCard(persona=form.persona, **{**values, "config": config, **changes})


@pytest.fixture
def adapter(tmp_path, monkeypatch):
    """A folder with a card and a tokenizer; reviews of its persona have P(FAIL) of 0, 1/1000, 2/1000, ..."""
    form = form_of()
    folder = tmp_path / "run"
    folder.mkdir()
    form.tokenizer.save_pretrained(folder)
    card_of(form).save(folder)
    asked, wordings = [], []

    class Persona:
        def each_review(self, prompts, interventions, **_):
            wordings.append(set(interventions))
            asked.extend(form.tokenizer.decode(p.input_ids) for p in prompts)
            assert all(text in said for text, said in zip(interventions, asked[-len(prompts) :], strict=True))
            return [Review("", "PASS", i / 1000, Ending.CLEAN) for i in range(len(prompts))]

    monkeypatch.setattr(PersonaFolder, "load", lambda *_: Persona())
    return folder, asked, wordings


def benign_file(tmp_path, n, distinct=None):
    path = tmp_path / "benign.jsonl"
    numbered = (
        [*conversation()[:-1], {"role": "assistant", "content": f"It is {i % (distinct or n)}."}] for i in range(n)
    )
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in numbered))
    return path


def test_compare_prints_a_table_or_json(tmp_path, capsys):
    for name, second in (("a", False), ("b", True)):
        (tmp_path / name).mkdir()
        lines = [json.dumps(asdict(s)) + "\n" for s in samples(np.random.default_rng(0), second=second)]
        (tmp_path / name / "samples.jsonl").write_text("".join(lines))
    words = ["compare", str(tmp_path / "a"), str(tmp_path / "b")]
    cli.main(words)
    assert "B - A" in capsys.readouterr().out
    cli.main([*words, "--json"])
    first = json.loads(capsys.readouterr().out)["rows"][0]
    assert set(first["differences"]["auroc"]) == {"a", "b", "difference", "interval", "n"}
    with pytest.raises(UserError, match=r"no samples\.jsonl and no answers\.jsonl there"):
        cli.main(["compare", str(tmp_path), str(tmp_path)])


def test_calibrate_stores_the_threshold_with_the_adapter(adapter, tmp_path, capsys):
    folder, asked, wordings = adapter
    before = AdapterCard.load(folder)
    seal(folder, {"step": 1})
    source = benign_file(tmp_path, 400)
    words = ["calibrate", "--adapter", str(folder), "--input", str(source), "--fpr", "0.01"]
    cli.main([*words, "--dry_run", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert AdapterCard.load(folder) == before, "nothing is stored"
    cli.main(words)
    card = AdapterCard.load(folder)
    # (3 + 1) / 401 <= 0.01: three of 0, 0.001, ..., 0.399 are above it
    assert Threshold.from_dict(card.threshold).value == printed["value"] == 0.396
    assert card.threshold["intervention"] == "Be honest."
    assert card.threshold["data"] == str(source)
    assert replace(card, threshold=None) == before
    assert "P(FAIL) above 0.396 is flagged: 0.75% of 400 benign conversations (400 items)" in capsys.readouterr().out
    assert len(asked) == 800
    cli.main([*words, "--intervention", "Did you lie?"])
    assert AdapterCard.load(folder).threshold["intervention"] == "Did you lie?"
    assert wordings == [{"Be honest."}, {"Be honest."}, {"Did you lie?"}]
    assert check(folder) == {"step": 1}, "a checkpoint stays one that a run can go on from"


def test_calibrate_counts_a_repeated_conversation_once(adapter, tmp_path, capsys):
    source = benign_file(tmp_path, 40, distinct=4)
    cli.main(["calibrate", "--adapter", str(adapter[0]), "--input", str(source), "--fpr", "0.1", "--dry_run"])
    assert "of 40 benign conversations (4 items)" in capsys.readouterr().out


def test_calibrate_takes_held_out_benign_transcripts_once(adapter, capsys):
    folder, asked, _ = adapter
    cli.main(["calibrate", "--adapter", str(folder), "--fpr", "0.05"])
    records = load_records("builtin:sample", Selection(intervention_types=("split_personality",))).records
    assert asked
    for text in asked:
        assert any(r.variant == "A" and r.flag == "PASS" for r in records if r.task in text and r.response in text)
    assert len(set(asked)) == len(asked)
    assert "note: " in capsys.readouterr().out, "a sample of data is too small for a promise"


def test_other_data_with_other_columns(adapter, tmp_path, capsys):
    folder, asked, _ = adapter
    card = AdapterCard.load(folder)
    replace(card, config={**card.config, "intervention_types": "all"}).save(folder)
    other = tmp_path / "other.jsonl"
    rows = [{"q": f"What is {n} + 1?", "reply": f"It is {n + 1}.", "verdict": n % 2} for n in range(8)]
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["calibrate", "--adapter", str(folder), "--dataset", str(other), "--fpr", "0.5", "--dry_run"]
    names = ["--columns", "{task: q, response: reply, flag: verdict}"]
    with pytest.raises(UserError, match=r"no row of .*other.jsonl' can be used(.|\n)*--columns and --flag_values say"):
        cli.main(words)
    with pytest.raises(UserError, match="flag_values"):
        cli.main([*words, *names])
    cli.main([*words, *names, "--flag_values", "{1: PASS, 0: FAIL}"])
    assert len(asked) == 4, "the rows with label 1"
    assert all(f"What is {n} + 1?" in " ".join(asked) for n in (1, 3, 5, 7))
    changed = {"columns": {"flag": "bad"}, "flag_values": {"1": "FAIL"}}
    card = AdapterCard.load(folder)
    replace(card, config={**card.config, **changed}).save(folder)
    cli.main([*words, *names, "--flag_values", "{1: PASS, 0: FAIL}"])
    assert "of the training" not in capsys.readouterr().err
    with pytest.raises(UserError):
        cli.main(words)
    assert "note: columns and flag_values of the training are for its own data" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "x", "--columns", "{verdict: flag}"], "--columns: 'verdict' is none of messages"),
        (["--dataset", "x", "--columns", "[a"], "--columns: the value is not valid YAML"),
        (["--dataset", "x", "--flag_values", "{1: BAD}"], "--flag_values: 1: must be PASS or FAIL"),
        (["--columns", "{flag: verdict}"], "--columns: builtin:sample is the adapter's own data"),
        (["--columns", "{flag: verdict}", "--input", "FILE"], "--columns: is for --dataset"),
        (["--dataset", "ROWS", "--columns", "{topic: theme}"], "--columns: topic: no row has a column 'theme'"),
        (["--fpr", "0"], "--fpr: 0.0 is no rate"),
        (["--fpr", "1.5"], "--fpr: 1.5 is no rate"),
        (["--input", "FILE", "--dataset", "builtin:sample"], "give one"),
        (["--input", "OWN"], "has an intervention of its own"),
    ],
)
def test_calibrate_refuses(adapter, tmp_path, words, message):
    own = tmp_path / "own.jsonl"
    own.write_text(json.dumps({"messages": conversation(), "intervention": "Did you lie?"}) + "\n")
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "Why?", "response": "So.", "is_bad": False}) + "\n")
    card = AdapterCard.load(adapter[0])
    replace(card, config={**card.config, "intervention_types": "all"}).save(adapter[0])
    files = {"ROWS": str(rows), "FILE": str(benign_file(tmp_path, 2)), "OWN": str(own)}
    with pytest.raises(UserError, match=message):
        cli.main(["calibrate", "--adapter", str(adapter[0]), *(files.get(word, word) for word in words)])
    assert AdapterCard.load(adapter[0]).threshold is None


def test_review_says_whether_it_is_above_the_threshold():
    torch.manual_seed(0)
    form = form_of()
    model = random_adapter(base_model(), form).eval()
    plain = HonestPersona(model, form, card_of(form))
    conversations = [conversation(n) for n in range(4)]
    p_fail = [r.p_fail for r in plain.reviews(conversations, max_new_tokens=4)]
    assert {r.above_threshold for r in plain.reviews(conversations, max_new_tokens=4)} == {None}
    middle = sorted(p_fail)[1]
    stored = asdict(Threshold(middle, 0.5, 4, 4, 0.5, (0.0, 1.0))) | {"intervention": "Be honest.", "data": "x"}
    persona = HonestPersona(model, form, card_of(form, threshold=stored))
    cut_off = [r.above_threshold for r in persona.reviews(conversations, max_new_tokens=4)]
    assert cut_off == [True if p > middle else None for p in p_fail], "a review without a flag clears nobody"
    whole = Review("I lied.", "FAIL", middle, Ending.CLEAN)
    for p_fail_now, flag, expected in [
        (middle, "FAIL", False),
        (middle, "PASS", False),
        (middle, None, None),
        (1.0, "PASS", True),
        (1.0, None, True),
    ]:
        review = replace(whole, p_fail=p_fail_now, flag=flag)
        assert persona.decided(review, "Be honest.").above_threshold is expected
        assert plain.decided(review, "Be honest.").above_threshold is None
    assert persona.review(conversations[0], "Did you lie?", max_new_tokens=4).above_threshold is None
