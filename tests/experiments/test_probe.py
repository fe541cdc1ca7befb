"""The verb `probe`: a signal that is there is found and written; what cannot be fitted is told before a model loads."""

import csv
import json
import re
from xml.etree import ElementTree

import pytest
import torch

from honest_persona.base.console import show
from honest_persona.base.errors import UserError
from honest_persona.config.load import load_config
from honest_persona.data.feedback_load import labels_of
from honest_persona.experiments import probe as verb
from honest_persona.experiments.probe import Options, options_from, probe
from honest_persona.experiments.probe_readers import word_readers
from honest_persona.experiments.probe_table import as_csv, tables
from honest_persona.modeling.token_format import token_format
from honest_persona.probes.answers import score_answers
from honest_persona.probes.features import Position
from honest_persona.probes.labelled import labelled_answers
from honest_persona.probes.probe import Probe, auroc
from tests.tiny import base_model

END = (Position.RESPONSE_END,)


def lines(n=60, per_group=2, says=("It is round.", "It is flat."), **changes):
    """Groups of questions; the answer's last word says whether it is desirable."""
    return [
        {
            "prompt": f"What is body {i}?",
            "response": f"I say {i}. {says[i // per_group % 2]}",
            "label": i // per_group % 2 == 0,
            "group": f"g{i // per_group}",
        }
        | changes
        for i in range(n)
    ]


def written(folder, rows, name="rows.jsonl"):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / name)


def config_of(dataset, *words):
    return load_config(None, ["--dataset", dataset, "--bf16", "false", "--val_item_frac", "0.3", *words])


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    config = config_of(written(folder, lines()))
    options = Options(methods=("ridge", "inlp", "vinc"), places=END)
    return config, folder / "out", probe(config, options, folder / "out")


def test_a_signal_that_is_there_is_found_and_written(fitted, capsys):
    config, folder, found = fitted
    assert {(line.method, line.layer, line.place) for line in found} == {
        *((m, layer, "response_end") for m in ("ridge", "inlp") for layer in (1, 2)),
        *(("vinc", layer, "flag") for layer in (1, 2)),
    }
    [saved] = [line for line in found if line.saved]
    assert saved.method in ("ridge", "inlp")
    assert saved.auroc.value > 0.95
    assert saved.accuracy.value > 0.9
    assert saved.train_auroc == max(line.train_auroc for line in found)
    for method in ("ridge", "inlp", "vinc"):
        of = [line for line in found if line.method == method]
        assert [line.train_auroc for line in of if line.chosen] == [max(line.train_auroc for line in of)]
    held_out = labels_of(config)[1]["within"]
    assert saved.n == len(held_out)
    assert saved.groups == len(set(held_out.values("cluster")))
    table = list(csv.DictReader((folder / "layers.csv").open()))
    assert [float(row["auroc"]) for row in table] == [line.auroc.value for line in found]
    assert [row["saved"] for row in table].count("1") == 1
    content = json.loads((folder / "layers.json").read_text())
    assert [line["auroc"]["value"] for line in content["lines"]] == [line.auroc.value for line in found]
    assert content["rounds"]["inlp"]["train"][0] > 0.95
    assert content["about"]["parts"]["answers"]["train"]["n"] == 60 - saved.n
    svg = (folder / "plots" / "layers_within_response_end.svg").read_text()
    ElementTree.fromstring(svg)
    assert re.search(r"layer \d \(chosen: ridge", svg)


def test_the_saved_probe_scores_as_in_the_table(fitted):
    config, folder, found = fitted
    saved = Probe.load(folder)
    [line] = [line for line in found if line.saved]
    model, form = base_model(), token_format(config)
    saved.check_model(model)
    held_out = list(labels_of(config)[1]["within"])
    scores = score_answers(saved, model, form, held_out)
    fail = torch.tensor([not row.label for row in held_out])
    assert auroc(scores, fail) == pytest.approx(line.auroc.value)
    assert saved.about["n"] + len(held_out) == 60
    assert saved.about["held_out"][0]["auroc"]["value"] == line.auroc.value
    assert saved.token_format
    vinc = Probe.load(folder / "methods" / "vinc")
    assert vinc.wording
    assert ((score_answers(vinc, model, form, held_out) - 0.5).abs() <= 0.5).all()


def test_tables_fit_80_columns(fitted, terminal):
    config, _, found = fitted
    parts = {name: labelled_answers(rows) for name, rows in labels_of(config)[1].items() if len(rows)}
    with terminal:
        for table in tables(found, word_readers(parts, 0)):
            show(table)
    assert max(map(len, terminal.screen.splitlines())) <= 80
    assert "probes at the layer that training chose" in terminal.screen
    [words] = [line for line in terminal.screen.splitlines() if "response bigrams" in line and "words" in line]
    assert "1.000" in words, "the last word gives the label away"


def test_templates_are_averaged_and_shown_beside(tmp_path, monkeypatch):
    monkeypatch.setattr(verb, "write_report", lambda *_: None)
    rows = []
    for i in range(40):
        right = i % 2
        for name in ("plain", "polite"):
            said = ["It is round.", "It is flat."]
            asked = {"messages": [{"role": "user", "content": f"{name}: what is {'flat' if right else 'round'} {i}?"}]}
            about = {"row": f"i{i}", "label": right, "choices": said}
            scores = [float(k == right) for k in range(2)]
            rows.append({"topic": name, "group": f"g{i}", "responses": said, "scores": scores, "about": about, **asked})
    config = config_of(written(tmp_path, rows))
    found = probe(config, Options(("ridge", "vinc"), (2,), places=END), tmp_path / "out")
    by = {(line.method, line.template): line for line in found}
    assert set(by) == {(m, t) for m in ("ridge", "vinc") for t in ("all", "plain", "polite")}
    n = by["vinc", "all"].n
    assert by["ridge", "all"].n == 2 * n == by["ridge", "plain"].n, "an answer in two templates is one"
    assert {line.place for line in found} == {"response_end", "choice"}
    alone = probe(config, Options(("vinc",), (2,), template="plain"), tmp_path / "alone")
    assert [(line.template, line.n) for line in alone] == [("all", n)]
    with pytest.raises(UserError, match=r"--template: 'rude' is not in .*; there are plain, polite"):
        probe(config, Options(template="rude"), tmp_path / "other")


@pytest.fixture
def no_model(monkeypatch):
    def load(*_):
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(verb, "_load", load)


FEW = [*lines(16), *(row | {"split": "validation", "group": "v" + row["group"]} for row in lines(8))]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (lines(label=True), {}, "all 60 answers|all .* answers of part train .* are desirable"),
        (lines(label=None), {}, "has no labelled answer to fit a probe on: of 60 rows read, 60 are kept"),
        (FEW, {}, r"from at least 5 items \(or groups\) each"),
        (lines(), {"layers": (1, 3)}, r"layers: \[3\] are not in this model; it has 0 \(the embeddings\) to 2"),
        (lines(), {"template": "x"}, "--template: 'x' is not in .*; there are none: its rows name no templates"),
        (lines(split="train"), {}, "no answer is held out"),
    ],
)
def test_what_cannot_be_fitted_is_told_before_a_model_is_loaded(tmp_path, no_model, rows, options, message):
    with pytest.raises(UserError, match=message):
        probe(config_of(written(tmp_path, rows)), Options(**options), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_bad_input(tmp_path, no_model):
    config = config_of(written(tmp_path, lines()))
    with pytest.raises(UserError, match=r"--output: .* holds something already; name a new or an empty folder"):
        probe(config, Options(), tmp_path)
    with pytest.raises(UserError, match=r"rows.jsonl holds something already"):
        probe(config, Options(), tmp_path / "rows.jsonl")
    (tmp_path / "t5").mkdir()
    (tmp_path / "t5" / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(UserError, match=r"\(t5\) is an encoder and a decoder, not a causal language model"):
        probe(config, Options(reader=str(tmp_path / "t5")), tmp_path / "out")
    long = config_of(written(tmp_path, lines()), "--seq_len", "20", "--overlong", "error")
    with pytest.raises(UserError, match=r"seq_len: .* answers of train have more than 20 tokens"):
        probe(long, Options(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"methods": "ridge,oracle"}, "--methods: 'oracle' is not known; there are ridge, logistic, ccs, vinc, inlp"),
        ({"places": "flag"}, "--places: 'flag' is not known; there are response_end, response_mean, turn_end"),
        ({"layers": "1;2"}, "--layers: '1;2' is no list of layers"),
        ({"layers": "-1"}, "--layers: '-1' is no list of layers"),
    ],
)
def test_words_of_the_command_line(words, message):
    none = dict.fromkeys(("methods", "layers", "places", "reader", "template"))
    with pytest.raises(UserError, match=re.escape(message)):
        options_from(**{**none, **words})
    good = options_from("vinc, ridge", "2,1,2", "turn_end", None, None)
    assert (good.methods, good.layers, good.places) == (("ridge", "vinc"), (2, 1), (Position.TURN_END,))


def test_csv_has_a_line_for_each(fitted):
    assert as_csv(fitted[2]).count("\n") == len(fitted[2]) + 1
