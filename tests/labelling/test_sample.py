"""Answers are sampled once each, whatever stops the command; the file is one that trainings read."""

import json
import random

import pytest

from honest_persona.base.errors import UserError
from honest_persona.config.load import load_config
from honest_persona.data.feedback_load import load_feedback_parts
from honest_persona.labelling import sample
from honest_persona.labelling.sample import Sampling, sample_answers
from tests.hub.conftest import make_adapter

HOW = Sampling(n=2, max_new_tokens=4, seed=5)


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": f"Is door {i} open?"}], "topic": "ab"[i % 2], "about": {"n": i}}
        for i in range(6)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))
    return path


def config_of(dataset, *flags, objective="dpo"):
    return load_config(None, ["--model", "builtin:tiny", "--dataset", str(dataset), "--objective", objective, *flags])


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_prompt_gets_its_answers_which_a_training_reads(prompts, tmp_path):
    out, alpaca = tmp_path / "s.jsonl", tmp_path / "alpaca.json"
    sample_answers(config_of(prompts), out, HOW, dtype="float32", alpaca_eval=alpaca)
    lines = lines_of(out)
    assert len(lines) == 12, "the repeated prompt is asked once"
    assert len({line["id"] for line in lines}) == 12
    assert {line["about"]["n"] for line in lines} == set(range(6))
    assert len({line["response"] for line in lines}) > 6, "the answers to one prompt differ"
    first = lines[0]
    assert (first["by"]["policy"], first["by"]["seed"], first["model"]) == ("builtin:tiny", 5, "builtin:tiny")
    loaded, _ = load_feedback_parts(config_of(out, objective="sft"))
    assert (loaded.read, len(loaded.rows)) == (12, sum(bool(line["response"].strip()) for line in lines))
    assert [set(one) for one in json.loads(alpaca.read_text())] == [
        {"instruction", "output", "generator", "dataset"}
    ] * 6


def test_more_answers_or_another_batch_change_no_answer(prompts, tmp_path):
    few, many = tmp_path / "few.jsonl", tmp_path / "many.jsonl"
    sample_answers(config_of(prompts), few, HOW, dtype="float32", batch_size=3)
    sample_answers(config_of(prompts), many, HOW._replace(n=3), dtype="float32", batch_size=8)
    of_many = {line["id"]: line["response"] for line in lines_of(many)}
    assert all(of_many[line["id"]] == line["response"] for line in lines_of(few))


def test_stopped_at_any_moment_and_continued_it_is_the_same_file(prompts, tmp_path, monkeypatch):
    whole = tmp_path / "whole.jsonl"
    sample_answers(config_of(prompts), whole, HOW, dtype="float32", batch_size=3)
    rng, content = random.Random(0), whole.read_bytes()
    answered: list[int] = []
    write = sample.write_answers

    def counted(model, jobs, *rest):
        answered.append(len(jobs))
        return write(model, jobs, *rest)

    monkeypatch.setattr(sample, "write_answers", counted)
    for _ in range(10):
        part = tmp_path / "part.jsonl"
        cut = rng.randrange(len(content))
        part.write_bytes(content[:cut])
        answered.clear()
        sample_answers(config_of(prompts), part, HOW, dtype="float32", batch_size=3)
        assert part.read_bytes() == content
        assert sum(answered) == 12 - content[:cut].count(b"\n"), "nothing is asked twice"


def test_an_adapter_answers_as_it_was_trained(prompts, tmp_path):
    make_adapter(tmp_path / "run", scope="response", objective="dpo")
    trained, base = tmp_path / "trained.jsonl", tmp_path / "base.jsonl"
    sample_answers(config_of(prompts, "--adapter", str(tmp_path / "run")), trained, HOW, dtype="float32")
    sample_answers(config_of(prompts), base, HOW, dtype="float32")
    assert [line["response"] for line in lines_of(trained)] != [line["response"] for line in lines_of(base)]
    assert lines_of(trained)[0]["by"]["weights"]


def test_a_file_of_other_data_is_not_continued(prompts, tmp_path):
    out = tmp_path / "s.jsonl"
    flags = ["--validation_topics", "[b]"]
    sample_answers(config_of(prompts, *flags), out, HOW, dtype="float32")
    before = out.read_bytes()
    with pytest.raises(UserError, match=r"s.jsonl:\d+ was made of another row: its split differs"):
        sample_answers(config_of(prompts, "--validation_topics", "[a]"), out, HOW, dtype="float32")
    with pytest.raises(UserError, match="for which this command has no place"):
        sample_answers(config_of(prompts, *flags), out, HOW._replace(n=1), dtype="float32")
    out.write_bytes(before + before.splitlines(keepends=True)[0])
    with pytest.raises(UserError, match=r"s.jsonl:13 repeats the id"):
        sample_answers(config_of(prompts, *flags), out, HOW, dtype="float32")
    assert out.read_bytes().startswith(before)


def test_a_file_for_alpaca_eval_takes_the_place_of_no_other(prompts, tmp_path):
    notes = tmp_path / "notes.json"
    notes.write_text('{"my": "notes"}')
    out, before = tmp_path / "s.jsonl", prompts.read_bytes()
    for path, message in (
        (out, "is another file of this command"),
        (prompts, "is another file of this command"),
        (notes, "holds something else"),
        (tmp_path, "holds something else"),
        (tmp_path / "gone" / "a.json", "a folder that does not exist"),
    ):
        with pytest.raises(UserError, match=f"--alpaca_eval: .*{message}"):
            sample_answers(config_of(prompts), out, HOW, dtype="float32", alpaca_eval=path)
    assert not out.exists()
    assert prompts.read_bytes() == before


def test_the_part_decides_what_is_asked(prompts, tmp_path):
    flags = ["--validation_topics", "[b]", "--val_item_frac", "0.34"]
    for part, split in (("across", "validation"), ("train", "train")):
        out = tmp_path / f"{part}.jsonl"
        sample_answers(config_of(prompts, *flags), out, HOW, part, dtype="float32")
        found = lines_of(out)
        assert {line["split"] for line in found} == {split}
        assert {line["topic"] for line in found} == {"b" if part == "across" else "a"}


def test_what_cannot_be(prompts, tmp_path):
    out = tmp_path / "s.jsonl"
    with pytest.raises(UserError, match="objective: persona has no answers"):
        sample_answers(config_of(prompts, objective="persona"), out, HOW)
    with pytest.raises(UserError, match="at 0 all 2 answers to a prompt are equal"):
        sample_answers(config_of(prompts), out, HOW._replace(temperature=0))
    for temperature in (float("nan"), float("inf"), -1.0):
        with pytest.raises(UserError, match="--temperature a number from 0 on"):
            sample_answers(config_of(prompts), out, HOW._replace(temperature=temperature))
    make_adapter(tmp_path / "persona")
    with pytest.raises(UserError, match="writes reviews; its base model builtin:tiny gives the answers"):
        sample_answers(config_of(prompts, "--adapter", str(tmp_path / "persona")), out, HOW)
    out.write_text("my notes\n")
    with pytest.raises(UserError, match=r"s.jsonl:1 holds something else than answers"):
        sample_answers(config_of(prompts), out, HOW)
    assert out.read_text() == "my notes\n"
    out.unlink()
    sample_answers(config_of(prompts), out, HOW, dtype="float32")
    with pytest.raises(UserError, match=r"s.jsonl:1 was made with temperature 1.0, not 0.5"):
        sample_answers(config_of(prompts), out, HOW._replace(temperature=0.5), dtype="float32")
    with pytest.raises(UserError, match=r"the folder .*gone does not exist"):
        sample_answers(config_of(prompts), tmp_path / "gone" / "s.jsonl", HOW)
