"""A config against its data: one sentence where all rows are alike wrong, and a file's topics never stop other data."""

import json

import pytest

from honest_persona.base.errors import UserError
from honest_persona.data.check import check_selection, fitted_arguments, load_run_config
from honest_persona.data.load import load_records, read_splits
from honest_persona.data.selection import Selection
from honest_persona.data.sources.own import EXAMPLE
from tests.data.test_load import item, values, write_batch


def rows_file(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def own_rows(n=4, **more):
    answers = [{"role": "assistant", "content": f"Answer {i}."} for i in range(n)]
    asked = [{"role": "user", "content": f"Question {i}?"} for i in range(n)]
    return [
        {"messages": [*pair], "is_bad": i % 2 == 0} | more for i, pair in enumerate(zip(asked, answers, strict=True))
    ]


@pytest.mark.parametrize("config", ["hp.yaml", "configs/qwen3-8b.yaml", "configs/reference.json"])
def test_a_dataset_of_ones_own_needs_no_other_argument(config, tmp_path, root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    mine = rows_file(tmp_path / "mine.jsonl", own_rows())
    run = load_run_config(config, ["--dataset", str(mine)])
    assert (run.train_topics, run.validation_topics, run.data_model_source) == ("all", (), "all")
    assert len(read_splits(run)[0].records) == 4
    assert f"topics of {config}: " in capsys.readouterr().err
    everything = load_run_config(config, ["--dataset", str(mine), "--intervention_types", "all"])
    assert len(read_splits(everything)[0].records) == 4


def test_topics_of_a_file_are_those_of_its_own_dataset(tmp_path, capsys):
    mine = rows_file(tmp_path / "mine.jsonl", own_rows(topic="lies") + own_rows(topic="sycophancy"))
    hp = tmp_path / "hp.yaml"
    hp.write_text(f"dataset: {mine}\nvalidation_topics: [sycophancy, gone]\n")
    other = ["--dataset", str(rows_file(tmp_path / "other.jsonl", own_rows(topic="sycophancy") + own_rows(topic="x")))]
    assert load_run_config(str(hp), other).validation_topics == ("sycophancy",)
    assert "gone: not in" in capsys.readouterr().err
    for argv in (
        [],
        ["--dataset", str(mine), "--validation_topics", "[gone]"],
        [*other, "--validation_topics", "gone"],
    ):
        assert fitted_arguments(str(hp), argv) == argv
        with pytest.raises(UserError, match="topic 'gone' is not in"):
            load_run_config(str(hp), argv)
    with pytest.raises(UserError, match="topic 'gone' is not in"):
        load_run_config(str(hp), ["--dataset", str(mine), "--train_topics", "gone", "--validation_topics", "[]"])
    assert fitted_arguments(str(hp), ["--seed", "1"]) == ["--seed", "1"]
    with pytest.raises(UserError, match="'flagg' is none of"):
        load_run_config(str(hp), [*other, "--columns", "{flagg: x}"])
    assert fitted_arguments(str(hp), ["--dataset", "no/such/path.jsonl"]) == ["--dataset", "no/such/path.jsonl"]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"text": "hello", "label": 1}, "no_conversation, first at {path}: line 1: Give `messages`"),
        (
            {"messages": [{"role": "user", "content": "?"}], "label": 1},
            "the last message must be the assistant's answer",
        ),
        ({"messages": own_rows()[0]["messages"]}, "no_flag"),
        ({"messages": own_rows()[0]["messages"], "label": "so-so"}, "unknown_flag"),
        (["a"], "wrong_type:row"),
    ],
)
def test_a_wholly_wrong_shape_is_told_in_one_sentence(row, told, tmp_path):
    path = rows_file(tmp_path / "mine.jsonl", [row] * 60)
    wrong = values(path, validation_topics=["sycophancy"], intervention_types=["gone"])
    ((key, message),) = check_selection(wrong)
    assert key == "dataset"
    assert message.startswith(f"no row of '{path}' can be used: 60 rejected for the same reason: ")
    assert told.format(path=path) in message
    assert message.endswith(EXAMPLE)
    assert "\n" not in message


def test_several_reasons_and_no_row(tmp_path):
    path = rows_file(tmp_path / "mine.jsonl", [{"text": "x"}, {"text": "y"}, ["a"]])
    ((_, message),) = check_selection(values(path))
    assert "3 rejected for 2 reasons: no_conversation 2, first at" in message
    path.write_text("\n")
    ((_, message),) = check_selection(values(path))
    assert message == f"'{path}' has no row. A row that works: {EXAMPLE}"
    write_batch(tmp_path / "stage3", "sycophancy", "batch_1.json", [item(1, R="")])
    ((_, message),) = check_selection(values(tmp_path / "stage3"))
    assert "empty_review" in message
    assert EXAMPLE not in message, "such files have another form"


def test_a_named_column_that_no_row_has(tmp_path):
    path = rows_file(tmp_path / "mine.jsonl", own_rows(why="I lied."))
    assert list(check_selection(values(path, columns={"review": "why"}, intervention_types="all"))) == []
    ((key, message),) = check_selection(values(path, columns={"review": "whyy"}, intervention_types="all"))
    assert (key, "review: no row of" in message, "did you mean 'why'" in message) == ("columns", True, True)
    rows_file(path, own_rows(why="I lied.") + own_rows(whyy="I lied.", topic="other"))
    assert list(check_selection(values(path, columns={"review": "whyy"}, intervention_types="all"))) == []


def test_default_types_take_what_data_without_them_has(tmp_path):
    path = rows_file(tmp_path / "mine.jsonl", own_rows(intervention="Now?", intervention_name="now"))
    defaults = Selection(intervention_types=("split_personality__version_3", "split_personality__version_4"))
    assert len(load_records(str(path), defaults).records) == 4
    with pytest.raises(UserError, match=r"no intervention in .* is of type 'then'"):
        load_records(str(path), Selection(intervention_types=("then",)))
    mixed = rows_file(tmp_path / "mixed.jsonl", own_rows(intervention_name="split_personality__version_3") + own_rows())
    assert len(load_records(str(mixed), defaults).records) == 4
