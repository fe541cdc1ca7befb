"""A run's feedback as rows to train on, with what is said of it, and shown token by token."""

import json

import pytest

from honest_persona.base.errors import UserError
from honest_persona.cli import main
from honest_persona.config.load import load_config
from honest_persona.modeling.token_format import token_format
from honest_persona.prompts.feedback import SCHEMAS, prompt_tokens
from honest_persona.prompts.feedback_prepare import prepare_feedback, token_rows


@pytest.fixture
def prepared(tmp_path):
    def prepare(objective, rows, *argv):
        path = tmp_path / "f.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = load_config(None, ["--objective", objective, "--dataset", str(path), *argv])
        return prepare_feedback(config, token_format(config))

    return prepare


def labelled(n, label, **more):
    return {"prompt": f"Question {n}?", "response": f"Answer {n}.", "label": label, **more}


def test_rows_parts_and_prompts(prepared):
    rows = [labelled(n, n % 2 == 0, split="train" if n < 8 else "dev", topic="t") for n in range(12)]
    rows += [labelled(n, True, topic="x") for n in range(12, 14)] + [{"prompt": "Alone?", "topic": "x"}]
    found = prepared("kto", rows, "--validation_topics", "[x]")
    assert found.rows.features.arrow_schema.equals(SCHEMAS["labels"], check_metadata=False)
    assert len(found.rows) == 8
    assert found.trained_topics == ["t"]
    kinds = {name: [row.kind for row in of] for name, of in found.parts.items()}
    assert kinds["within"] == ["label"] * 4
    assert sorted(kinds["across"]) == ["label", "label", "prompt"], "a prompt without a label is asked too"
    assert found.told[0].startswith("data: read 15 = kept 15 + rejected 0; train 8 labels of 8 groups; within 4 labels")
    few = prepared("kto", rows, "--validation_topics", "[x]", "--num_samples", "4", "--val_samples_per_topic", "1")
    assert set(few.rows["row_id"]) < set(found.rows["row_id"])
    assert [len(of) for of in few.parts.values()] == [1, 1]


def test_warnings_and_errors(prepared):
    one = prepared("kto", [labelled(n, n > 0, split="train") for n in range(40)])
    assert any("warning: 97.5% of the answers to train on are desirable" in line for line in one.told)
    with pytest.raises(UserError, match="all 2 answers to train on are desirable"):
        prepared("kto", [labelled(n, True, split="train") for n in range(2)])
    with pytest.raises(UserError, match="no row is left to train on with objective dpo"):
        prepared("dpo", [labelled(0, True, split="train")])
    tools = [{"type": "function", "function": {"name": "look"}}]
    with pytest.raises(UserError, match=r"left out are 1 row, which the chat template cannot show; first: .*tools"):
        prepared("sft", [labelled(0, True, split="train", tools=tools)])


def test_the_control_token_stands_in_front_of_the_answer(prepared):
    rows = prepared("csft", [labelled(n, n % 2 == 0, split="train") for n in range(4)]).rows
    config = load_config(None, ["--objective", "csft"])
    control = token_format(config).control
    first = {label: row["response_ids"][0] for row in rows for label in [row["label"]]}
    assert first == {True: control.desirable, False: control.undesirable}


@pytest.mark.parametrize("objective", ["dpo", "kto", "sft"])
def test_dummy_rows_fill_the_length(prepared, objective):
    found = prepared(objective, [], "--use_dummy_data", "true", "--seq_len", "64", "--num_samples", "3")
    answer = "chosen_ids" if objective == "dpo" else "response_ids"
    assert [len(row["prompt_ids"]) + len(row[answer]) for row in found.rows] == [64] * 3


def test_the_verb_tokens_shows_every_answer(tmp_path, capsys):
    path = tmp_path / "f.jsonl"
    path.write_text(json.dumps({"prompt": "Why?", "chosen": "So.", "rejected": "No.", "split": "train"}) + "\n")
    argv = ["tokens", "--config", "hp.yaml", "--objective", "dpo", "--dataset", str(path)]
    main([*argv, "--json"])
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["record_id"].rsplit(", ", 1)[1] for row in shown] == ["chosen", "rejected"]
    config = load_config("hp.yaml", argv[3:])
    form = token_format(config)
    prompt = prompt_tokens([{"role": "user", "content": "Why?"}], form).ids
    for row in shown:
        n = len(prompt)
        assert row["input_ids"][:n] == prompt
        assert row["labels"] == [-100] * n + row["input_ids"][n:]
        assert row["activation"] == n - len(form.answer_prefix)
    main(argv)
    assert "line 1, rejected" in capsys.readouterr().out


def test_rows_that_are_shown_have_the_control_token(tmp_path):
    path = tmp_path / "f.jsonl"
    rows = [{"prompt": "Why?", "response": text, "label": text == "So.", "split": "train"} for text in ("So.", "No.")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = load_config("hp.yaml", ["--objective", "csft", "--dataset", str(path)])
    form = token_format(config)
    shown = {row["record_id"].rsplit(", ", 1)[1]: row for row in token_rows(config, form)}
    n = len(prompt_tokens([{"role": "user", "content": "Why?"}], form).ids)
    for name, control in form.control._asdict().items():
        assert shown[name]["input_ids"][n] == control
        assert shown[name]["labels"] == [-100] * (n + 1) + shown[name]["input_ids"][n + 1 :]
        assert len(shown[name]["kinds"]) == len(shown[name]["labels"])
