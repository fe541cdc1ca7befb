"""A heavy log reaches the trackers as figures, tables and plots."""

import json
import os
import pickle
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from honest_persona.evaluation.suite import Results, summarize
from honest_persona.training.trackers import track
from tests.evaluation.scored import sample


@pytest.fixture
def heavy_log(tmp_path):
    from matplotlib.figure import Figure

    samples = [sample(n, truth=("PASS", "FAIL")[n % 2], flag=("PASS", "FAIL")[n % 2]) for n in range(6)]
    results = Results(summarize(samples), samples)
    plots = tmp_path / "plots"
    plots.mkdir()
    Figure().savefig(plots / "roc.png")
    return {f"heavy_log/{name}": value for name, value in results.scalars().items()}, results, samples[:2], plots


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
