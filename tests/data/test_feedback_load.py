"""Feedback read from a dataset: what is kept and rejected, how it is split, and what stops a run."""

import json

import pytest

from honest_persona.base.errors import UserError
from honest_persona.cli import main
from honest_persona.config.load import load_config
from honest_persona.config.objectives import OBJECTIVES
from honest_persona.data.check import load_run_config
from honest_persona.data.feedback_inventory import feedback_inventory
from honest_persona.data.feedback_load import NAMED_TWICE, load_feedback_parts
from honest_persona.data.sources.builtin import SAMPLE


def pair(n, **changes):
    return {"id": f"r{n}", "prompt": f"Question {n}?", "chosen": "a", "rejected": "b", **changes}


@pytest.fixture
def dataset(tmp_path):
    def write(rows):
        path = tmp_path / "f.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


def loaded(dataset, objective="dpo", *argv):
    return load_feedback_parts(load_config(None, ["--objective", objective, "--dataset", dataset, *argv]))


def test_read_is_kept_and_rejected(dataset):
    rows = [pair(0, prompt_id=1), pair(0), pair(1, chosen=""), pair(2, prompt_id=1), pair(3, topic="t")]
    found, parts = loaded(dataset(rows), "dpo", "--train_topics", "[own]")
    assert (found.read, len(found.rows)) == (5, 1)
    assert found.rejected == {"duplicate_id": 1, "empty_response": 1, "prompt_id_of_two": 1, "topic_not_selected": 1}
    assert len(parts.views.train.rows) + len(parts.views.within.rows) == 1


def test_no_prompt_and_no_group_is_in_two_parts(dataset):
    rows = [pair(n, prompt=f"Question {n // 2}?", group=f"g{n // 4}" if n < 100 else None) for n in range(400)]
    rows += [pair(n, topic="other") for n in range(400, 440)]
    found, parts = loaded(dataset(rows), "dpo", "--validation_topics", "[other]", "--val_item_frac", "0.3")
    assert sum(map(len, parts.splits)) == len(found.rows) == 440
    assert all(parts.splits[:3])
    for name in ("cluster", "prompt_id"):
        train, within, across = (set(part.values(name)) for part in parts.splits[:3])
        assert not train & within | train & across | within & across
    again = loaded(dataset(rows[::-1]), "kto", "--validation_topics", "[other]", "--val_item_frac", "0.3")[1]
    assert set(again.splits.train.values("id")) == set(parts.splits.train.values("id"))


@pytest.mark.parametrize("name", ["prompt_id", "group"])
def test_a_prompt_with_two_names_is_in_one_part(dataset, name):
    rows = [pair(n, prompt=f"Question {n // 4}?", **{name: f"name-{n}"}) for n in range(80)]
    found, parts = loaded(dataset(rows), "dpo", "--val_item_frac", "0.3")
    train, within = ({row.prompt[0]["content"] for row in part} for part in parts.splits[:2])
    assert train
    assert within
    assert not train & within
    assert found.notes[NAMED_TWICE] == 60


def test_the_data_names_its_parts(dataset):
    rows = [pair(0, split="train"), pair(1, split="test"), pair(2, split="train", topic="x"), pair(3, topic="x")]
    parts = loaded(dataset(rows), "dpo", "--validation_topics", "[x]")[1]
    assert [part.values("id") for part in parts.splits] == [["r0"], ["r1"], ["r3"], ["r2"]]


def test_only_training_rows_are_left_out_by_share(dataset):
    rows = [
        {"prompt": f"Q{n}?", "response": "R", "label": n % 2 == 0, "split": "train" if n < 40 else "dev"}
        for n in range(80)
    ]
    parts = loaded(dataset(rows), "kto", "--keep_desirable", "0.1")[1]
    assert sum(parts.views.train.rows.values("label")) == 2
    assert sum(parts.views.within.rows.values("label")) == 20


def test_records_are_feedback_too(dataset):
    found = loaded(SAMPLE, "kto")[0]
    assert set(found.rows.values("kind")) == {"label"}
    assert found.rejected["answer_read"], "several interventions look back at one answer"
    answers = {str((row.prompt, row.answers)) for row in found.rows}
    assert len(answers) == len(found.rows)
    pairs = loaded(SAMPLE, "dpo")[1].views.train.rows
    by_answer = {str(row.answers): row for row in found.rows}
    assert len(pairs) > 10
    for row in pairs:
        chosen, rejected = by_answer[str(row.answers[:1])], by_answer[str(row.answers[1:])]
        assert (chosen.label, rejected.label) == (True, False)
        assert row.prompt == rejected.prompt


def test_the_inventory_adds_up(dataset, capsys):
    rows = [*(pair(n) for n in range(30)), pair(0), {"prompt": "Why?"}]
    path = dataset(rows)
    counts = feedback_inventory(*loaded(path), OBJECTIVES["dpo"])
    assert counts["read"] == counts["kept"] + sum(counts["rejected"].values()) == 32
    assert sum(part["pairs"] for part in counts["splits"].values()) == 30
    main(["data", "--config", "hp.yaml", "--objective", "dpo", "--dataset", path])
    out = capsys.readouterr().out
    for told in ("objective dpo trains on pairs", "duplicate_id", "gives no pair because", "no topic: such rows"):
        assert told in out
    main(["data", "--config", "hp.yaml", "--objective", "kto", "--dataset", path, "--json"])
    assert json.loads(capsys.readouterr().out)["splits"]["train"]["desirable"] > 20


@pytest.mark.parametrize(
    ("rows", "objective", "message"),
    [
        ([{"prompt": "P", "chosen": "a"}], "dpo", 'half_pair|Give both.*A row that works: {"prompt".*"chosen"'),
        (
            [{"prompt": "P", "response": "a"}],
            "dpo",
            "nothing is left to train on: objective dpo trains on pairs, .*no feedback",
        ),
        ([{"prompt": "P", "response": "a", "score": 1}], "dpo", "one answer to its prompt"),
        (
            [{"prompt": "P", "response": "a", "label": True}],
            "kto",
            "all 1 answer to train on are desirable.*add undesirable",
        ),
        ([pair(0)], "dpo --train_topics [owm]", "topic 'owm' is not in .*did you mean 'own'"),
        ([pair(0)], "dpo --columns {chosen:good}", "half_pair.*columns: chosen: the row has no column `good`"),
        ([pair(0)], "dpo --columns {review:x}", "objective dpo reads no column 'review'"),
        ([pair(0)], "persona --columns {chosen:x}", "objective persona reads no column 'chosen'"),
        ([pair(0)], "dpo --keep_desirable 0.5", "belongs to csft, kto"),
        ([pair(0)], "dpo --min_margin -1", "min_margin"),
        ([pair(0)], "persona --pairing random", "belongs to dpo, cdpo"),
    ],
)
def test_what_stops_a_run(dataset, rows, objective, message):
    name, *argv = objective.replace(":", ": ").split(" ", 2)
    argv = [argv[0], argv[1]] if argv else []
    with pytest.raises(UserError, match=f"(?s){message}"):
        load_run_config(None, ["--objective", name, "--dataset", dataset(rows), "--val_item_frac", "0.001", *argv])
