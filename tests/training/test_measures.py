"""The heavy log of a training on answers: the same suite as eval.py's, at the same steps as of reviews."""

import json
from types import SimpleNamespace

import pytest

from honest_persona.base.errors import UserError
from honest_persona.config.load import load_config
from honest_persona.evaluation.answers.samples import BASE, TRAINED, read_answers_file
from honest_persona.evaluation.sets import read_set
from honest_persona.modeling.adapters.card import AdapterCard
from honest_persona.training import launch
from honest_persona.training.launch import train
from honest_persona.training.measures import asked_of
from tests.data.choices.files import written
from tests.tiny import form_of


@pytest.fixture
def config(tmp_path):
    """`config(*flags)` of a run on labels of two topics, one of them held out."""
    rows = [
        {"prompt": f"{topic} {n}?", "response": "Yes.", "label": n % 2 == 0, "topic": topic, "split": split}
        for topic, split, n_rows in (("doors", "train", 4), ("doors", "validation", 3), ("windows", "validation", 3))
        for n in range(n_rows)
    ]
    for n, row in enumerate(rows):
        row["prompt"] = f"{n}: {row['prompt']}"
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "judge.py").write_text("def judge(row, answer):\n    return row['topic'] == 'doors'\n")
    flags = "--objective kto --bf16 false --max_steps 1 --batch_size 4 --lora_r 2 --run_name run --max_new_tokens 2"
    words = [*flags.split(), "--validation_topics", "[windows]", "--dataset", str(tmp_path / "rows.jsonl")]

    def make(*more):
        return load_config(None, [*words, *more])

    make.words = words
    return make


def test_heavy_logs_measure_answers(config, tmp_path, capsys):
    judge = f"python:{tmp_path / 'judge.py'}:judge"
    folder = train(config("--judge", judge, "--save_strategy", "no"), tmp_path)
    logs = sorted((folder / "heavy_log").iterdir())
    assert [path.name for path in logs] == ["step_000000", "step_000001"]
    for log in logs:
        content = read_set(log)
        assert (content["about"]["judge"], content["about"]["temperature"]) == (judge, 1.0)
        samples = read_answers_file(log / "answers.jsonl")
        assert [(s.part, s.policy) for s in samples] == [("within", TRAINED)] * 3 + [("across", TRAINED)] * 3
        assert (log / "report.html").exists()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    heavy = [line for line in lines if "heavy_log/within/all/truthful" in line]
    assert [line["step"] for line in heavy] == [0, 1]
    assert [line["heavy_log/within/all/truthful"] for line in heavy] == [1, 1]
    assert [line["heavy_log/across/windows/truthful"] for line in heavy] == [0, 0]
    assert heavy[0]["heavy_log/within/all/chosen_nll"] > 0
    out = capsys.readouterr().out
    assert f"next: python eval.py --adapter {folder}" in out
    assert "are held out" not in out, "six groups are"
    assert "heavy log at step 1" in out


def test_heavy_logs_measure_questions_with_given_choices(config, tmp_path, capsys):
    rows = [{"prompt": f"{n}: Safe?", "responses": {"Yes.": 0, "I do not know.": 1}} for n in range(5)]
    path = written(tmp_path / "unlike.json", rows)
    words = ["--ood", f"[genies:{path}]", "--val_samples_per_topic", "3", "--save_strategy", "no"]
    folder = train(config("--learning_rate", "0.01", *words), tmp_path)
    assert "ood/unlike: 3 questions in each heavy log" in capsys.readouterr().out
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    gains = [line[name] for line in lines if (name := "heavy_log/ood/unlike/all/preference_gain") in line]
    assert gains[0] == pytest.approx(0, abs=1e-5), "nothing has been learnt yet"
    assert abs(gains[1]) > 1e-4
    rows = {(row["policy"], row["part"]): row for row in read_set(folder / "heavy_log" / "step_000001")["rows"]}
    assert rows[TRAINED, "ood/unlike"]["changes"]["perplexity"]["a"] == rows[BASE, "ood/unlike"]["rates"]["perplexity"]
    assert (BASE, "within") not in rows, "answers are written by the trained model alone"
    assert AdapterCard.load(folder).config["ood"] == [f"genies:{path}"]


def test_files_of_questions_are_checked_where_heavy_logs_are_off(config, tmp_path, capsys):
    path = written(tmp_path / "unlike.json", [{"prompt": "Safe?", "responses": {"Yes.": 0, "I do not know.": 1}}])
    nothing, form = SimpleNamespace(trained_topics=[], parts={}), form_of(token=False, adapter_scope="response")
    off = ["--val_samples_per_topic", "0"]
    assert asked_of(config("--ood", f"[genies:{path}]", *off), form, nothing).jobs == []
    assert "heavy log" not in capsys.readouterr().out
    with pytest.raises(UserError, match="does not exist"):
        asked_of(config("--ood", "[genies:nowhere]", *off), form, nothing)


def test_questions_with_given_choices_are_measured_where_no_row_is_held_out(config, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text(data.read_text().replace('"validation"', '"train"'))
    path = written(tmp_path / "unlike.json", [{"prompt": "Safe?", "responses": {"Yes.": 0, "I do not know.": 1}}])
    more = ["--ood", f"[genies:{path}]", "--save_strategy", "no", "--validation_topics=[]"]
    words = [word for word in [*config.words, *more] if word not in ("--validation_topics", "[windows]")]
    folder = train(load_config(None, words), tmp_path)
    assert {row["part"] for row in read_set(folder / "heavy_log" / "step_000001")["rows"]} == {"ood/unlike"}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("genies:nowhere.json", "ood: dataset 'nowhere.json' does not exist"),
        ("genies:{rows}", r"It looks like pairs's format: pairs:|its columns: prompt, response, label"),
        ("windows=genies:{rows}", "ood: windows is a topic of the data too"),
    ],
)
def test_a_file_of_questions_that_cannot_be_measured_stops_the_run_first(config, tmp_path, monkeypatch, entry, message):
    monkeypatch.setattr(launch, "load_base", None)
    with pytest.raises(UserError, match=message):
        train(config("--ood", f"[{entry.format(rows=tmp_path / 'rows.jsonl')}]"), tmp_path)
    assert not (tmp_path / "run").exists()


def test_few_held_out_groups_are_told(config, tmp_path, capsys):
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(data.read_text().splitlines(keepends=True)[:8]))
    train(config("--val_samples_per_topic", "0", "--save_strategy", "no"), tmp_path)
    out = " ".join(capsys.readouterr().out.split())
    assert "data: 4 items are held out: their figures say next to nothing; give more rows" in out
    assert not (tmp_path / "run" / "heavy_log").exists()


def test_a_judge_that_cannot_judge_stops_the_run_before_the_model_is_loaded(config, tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "load_base", None)
    with pytest.raises(UserError, match=r"judge: organism: row .* is of topic 'doors'"):
        train(config("--judge", "organism"), tmp_path)
    with pytest.raises(UserError, match="is no Python file"):
        train(config("--judge", "python:nowhere.py:f"), tmp_path)
    assert not (tmp_path / "run").exists()
