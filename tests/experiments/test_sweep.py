"""Sweeps: each fold trains and tests on what it should, is kept, and a stopped sweep goes on to the same figures."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter

import pytest

from honest_persona.base.errors import UserError
from honest_persona.base.words import ALL, HONEST_PERSONA
from honest_persona.config.load import load_config
from honest_persona.data.load import load_records, load_splits
from honest_persona.data.selection import Selection
from honest_persona.evaluation.samples import read_samples
from honest_persona.experiments import folds
from honest_persona.experiments.sweep import FOLDS, FOLLOW_UP, sweep
from honest_persona.modeling.adapters.card import AdapterCard
from tests.training.launches import ROOT, launch

TOPICS = ["confidence_assessment", "fabricated_statistics", "reward_hacks", "sycophancy"]
QUICK = {"max_steps": 1, "num_samples": 8, "max_new_tokens": 2, "lora_r": 2, "deepspeed": "null"}
TINY = str(ROOT / "tests" / "tiny_run.yaml")


def flags_of(**changes):
    return [word for key, value in {**QUICK, **changes}.items() for word in (f"--{key}", str(value))]


def config_of(**changes):
    return load_config(TINY, flags_of(**changes))


@pytest.fixture
def called(monkeypatch):
    """Folds that are trained and evaluated, in order; in this process, which is quicker."""
    calls: list[str] = []

    def here(environment, function, *args, **kwargs):
        name = args[0].run_name if function is folds.train else args[0].rpartition("/")[2]
        calls.append(f"{function.__name__} {name}")
        function(*args, **kwargs)

    monkeypatch.setattr(folds, "in_own_process", here)
    return calls


def whole(rows, part, topic=ALL, detector=HONEST_PERSONA):
    wanted = {"detector": detector, "part": part, "topic": topic, "variant": ALL, "model": ALL, "difficulty": ALL}
    [row] = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return row


def read(folder):
    return json.loads((folder / "sweep.json").read_text())


def samples(folder, fold):
    return list(read_samples(folder / fold / "eval" / "samples.jsonl"))


def test_each_topic_is_left_out_once(tmp_path, called, capsys, monkeypatch):
    monkeypatch.setenv("HONEST_PERSONA_PROGRESS", "1")
    config = config_of()
    folder = sweep(config, "leave_one_topic_out", limit=4, output=tmp_path / "loto")
    content = read(folder)
    assert (content["design"], content["limit"], content["config"]) == ("leave_one_topic_out", 4, config.as_dict())
    assert [fold["name"] for fold in content["folds"]] == [f"without-{topic}" for topic in TOPICS]
    records = {r.id: r for r in load_records(config.dataset, Selection.of(config.as_dict())).records}
    for topic, fold in zip(TOPICS, content["folds"], strict=True):
        assert fold["train_topics"] == [other for other in TOPICS if other != topic]
        assert whole(fold["rows"], "across")["n"] == whole(fold["rows"], "across", topic)["n"] == 4
        across = [s for s in samples(folder, fold["name"]) if s.part == "across"]
        assert {records[s.record_id].topic for s in across} == {topic}
        _, splits = load_splits(load_config(str(folder / fold["name"] / "fold.json")))
        assert not {r.item_id for r in splits.train} & {s.item_id for s in across}
    items = {s.item_id for fold in content["folds"] for s in samples(folder, fold["name"]) if s.part == "across"}
    pooled = whole(content["pooled"], "across")
    assert (pooled["n"], pooled["n_items"]) == (16, len(items))
    assert {row["part"] for row in content["pooled"]} == {"across"}
    assert whole(content["pooled"], "across", detector="transcript bigrams")["n"] == 16, "readers of the same records"
    assert not list(tmp_path.rglob("*.part"))
    out, err = capsys.readouterr()
    assert "pooled" in out
    for number, topic in enumerate(TOPICS, start=1):
        assert re.search(rf"^fold {number} of 4: without-{topic}{', about [0-9:]+ left' * (number > 1)}$", err, re.M)
    assert "\r" not in err


def test_a_matrix_asks_every_fold_about_the_same_held_out_items(tmp_path, called, capsys):
    config = config_of(validation_topics=[], train_topics=TOPICS[1:])
    folder = sweep(config, "topic_matrix", limit=4, output=tmp_path / "matrix")
    content = read(folder)
    _, splits = load_splits(config)
    held_out = {r.id for r in splits.within}
    asked = []
    for topic, fold in zip(TOPICS[1:], content["folds"], strict=True):
        assert fold["train_topics"] == [topic]
        of = samples(folder, fold["name"])
        assert {s.topic for s in of if s.part == "within"} == {topic}
        assert Counter(s.topic for s in of) == dict.fromkeys(TOPICS[1:], 4)
        asked.append({s.record_id for s in of})
    assert asked[0] == asked[1] == asked[2]
    assert asked[0] <= held_out
    pooled = whole(content["pooled"], "within"), whole(content["pooled"], "across")
    assert [row["n"] for row in pooled] == [12, 24], "the diagonal, and all else"
    table = capsys.readouterr().out.rpartition("by trained topic")[2]
    assert all(table.count(topic) == 2 for topic in TOPICS[1:])


def test_the_plain_follow_up_is_asked_about_the_same_records(tmp_path, called, capsys):
    folder = sweep(config_of(), "follow_up", limit=4, output=tmp_path / "follow")
    content = read(folder)
    assert [fold["name"] for fold in content["folds"]] == ["honest-persona", "plain-follow-up"]
    assert content["pooled"] == []
    of = [{(s.part, s.record_id) for s in samples(folder, fold["name"])} for fold in content["folds"]]
    assert of[0] == of[1]
    cards = [AdapterCard.load(folder / fold["name"]) for fold in content["folds"]]
    differing = {key for key in cards[0].config if cards[0].config[key] != cards[1].config[key]}
    assert differing <= {*FOLLOW_UP, "run_name"}
    assert (cards[0].persona.elicitation_type, cards[0].persona.adapter_scope) == ("hp", "persona")
    plain = cards[1].persona
    assert (plain.elicitation_type, plain.adapter_scope, plain.sp_token_id) == ("ur", "all", None)
    asked = samples(folder, "plain-follow-up")[0].prompt
    assert [kind for kind, _ in asked][-3:] == ["TEMPLATE", "INTERVENTION", "TEMPLATE"], "a user's turn, then an answer"
    assert "INTERVENTION:" not in "".join(text for _, texts in asked for text in texts)
    assert "B - A" in capsys.readouterr().out


def test_a_stopped_sweep_goes_on_to_the_same_figures(tmp_path, called, monkeypatch):
    config = config_of(max_steps=2, save_strategy="steps", save_steps=1)
    uninterrupted = read(sweep(config, "follow_up", limit=2, output=tmp_path / "whole"))
    expected = ["train honest-persona", "evaluate_adapter honest-persona"]
    expected += ["train plain-follow-up", "evaluate_adapter plain-follow-up"]
    assert called == expected

    here = folds.in_own_process

    def stop(when, after=lambda folder: None):
        def stopping(environment, function, *args, **kwargs):
            here(environment, function, *args, **kwargs)
            if called[-1] == when:
                after(tmp_path / "stopped" / when.rpartition(" ")[2])
                raise KeyboardInterrupt

        monkeypatch.setattr(folds, "in_own_process", stopping)
        with pytest.raises(KeyboardInterrupt):
            sweep(config, "follow_up", limit=2, output=tmp_path / "stopped")
        monkeypatch.setattr(folds, "in_own_process", here)

    def within_the_training(folder):
        """As if stopped between its first checkpoint and the second."""
        shutil.rmtree(folder / "checkpoint-2")
        for path in [*folder.glob("adapter_*"), folder / "honest_persona.json"]:
            path.unlink()

    called.clear()
    stop("evaluate_adapter honest-persona")
    stop("train plain-follow-up", after=within_the_training)
    assert [fold["name"] for fold in read(tmp_path / "stopped")["folds"]] == ["honest-persona"]
    stop("train plain-follow-up")
    finished = read(sweep(config, "follow_up", limit=2, output=tmp_path / "stopped"))
    assert {**finished, "about": uninterrupted["about"]} == uninterrupted, "but for when it was made"
    assert called == [*expected[:3], *expected[2:]], "the second training was begun, and resumed"
    log = (tmp_path / "stopped" / "plain-follow-up" / "metrics.jsonl").read_text().splitlines()
    assert [line["step"] for line in map(json.loads, log) if "loss" in line] == [1, 2]
    sweep(config, "follow_up", limit=2, output=tmp_path / "stopped")
    assert len(called) == 5, "nothing is left to do"


def test_other_settings_are_refused(tmp_path, called):
    output = tmp_path / "sweep"
    sweep(config_of(), "follow_up", limit=2, output=output)
    called.clear()
    with pytest.raises(UserError, match="begun with other settings of learning_rate, limit; give it the same"):
        sweep(config_of(learning_rate="1e-4"), "follow_up", limit=3, output=output)
    with pytest.raises(UserError, match="other settings of design"):
        sweep(config_of(), "leave_one_topic_out", limit=2, output=output)
    assert not called
    sweep(config_of(learning_rate="1e-4"), "follow_up", limit=2, output=tmp_path / "other")
    assert len(called) == 4


def test_what_cannot_be_swept_is_said_at_once(tmp_path, called):
    plain = {"elicitation_type": "ur", "adapter_scope": "all", "add_sp_token": False, "intervention_prefix": '""'}
    one = {"train_topics": "sycophancy", "validation_topics": []}
    nothing_left = "fold only-confidence_assessment: no record is left to train on"
    refused = {
        "--follow_up: this config is a plain follow-up": ("follow_up", plain),
        "adapter: the plain follow-up cannot start from": ("follow_up", {"adapter": "checkpoints/x"}),
        "--topic_matrix: the data has one topic only": ("topic_matrix", one),
        "--topic_matrix: its trainings are of reviews, and dpo trains answers": ("topic_matrix", {"objective": "dpo"}),
        "use_dummy_data: a sweep compares topics": ("topic_matrix", {"use_dummy_data": True}),
        nothing_left: ("topic_matrix", {"val_item_frac": 0.999}),
    }
    for message, (design, changes) in refused.items():
        with pytest.raises(UserError, match=message):
            sweep(config_of(**changes), design, output=tmp_path / "never")
    assert not called
    assert not (tmp_path / "never").exists()


def test_names_of_topics_become_names_of_folders():
    folds = FOLDS["topic_matrix"](config_of(), ["a b", "c/d"])
    assert [(fold.run_name, fold.train_topics) for fold in folds] == [("only-a-b", ("a b",)), ("only-c-d", ("c/d",))]


ENTRY = """
import sys
from pathlib import Path

from honest_persona.config.load import load_config
from honest_persona.entry import run_entry
from honest_persona.experiments.sweep import sweep


def main(argv):
    sweep(load_config(CONFIG, argv), "follow_up", limit=4, output=Path("out"))


if __name__ == "__main__":
    sys.exit(run_entry(main))
"""


def launch_sweep(cwd, launcher, flags):
    (cwd / "entry.py").write_text(ENTRY.replace("CONFIG", repr(TINY)))
    return launch(cwd, "", *flags, launcher=launcher, script=str(cwd / "entry.py"))


@pytest.mark.slow
def test_two_ranks_give_the_same_figures(tmp_path, called):
    """Two trainings in turn, for each of which the ranks join anew, against one process."""
    changes = {"max_steps": 4, "learning_rate": "5e-2", "lora_r": 8, "per_device_train_batch_size": 2}
    one = sweep(config_of(**changes), "follow_up", limit=4, output=tmp_path / "one")
    run = launch_sweep(tmp_path, "deepspeed", flags_of(**changes, deepspeed="ds_configs/zero3.json"))
    assert run.code == 0, run.output[-3000:]
    folds = ["honest-persona", "plain-follow-up"]
    assert [fold["name"] for fold in read(tmp_path / "out")["folds"]] == folds
    for fold in folds:
        scores = [sample.p_fail for sample in samples(one, fold)]
        assert [sample.p_fail for sample in samples(tmp_path / "out", fold)] == pytest.approx(scores, abs=5e-3)
    persona, plain = (samples(one, fold)[0].p_fail for fold in folds)
    assert abs(persona - plain) > 2e-2, "the folds do differ"


@pytest.mark.slow
def test_bad_input_of_one_fold_stops_all_ranks_with_its_message(tmp_path):
    flags = flags_of(target_modules="[nonsense]", per_device_train_batch_size=2)
    run = launch_sweep(tmp_path, "torchrun", flags)
    assert run.code != 0
    assert "error: target_modules: " in run.output
    assert not list(tmp_path.glob("out/*/eval"))


def told(path, fail=False):
    path.write_text(json.dumps({"pid": os.getpid(), "rank": os.environ.get("RANK"), "port": os.environ["MASTER_PORT"]}))
    if fail:
        raise UserError("the reason, and the remedy")


@pytest.mark.slow
def test_a_process_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    told_there = tmp_path / "told.json"
    folds.in_own_process({"RANK": None, "MASTER_PORT": "123"}, told, told_there)
    there = json.loads(told_there.read_text())
    assert there["pid"] != os.getpid()
    assert (there["rank"], there["port"], os.environ["RANK"]) == (None, "123", "0")
    with pytest.raises(UserError, match="the reason, and the remedy"):
        folds.in_own_process({"MASTER_PORT": "1"}, told, told_there, fail=True)


STUCK = """
import threading

from honest_persona.experiments.own_process import in_own_process


def training():
    print("begun", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    in_own_process({}, training)
"""


@pytest.mark.slow
def test_a_killed_sweep_leaves_no_training_behind(tmp_path):
    (tmp_path / "stuck.py").write_text(STUCK)
    sweeping = subprocess.Popen(
        [sys.executable, str(tmp_path / "stuck.py")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert sweeping.stdout is not None
    assert any(line == "begun\n" for line in sweeping.stdout)
    sweeping.kill()
    assert sweeping.stdout.read() == "", "the end of the output comes when the training has ended too"
    sweeping.wait()


ENDING = """
import signal
import time

from honest_persona.entry import run_entry
from honest_persona.experiments.own_process import in_own_process

asked = []


def training():
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    print("begun", flush=True)
    while not asked:
        time.sleep(0.01)
    time.sleep(0.5)
    print("saved", flush=True)
    raise SystemExit(143)


if __name__ == "__main__":
    raise SystemExit(run_entry(lambda _: in_own_process({}, training)))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_sweep_ends_when_its_training_has_saved(tmp_path, number, code):
    """The signal goes to all, as from a terminal or a launcher, and the sweep passes it on: a training notes both and
    saves once, as `StopAtSignal` does."""
    (tmp_path / "ending.py").write_text(ENDING)
    sweeping = subprocess.Popen(
        [sys.executable, str(tmp_path / "ending.py")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert sweeping.stdout is not None
    assert any(line == "begun\n" for line in sweeping.stdout)
    os.killpg(sweeping.pid, number)
    out, err = sweeping.communicate(timeout=60)
    assert (out, sweeping.returncode) == ("saved\n", code)
    assert err.splitlines() == (["", "interrupted: nothing was written"] if number == signal.SIGINT else [])
