"""A heavy log reaches the trackers as figures, tables and plots; a tracker that fails takes nothing with it."""

import json
import os
import pickle
import sqlite3
import subprocess
import sys
from contextlib import closing
from types import SimpleNamespace

import pytest
from transformers import TrainerCallback
from transformers.integrations import TrackioCallback, WandbCallback

from honest_persona.base.errors import UserError
from honest_persona.evaluation.report.tables import rows_of_topics
from honest_persona.evaluation.suite import Results, summarize
from honest_persona.training.trackers import guard_trackers, prepare_trackers, track
from tests.canaries import KEYS
from tests.evaluation.scored import sample
from tests.training.launches import TINY, free_port, launch_for_real


@pytest.fixture
def heavy_log(tmp_path):
    from matplotlib.figure import Figure

    samples = [sample(n, truth=("PASS", "FAIL")[n % 2], flag=("PASS", "FAIL")[n % 2]) for n in range(6)]
    results = Results(summarize(samples), samples)
    plots = tmp_path / "plots"
    plots.mkdir()
    Figure().savefig(plots / "roc.png")
    tables = {
        "topics": rows_of_topics(results),
        "samples": [["record_id", "truth"], *([s.record_id, s.truth] for s in samples[:2])],
    }
    return {f"heavy_log/{name}": value for name, value in results.scalars().items()}, tables, plots


def test_without_a_run_nothing_is_sent(heavy_log):
    import trackio
    import wandb

    assert wandb.run is None
    assert trackio.context_vars.current_run.get() is None
    track(3, *heavy_log)


def test_trackio(heavy_log, tmp_path):
    """A real run in a process of its own, as trackio's folder is fixed when it is imported; read from its database."""
    pytest.importorskip("trackio")
    script = f"""
import pickle, trackio
from honest_persona.training.trackers import track
trackio.init(project="p", name="n")
track(3, *pickle.loads({pickle.dumps(heavy_log)!r}))
trackio.finish()
"""
    environment = os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, timeout=120)
    [database] = (tmp_path / "trackio").glob("p.db")
    with closing(sqlite3.connect(database)) as connection:
        [(step, logged)] = connection.execute("select step, metrics from metrics").fetchall()
    content = json.loads(logged)
    assert step == 3
    assert content["heavy_log/within/all/balanced_accuracy"] == 1.0
    topics = content["heavy_log/topics"]["_value"]
    assert [(row["part"], row["topic"], row["n"], row["bal. acc."]) for row in topics] == [
        ("within", "all", "6", "1.00"),
        ("within", "sycophancy", "6", "1.00"),
    ]
    assert list(database.parent.rglob("*.png"))


def test_wandb(heavy_log, tmp_path, monkeypatch):
    import wandb

    run = wandb.init(mode="offline", dir=tmp_path, project="p")
    try:
        track(3, *heavy_log)
        summary = dict(run.summary)
    finally:
        run.finish()
    assert summary["train/global_step"] == 3
    assert summary["heavy_log/within/all/n"] == 6
    assert summary["heavy_log/topics"]["nrows"] == 2
    assert summary["heavy_log/roc"]["_type"] == "image-file"
    [media] = (tmp_path / "wandb").rglob("media/table/heavy_log/samples*.json")
    assert [row[0] for row in json.loads(media.read_text())["data"]] == ["r0", "r1"]


def test_a_heavy_log_that_wandb_does_not_take_is_a_line(heavy_log, tmp_path, monkeypatch, capsys):
    import wandb

    run = wandb.init(mode="offline", dir=tmp_path, project="p")
    try:
        monkeypatch.setattr(wandb, "log", fails_with(ConnectionError(f"gone\nwith {KEYS[0]}")))
        track(3, *heavy_log)
    finally:
        run.finish()
    assert "wandb: ConnectionError: gone; this heavy log is in the run's folder alone\n" in capsys.readouterr().out


def fails_with(error):
    def fail(*_, **__):
        raise error

    return fail


class Notes(TrainerCallback):
    """A callback of the run, or, with another name, one of a tracker: notes what it is called for."""

    def __init__(self, name, notes):
        self.name, self.notes = name, notes

    def on_train_begin(self, *_, **__):
        self.notes.append(f"{self.name} begins")

    def on_log(self, *_, **__):
        self.notes.append(f"{self.name} logs")

    def on_train_end(self, *_, **__):
        self.notes.append(f"{self.name} ends")


@pytest.fixture
def handled(monkeypatch):
    """Events of a training with a tracker, another tracker, and a callback of the run: (handler, notes, trackers)."""
    from transformers.trainer_callback import CallbackHandler

    notes: list[str] = []
    trackers = [object.__new__(WandbCallback), object.__new__(TrackioCallback)]
    for tracker in trackers:
        notebook = Notes(type(tracker).__name__.removesuffix("Callback").lower(), notes)
        for event in ("on_train_begin", "on_log", "on_train_end"):
            monkeypatch.setattr(tracker, event, getattr(notebook, event), raising=False)
    handler = CallbackHandler([*trackers, Notes("heavy log", notes)], None, None, None, None)
    return handler, notes, trackers


def train(handler):
    control = SimpleNamespace(should_training_stop=False, should_log=False)
    for event in (handler.on_train_begin, handler.on_train_end):
        event(None, None, control)
        handler.on_log(None, None, control, logs={})


def guarded(handler):
    guard_trackers(SimpleNamespace(callback_handler=handler, add_callback=handler.add_callback))


def test_trackers_end_after_the_last_heavy_log(handled):
    handler, notes, _ = handled
    guarded(handler)
    train(handler)
    begun, ended = notes[:3], notes[6:9]
    assert begun == ["wandb begins", "trackio begins", "heavy log begins"]
    assert ended == ["heavy log ends", "wandb ends", "trackio ends"]


def test_a_tracker_that_fails_is_left_out_and_named_once(handled, monkeypatch, capsys):
    handler, notes, (wandb, _) = handled
    error = ConnectionError(f"no answer with {KEYS[2]}\nand more")
    monkeypatch.setattr(wandb, "on_log", fails_with(error))
    with pytest.raises(ConnectionError):
        train(handler)
    notes.clear()
    guarded(handler)
    train(handler)
    assert [note for note in notes if note.startswith("wandb")] == ["wandb begins"]
    assert len([note for note in notes if note.startswith(("trackio", "heavy log"))]) == 8
    assert capsys.readouterr().out == (
        "wandb: ConnectionError: no answer with ***; the run continues without this tracker; its figures are in "
        "metrics.jsonl\n"
    )


def test_what_is_no_error_stops_the_run(handled, monkeypatch):
    handler, _, (wandb, _) = handled
    monkeypatch.setattr(wandb, "on_log", fails_with(KeyboardInterrupt()))
    guarded(handler)
    with pytest.raises(KeyboardInterrupt):
        train(handler)


@pytest.mark.parametrize(
    ("name", "message"), [("wanddb", "'wanddb' is no tracker; there are .*wandb"), ("clearml", "pip install clearml")]
)
def test_trackers_that_are_not_there_are_refused_at_once(name, message):
    with pytest.raises(UserError, match=f"report_to: .*{message}"):
        prepare_trackers(["trackio", name])


def test_wandb_gives_up_at_the_end_where_the_user_does_not_say_otherwise(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "")
    monkeypatch.delenv("WANDB_FINISH_TIMEOUT")
    prepare_trackers(["trackio"])
    assert "WANDB_FINISH_TIMEOUT" not in os.environ
    prepare_trackers(["wandb"])
    assert os.environ["WANDB_FINISH_TIMEOUT"] == "600"
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "5")
    prepare_trackers(["wandb"])
    assert os.environ["WANDB_FINISH_TIMEOUT"] == "5"


@pytest.mark.slow
def test_a_run_does_not_need_its_wandb_server(tmp_path, monkeypatch):
    """A port of this machine where nobody listens. wandb tries again until its time for a beginning is over."""
    settings = {
        "BASE_URL": f"http://127.0.0.1:{free_port()}",
        "MODE": "online",
        "API_KEY": KEYS[0],
        "INIT_TIMEOUT": "2",
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    flags = (*TINY, "--max_steps", "2", "--val_samples_per_topic", "1", "--max_new_tokens", "4")
    run = launch_for_real(tmp_path, "alone", *flags, "--report_to", "wandb")
    assert run.code == 0, run.output[-3000:]
    assert len(run.lines) == 2
    [lost] = [line for line in run.output.splitlines() if "the run continues without this tracker" in line]
    assert lost.startswith("wandb: ")
    assert KEYS[0] not in run.output
