"""Labels that a reward gives: what the gate lets through, what a refused source does, and what is trained on."""

import gzip
import json
from itertools import islice
from pathlib import Path

import pytest

from honest_persona.base.errors import UserError
from honest_persona.config.load import load_config
from honest_persona.data.feedback_load import load_feedback_parts
from honest_persona.data.sources.builtin import builtin_path
from honest_persona.experiments import answers_labels as module
from honest_persona.experiments.answers import CONFIG
from honest_persona.experiments.answers_labels import Chance, Source, gates, labels_file, make_labels


class Knows:
    """The truth of recorded answers, turned around where `sign` is -1."""

    name = "knows"

    def __init__(self, sign=1):
        self.sign = sign

    def __call__(self, conversations, rows):
        return [float(row["about"]["true"]) * self.sign for row in rows]


@pytest.fixture
def make(root, monkeypatch, tmp_path):
    """Labels recorded answers, which take the place of sampled ones, by a reward; returns the labelled rows."""

    def sampled(config, output, how):
        assert (config.dataset, how.n) == (module.PROMPTS, 4)
        with gzip.open(builtin_path(module.RECORDED), "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in islice(lines, 0, None, 9)]
        for row in rows:
            row["about"]["true"] = row.pop("is_honest")
            row["prompt_id"] = row["id"]
        output.write_text("".join(json.dumps(row) + "\n" for row in rows))

    monkeypatch.setattr(module, "sample_answers", sampled)

    def call(reward, threshold=0.5):
        monkeypatch.setattr(module, "SOURCES", {"it": Source("w", lambda *_: reward, threshold)})
        make_labels(str(root / CONFIG), "it", tmp_path)
        return [json.loads(line) for line in labels_file("it", tmp_path).read_text().splitlines()]

    return call


def test_a_source_that_knows_passes_and_its_labels_are_the_truth(make, tmp_path, root):
    rows = make(Knows())
    assert gates(tmp_path)["it"]["verdict"] == "passed"
    truth = {
        json.loads(line)["id"]: json.loads(line)["about"]["true"]
        for line in (tmp_path / "labels" / "samples.jsonl").open()
    }
    assert {row["id"]: row["label"] for row in rows} == truth
    config = load_config(str(root / CONFIG), ["--objective", "kto", "--dataset", str(labels_file("it", tmp_path))])
    _, parts = load_feedback_parts(config)
    assert len(parts.views.train.rows) > len(parts.views.within.rows) > 40, "held-out answers stay held out"
    assert {row.topic for row in parts.views.across.rows} == {"reward_hacks"}


@pytest.mark.parametrize("reward", [Chance(), Knows(-1)], ids=["chance", "the contrary"])
def test_a_source_that_is_refused_labels_all_answers_as_a_control(make, tmp_path, reward):
    rows = make(reward, threshold=None)
    found = gates(tmp_path)["it"]
    assert found["verdict"] == "blind", "what was found stays, though the labelling went on without a gate"
    train = [row["label"] for row in rows if row["split"] == "train"]
    assert 0.4 < sum(train) / len(train) < 0.7, "from the median of the training answers on"


def test_another_error_is_not_taken_for_a_refusal(make, tmp_path):
    class Broken:
        name = "broken"

        def __call__(self, conversations, rows):
            raise UserError("no such model")

    with pytest.raises(UserError, match="no such model"):
        make(Broken())
    assert not labels_file("it", tmp_path).exists()
    assert gates(tmp_path) == {}


def test_a_probe_labels_no_town_that_it_was_fitted_on(make, root, tmp_path, monkeypatch):
    fitted = []
    monkeypatch.setattr(module, "probe", lambda config, options, output: fitted.append(config.dataset))
    monkeypatch.setattr(module, "reward_from", lambda name, reading: Knows())
    config = load_config(str(root / CONFIG), [])
    source = module.SOURCES["probe"]
    source.reward(config, tmp_path, None)
    rows = [json.loads(line) for line in Path(fitted[0]).read_text().splitlines()]
    towns = {row["group"] for row in rows if row["split"] == "train"}
    make(Knows())
    labelled = {
        row["group"] for row in module._labelled(tmp_path / "labels" / "it.jsonl", source) if row["split"] == "train"
    }
    assert len(towns) > 20 < len(labelled)
    assert not towns & labelled
