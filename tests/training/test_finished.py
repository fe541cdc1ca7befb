"""A run that has ended is left as it is; one that was killed before its end comes to it; one folder has one owner."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from honest_persona.base.errors import UserError
from honest_persona.base.locks import held
from honest_persona.training import finished, launch
from honest_persona.training.checkpoints import Checkpoint
from tests.training.test_resume import run_in, train_here

RUN = {"data": "of the rows", "seed": 42}


def ended(folder: Path, step: int | None, checkpoint: int | None = None) -> Checkpoint | None:
    """A run's folder with an adapter, which says that it ended at `step`, and a checkpoint with the same adapter."""
    folder.mkdir()
    (folder / "honest_persona.json").touch()
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    if step is not None:
        finished.mark(folder, step, {**RUN, "base_model": "hash"})
    if checkpoint is None:
        return None
    inside = folder / f"checkpoint-{checkpoint}"
    inside.mkdir()
    (inside / "adapter_model.safetensors").write_bytes(b"weights")
    return Checkpoint(checkpoint, inside, {"run": RUN})


@pytest.mark.parametrize(("step", "checkpoint"), [(5, 5), (5, None), (5, 4), (None, 5)], ids=str)
def test_what_has_ended_has_nothing_to_do(tmp_path, capsys, step, checkpoint):
    """With its last checkpoint, without any, with an earlier one alone; and as older versions left it."""
    folder = tmp_path / "run"
    newest = ended(folder, step, checkpoint)
    for planned in (5, 4, 1):
        assert finished.nothing_to_do(folder, newest, RUN, planned)
        assert capsys.readouterr().out == (
            f"resume: {folder} is finished, nothing to do: it ended at step 5, and {planned} are planned\n"
        )
    with pytest.raises(UserError, match=r"belongs to another run: seed: 42 there, 7 here"):
        finished.nothing_to_do(folder, newest, {**RUN, "seed": 7}, 5)


def test_what_has_not_ended_continues(tmp_path, capsys):
    newest = ended(tmp_path / "longer", 5, 5)
    assert not finished.nothing_to_do(tmp_path / "longer", newest, RUN, 8)
    assert "had ended at step 5 and continues to step 8: from now on the learning rate" in capsys.readouterr().out
    ended(tmp_path / "no checkpoint", 5)
    with pytest.raises(UserError, match=r"no whole checkpoint from which to continue to step 8; start from its"):
        finished.nothing_to_do(tmp_path / "no checkpoint", None, RUN, 8)
    # killed after its last checkpoint: while the adapter was moved into place, or before
    newest = ended(tmp_path / "killed", None, 5)
    (tmp_path / "killed" / "honest_persona.json").unlink()
    assert not finished.nothing_to_do(tmp_path / "killed", newest, RUN, 5)
    assert "no step is left; heavy log and adapter are still to be made" in capsys.readouterr().out
    newest = ended(tmp_path / "replaced", None, 5)
    (tmp_path / "replaced" / "adapter_model.safetensors").write_bytes(b"of the shorter run")
    assert not finished.nothing_to_do(tmp_path / "replaced", newest, RUN, 5)


def state_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and times of all files."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.slow
def test_a_real_run_that_has_ended_and_one_that_was_killed_just_before(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    log = {"val_samples_per_topic": "1", "max_new_tokens": "2", "deepspeed": "null"}
    folder = train_here("whole", max_steps="3", **log)
    before = state_of(folder)
    assert json.loads(before["finished.json"][0])["step"] == 3
    load_base = launch.load_base
    monkeypatch.setattr(launch, "load_base", lambda *_: pytest.fail("the model is loaded"))
    for settings in ({"max_steps": "3"}, {"max_steps": "2"}, {"max_steps": "-1", "num_train_epochs": "0.4"}):
        assert train_here("whole", "--resume", **settings, **log) == folder
        assert "is finished, nothing to do: it ended at step 3, and " in capsys.readouterr().out
        assert state_of(folder) == before
    monkeypatch.setattr(launch, "load_base", load_base)

    # killed while its last heavy log was made: no step is trained, and what was missing is made
    killed = folder.with_name("killed")
    shutil.copytree(folder, killed)
    shutil.rmtree(killed / "heavy_log")
    for name in ("finished.json", "honest_persona.json", "adapter_model.safetensors"):
        (killed / name).unlink()
    train_here("killed", "--resume", max_steps="3", **log)
    assert "no step is left" in capsys.readouterr().out
    made, wanted = (load_file(path / "adapter_model.safetensors") for path in (killed, folder))
    assert all(torch.equal(weight, made[name]) for name, weight in wanted.items())
    names = {"results.json", "samples.jsonl", "report.html"}
    assert names <= {path.name for path in (killed / "heavy_log" / "step_000003").iterdir()}
    lines = [json.loads(line) for line in (killed / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3]
    assert len([line for line in lines if any(name.startswith("heavy_log/") for name in line)]) == 1
    assert sorted(path.name for path in killed.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-3"]

    # made longer
    train_here("whole", "--resume", max_steps="4", **log)
    assert "had ended at step 3 and continues to step 4" in capsys.readouterr().out
    assert json.loads((folder / "finished.json").read_text())["step"] == 4
    longer = load_file(folder / "adapter_model.safetensors")
    assert not all(torch.equal(weight, longer[name]) for name, weight in wanted.items())


@pytest.mark.slow
def test_of_two_runs_with_one_name_one_is_refused_on_all_its_ranks(tmp_path):
    folder = tmp_path / "checkpoints" / "same"
    with held(folder, "a training", "x"):
        run = run_in(tmp_path, "same", "torchrun")
        assert [path.name for path in folder.iterdir()] == [".honest_persona.lock"], "nothing is written"
    assert "error: checkpoints/same is in use by a training (process " in run.output
    assert "or choose another --run_name" in run.output
    assert run.code == 2
    assert not folder.exists()
