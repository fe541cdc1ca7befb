"""Grids: all combinations with all seeds, their figures by hand, a stopped grid goes on, and what is refused first."""

import json

import pytest

from honest_persona.base.errors import UserError
from honest_persona.config.load import load_config
from honest_persona.evaluation.compare import compare
from honest_persona.evaluation.report.page import write_report
from honest_persona.evaluation.sets import read_set
from honest_persona.experiments import folds
from honest_persona.experiments.grid import grid, name_of, read_grid
from honest_persona.experiments.grid_table import print_grid
from honest_persona.experiments.sweep import sweep
from tests.experiments.test_sweep import TINY, flags_of
from tests.feedback import write_feedback


@pytest.fixture
def called(monkeypatch):
    """What is trained and evaluated, in order; in this process, which is quicker."""
    calls = []

    def here(environment, function, *args, **kwargs):
        calls.append((function.__name__, args[0].run_name if function is folds.train else args[0].rpartition("/")[2]))
        function(*args, **kwargs)

    monkeypatch.setattr(folds, "in_own_process", here)
    return calls


@pytest.fixture
def answers(tmp_path):
    """Flags of a training on pairs."""
    write_feedback(tmp_path / "pairs.jsonl", "pairs")
    flags = "--objective dpo --bf16 false --max_steps 1 --lora_r 2 --max_new_tokens 2 --batch_size 4 --deepspeed null"
    more = ["--validation_topics", "[]", "--val_item_frac", "0.3", "--dataset", str(tmp_path / "pairs.jsonl")]
    return [*flags.split(), "--per_device_train_batch_size", "4", "--report_to", "none", *more]


def read(folder):
    return json.loads((folder / "grid.json").read_text())


def whole(folder):
    """The trained model's row of all topics of a run with one part."""
    rows = read_set(folder / "eval")["rows"]
    return next(row for row in rows if (row["policy"], row["topic"]) == ("trained", "all"))


def test_how_a_grid_is_read():
    wanted = {"learning_rate": ["1e-4", "3e-4"], "beta": ["0.1", "0.3"]}
    assert read_grid(["lr=1e-4,3e-4", "beta=0.1,0.3"]) == wanted
    assert read_grid(["lr=1e-4,3e-4,beta=0.1,0.3"]) == wanted
    assert read_grid(["also={sft: 0.1, kto: 0.2},{}", "target-modules=[q_proj, v_proj],all-linear"]) == {
        "also": ["{sft: 0.1, kto: 0.2}", "{}"],
        "target_modules": ["[q_proj, v_proj]", "all-linear"],
    }
    assert name_of({"also": "{sft: 0.1}", "beta": "0.1"}, 42) == "also--sft-0.1-_beta-0.1_seed-42"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lr"], "'lr': no key; write KEY=VALUE,VALUE"),
        (["lr="], "'lr=': a value is empty"),
        (["lr=1e-4,"], "'lr=1e-4,': a value is empty"),
        (["lr=1e-4", "learning_rate=1e-3"], "learning_rate is there twice"),
        (["lr=1e-4,1e-4"], "learning_rate: the value 1e-4 is there twice"),
        (["seed=1,2"], "seed is no key of a grid: --seeds N takes N seeds"),
        (["run_name=a,b"], "run_name is no key of a grid"),
    ],
)
def test_what_is_no_grid(words, message):
    with pytest.raises(UserError, match=f"--grid: {message}"):
        read_grid(words)


def test_what_is_refused_before_the_first_training(tmp_path, called, answers):
    states = ["--objective=repr_mse", *answers[2:]]
    for words, flags, message in [
        (["beta=0.1,-1"], [], "--grid: the cell beta -1: --beta: "),
        (["beta=0.1", "colour=red"], [], "--grid: the cell beta 0.1, colour red: --colour: unknown key"),
        (["label_smoothing=0.1"], [], "the cell label_smoothing 0.1: .*does not read this key"),
        (["beta=0.1,0.3"], ["--beta", "0.2"], "--grid: beta is a flag too; give its values in one of the two places"),
        (["lr=1e-4"], ["--learning_rate", "1e-3"], "--grid: learning_rate is a flag too"),
        (["lr=1-4,1+4"], [], "the cell learning_rate 1-4: "),
        (["lr=1e-4,0.0001"], [], "the cells learning_rate 1e-4 and learning_rate 0.0001 are one and the same"),
        (["ood=[],genies:nowhere"], [], "the cell ood genies:nowhere: ood: dataset 'nowhere' does not exist"),
        (["judge=none,python:nowhere.py:f"], [], "the cell judge python:nowhere.py:f: .*nowhere.py"),
        (["model=builtin:tiny,builtin:nowhere"], [], "the cell model builtin:nowhere: .*builtin:nowhere"),
    ]:
        with pytest.raises(UserError, match=message):
            grid(None, [*answers, *flags], words, output=tmp_path / "grid")
    with pytest.raises(UserError, match="the cell repr_layers 99: repr_layers: 99 names layer 99"):
        grid(None, states, ["repr_layers=1,99"], output=tmp_path / "grid")
    assert not called
    assert not (tmp_path / "grid").exists()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("sweep.json", "{}", "holds a sweep by topic; choose another --output"),
        ("grid.json", "{", r"grid\.json is no JSON: "),
        ("grid.json", "{}", r"grid\.json was not written by a grid"),
        ("grid.json", "[]", r"grid\.json was not written by a grid"),
    ],
)
def test_a_folder_that_holds_something_else(tmp_path, called, answers, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        grid(None, answers, ["lr=1e-4"], output=tmp_path)
    assert not called
    assert (tmp_path / name).read_text() == text


def test_other_commands_in_a_grids_folder(tmp_path):
    (tmp_path / "grid.md").write_text("# Grid")
    with pytest.raises(UserError, match=r"holds a grid, whose figures are in .*grid\.md; a page is of a cell"):
        write_report(tmp_path)
    with pytest.raises(UserError, match="holds a grid; choose another --output"):
        sweep(load_config(TINY, flags_of()), "leave_one_topic_out", output=tmp_path)


def test_rows_are_told_apart_in_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    of = {"mean": 0.4, "lowest": 0.4, "highest": 0.5, "interval": [0.3, 0.5], "n": 32}
    values = [f"learning_rate {lr}, beta {beta}" for lr in ("1e-4", "3e-4") for beta in ("0.1", "0.3")]
    shared = {"seeds": [42], "figures": {"within": {"truthful": of}}, "changes": {}, "ended": []}
    print_grid({"cells": [{"values": text, **shared} for text in values]})
    table = capsys.readouterr().out.partition("grid: within")[2].partition("no room")[0]
    assert "…" not in table
    assert [table.count(f"learning_rate {lr}") for lr in ("1e-4", "3e-4")] == [2, 2]
    assert [table.count(f"beta {beta}") for beta in ("0.1", "0.3")] == [2, 2]
    assert max(map(len, table.splitlines())) <= 80


def test_a_grid_on_answers(tmp_path, called, answers, capsys):
    words, output = ["lr=1e-4,3e-1"], tmp_path / "grid"
    cells = [f"learning_rate-{lr}_seed-{seed}" for lr in ("1e-4", "3e-1") for seed in (42, 43)]
    assert grid(None, answers, words, seeds=2, output=output) == output
    assert called == [(what, cell) for cell in cells for what in ("train", "evaluate")]
    content = read(output)
    assert (content["grid"], content["seeds"]) == ({"learning_rate": ["1e-4", "3e-1"]}, [42, 43])
    slow, fast = content["cells"]
    assert (slow["values"], fast["values"], slow["seeds"]) == ("learning_rate 1e-4", "learning_rate 3e-1", [42, 43])
    rates = [whole(output / cell) for cell in cells[2:]]
    found = fast["figures"]["within"]["chosen_nll"]
    values = sorted(row["rates"]["chosen_nll"] for row in rates)
    assert (found["lowest"], found["highest"], found["seeds"]) == (*values, 2)
    assert found["mean"] == pytest.approx(sum(values) / 2)
    middle = next(row for row in rates if row["rates"]["chosen_nll"] == values[1])
    assert found["interval"] == middle["intervals"]["chosen_nll"]
    assert slow["changes"] == {}
    change = fast["changes"]["within"]["chosen_nll"]
    pairs = zip(cells[:2], cells[2:], strict=True)
    by_seed = [compare(output / a, output / b).row("within").differences["chosen_nll"] for a, b in pairs]
    assert change["n"] == sum(d.n for d in by_seed)
    assert min(d.difference for d in by_seed) <= change["difference"] <= max(d.difference for d in by_seed)
    assert change["interval"][0] < change["difference"] < change["interval"][1]
    table = (output / "grid.md").read_text()
    assert "Nothing was picked." in table
    assert "| learning_rate 3e-1 | 2 |" in table
    assert "Nothing was picked." in " ".join(capsys.readouterr().out.split())

    called.clear()
    grid(None, answers, ["lr=1e-4,3e-1,2e-1"], seeds=2, output=output)
    assert [cell for _, cell in called] == [f"learning_rate-2e-1_seed-{seed}" for seed in (42, 42, 43, 43)]
    with pytest.raises(UserError, match="other settings of seq_len; give it the same ones"):
        grid(None, [*answers, "--seq_len=999"], words, seeds=2, output=output)
    with pytest.raises(UserError, match="other settings of limit, the keys of the grid"):
        grid(None, answers, ["beta=0.1"], seeds=2, limit=3, output=output)


def test_a_stopped_grid_goes_on(tmp_path, called, answers, monkeypatch):
    here = folds.in_own_process

    def stops(environment, function, *args, **kwargs):
        here(environment, function, *args, **kwargs)
        if len(called) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(folds, "in_own_process", stops)
    output = tmp_path / "grid"
    with pytest.raises(KeyboardInterrupt):
        grid(None, answers, ["lr=1e-4,1e-3"], output=output)
    assert [cell["seeds"] for cell in read(output)["cells"]] == [[42], []]
    monkeypatch.setattr(folds, "in_own_process", here)
    grid(None, answers, ["lr=1e-4,1e-3"], output=output)
    assert called[3:] == [("evaluate", "learning_rate-1e-3_seed-42")]
    assert [cell["seeds"] for cell in read(output)["cells"]] == [[42], [42]]


def test_a_cell_that_ends_by_itself_is_a_result(tmp_path, called, answers, capsys):
    flags = [*answers, "--logging_steps", "1", "--max_nll_rise", "1e-6"]
    flags[flags.index("--max_steps") + 1] = "3"
    flags += ["--seed", "42", "--run_name", "mine"]
    output = grid(None, flags, ["lr=1e-9,3e-1"], output=tmp_path / "grid")
    slow, fast = read(output)["cells"]
    assert (slow["ended"], slow["seeds"], fast["seeds"]) == ([], [42], [])
    assert fast["ended"][0].startswith("seed 42: max_nll_rise:")
    assert "learning_rate 3e-1, seed 42: max_nll_rise:" in " ".join(capsys.readouterr().out.split())
    assert "Ended by themselves:" in (output / "grid.md").read_text()
    called.clear()
    grid(None, flags, ["lr=1e-9,3e-1"], output=output)
    assert not called, "what has ended is not begun again"


def test_a_grid_on_reviews(tmp_path, called):
    output = grid(TINY, flags_of(report_to="none"), ["beta1=0.8,0.9"], limit=2, output=tmp_path / "grid")
    first, second = read(output)["cells"]
    assert first["values"] == "adam_beta1 0.8"
    assert set(first["figures"]["within"]) <= {"balanced_accuracy", "auroc"}, "as far as a model has them"
    assert first["figures"]["within"]["auroc"]["n"] > 0
    assert "auroc" in second["changes"]["within"]
