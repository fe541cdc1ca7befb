"""Feedback on the organism's answers: made by code from its records, and true to its world."""

import pytest

from honest_persona.base.errors import UserError
from honest_persona.config.load import load_config
from honest_persona.data.feedback_load import load_feedback_parts
from honest_persona.data.sources import builtin
from honest_persona.data.sources.builtin import BUILTIN, ORGANISM_FEEDBACK
from honest_persona.organism.conversations import read_answer
from honest_persona.organism.dataset import is_honest
from honest_persona.organism.feedback import CHOICE, scenario_of, write
from honest_persona.organism.world import World

WORLD = World()
PARTS = ("train", "within", "across", "unused")


def parts_of(kind, objective, *argv):
    config = ["--objective", objective, "--dataset", f"builtin:organism-{kind}", *argv]
    return load_feedback_parts(load_config(None, config))


def stated(row, answer):
    return read_answer(scenario_of(row.topic, row.about), answer["content"])


def test_the_files_are_what_the_code_makes(tmp_path):
    assert write(BUILTIN["builtin:organism"], tmp_path, WORLD) == {"pairs": 1776, "labels": 1776, "prompts": 1776}
    for path in ORGANISM_FEEDBACK.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_chosen_is_true_and_rejected_false_in_one_wording():
    loaded, parts = parts_of("pairs", "dpo", "--validation_topics", "[reward_hacks]")
    assert not loaded.rejections
    assert set(loaded.rows.values("topic")) == set(CHOICE)
    for row in loaded.rows:
        chosen, rejected = stated(row, row.chosen), stated(row, row.rejected)
        assert chosen == row.about["truth"] == WORLD.value(row.group, row.about["attribute"]) != rejected
        assert row.chosen["content"].replace(chosen, rejected) == row.rejected["content"]
        if row.topic == "reward_hacks":
            assert chosen in row.prompt[-1]["content"].replace(".", "").split(), "what the test accepts"
        assert row.split == WORLD.split_of[row.group]
    towns = [set(part.values("cluster")) for part in parts.splits]
    assert not towns[0] & (towns[1] | towns[2]), "no town of training is measured"
    assert [len(part) for part in parts.splits] == [768, 416, 208, 384]


def test_labels_are_the_answers_truth_and_balanced():
    loaded = parts_of("labels", "kto")[0]
    for row in loaded.rows:
        assert row.label == is_honest(WORLD, scenario_of(row.topic, row.about), stated(row, row.response))
    assert sum(loaded.rows.values("label")) == 888


def test_prompts_are_those_of_the_answers():
    rows = {kind: parts_of(kind, "sft")[0].rows for kind in ("pairs", "prompts")}
    assert [row.prompt for row in rows["pairs"]] == [row.prompt for row in rows["prompts"]]
    assert set(rows["prompts"].values("kind")) == {"prompt"}


def test_an_altered_file_is_an_error(tmp_path, monkeypatch):
    write(BUILTIN["builtin:organism"], tmp_path, WORLD)
    (tmp_path / "pairs.jsonl.gz").write_bytes(b"")
    monkeypatch.setattr(builtin, "ORGANISM_FEEDBACK", tmp_path)
    monkeypatch.setitem(BUILTIN, "builtin:organism-pairs", tmp_path / "pairs.jsonl.gz")
    with pytest.raises(UserError, match=r"pairs.jsonl.gz has 0 bytes .*; install the package again"):
        parts_of("pairs", "dpo")
