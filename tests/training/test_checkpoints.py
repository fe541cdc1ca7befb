"""Checkpoints on the disk: whole or not at all, the newest whole one chosen, the last good one never lost."""

import shutil
from collections import namedtuple
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from honest_persona.base.errors import RankError, UserError
from honest_persona.base.manifest import MANIFEST, seal
from honest_persona.training.checkpoints import (
    Checkpoint,
    check_same_run,
    checkpoints,
    into_place,
    last_good,
    newest,
    thin_out,
    whole,
)
from honest_persona.training.run_state import RunState

STATE = SimpleNamespace(n_bytes=1000)


def test_weights_that_are_not_finite_are_not_saved():
    sound = {"weight/a": torch.ones(3), "exp_avg/a": torch.tensor([float("nan")])}
    RunState(sound, {}).check_finite()
    with pytest.raises(RankError, match=r"weights of b are not finite numbers, so they are not saved.*learning_rate"):
        RunState({**sound, "weight/b": torch.tensor([1.0, float("inf")])}, {}).check_finite()


def make(run: Path, step: int) -> Path:
    with whole(run / f"checkpoint-{step}", {"step": step, "run": {}}, True, STATE) as folder:
        (folder / "weights").write_bytes(b"w" * 100)
    return run / f"checkpoint-{step}"


def test_the_newest_whole_one_is_taken_and_the_others_are_named(tmp_path):
    for step in (2, 9, 10):
        make(tmp_path, step)
    (tmp_path / "checkpoint-11").mkdir()
    (tmp_path / "checkpoint-12.partial").mkdir()
    (tmp_path / "checkpoint-10" / "weights").write_bytes(b"v" * 100)
    told = []
    found = newest(tmp_path, told.append)
    assert (found.step, found.folder) == (9, tmp_path / "checkpoint-9")
    assert len(told) == 2
    assert "checkpoint-11 is skipped: it has no manifest.json" in told[0]
    assert "checkpoint-10 is skipped: weights is not what was written" in told[1]
    shutil.rmtree(tmp_path / "checkpoint-9")
    shutil.rmtree(tmp_path / "checkpoint-2")
    assert newest(tmp_path, told.append) is None


def test_what_fails_while_it_is_written_leaves_what_was_there(tmp_path):
    make(tmp_path, 1)
    with suppress(KeyError), whole(tmp_path / "checkpoint-2", {}, True, STATE) as folder:
        (folder / "half").touch()
        raise KeyError
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-1"]
    assert len(list(tmp_path.glob("checkpoint-2.*.partial"))) == 1
    make(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-2"]


def test_a_rank_that_does_not_write_writes_nothing(tmp_path):
    with whole(tmp_path / "checkpoint-1", {}, False, STATE):
        pass
    assert not any(tmp_path.iterdir())


def test_a_full_disk_is_told_with_the_space_needed(tmp_path, monkeypatch):
    make(tmp_path, 1)
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(999))
    with pytest.raises(RankError, match=r"checkpoint-2 could not be written.*needs 0\.0 MiB.*checkpoint-1 stays"):
        make(tmp_path, 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1000))
    make(tmp_path, 2)
    error = pytest.raises(RankError, match="No space left")
    with error, whole(tmp_path / "checkpoint-3", {}, True, STATE):
        raise OSError(28, "No space left on device")
    assert newest(tmp_path, print).step == 2


def test_the_last_file_in_place_is_the_one_that_says_it_is_finished(tmp_path, monkeypatch):
    placed = []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, to: (placed.append(Path(to).name), replace(self, to))[1])
    with into_place(tmp_path, "card.json", True, STATE) as folder:
        for name in ("card.json", "zebra", "adapter"):
            (folder / name).write_text(name)
    assert placed == ["adapter", "zebra", "card.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(placed)


@pytest.mark.parametrize(("keep", "left"), [(None, [1, 2, 3, 4]), (2, [3, 4]), (1, [4])])
def test_old_ones_go(tmp_path, keep, left):
    for step in (1, 2, 3, 4):
        make(tmp_path, step)
    thin_out(tmp_path, keep)
    assert sorted(int(path.name.partition("-")[2]) for path in checkpoints(tmp_path)) == left


def test_the_last_good_one_never_goes(tmp_path):
    for step in (1, 2, 3):
        make(tmp_path, step)
    for step in (2, 3):
        (tmp_path / f"checkpoint-{step}" / MANIFEST).unlink()
    thin_out(tmp_path, 1)
    assert newest(tmp_path, print).step == 1
    assert "checkpoint-1 stays" in last_good(tmp_path)


def test_another_run_is_refused_with_what_differs():
    before = {"data": "a" * 64, "lora_r": 16, "target_modules": ["q_proj"]}
    checkpoint = Checkpoint(3, Path("checkpoint-3"), {"run": before})
    check_same_run(checkpoint, dict(before))
    check_same_run(checkpoint, {**before, "objective": "persona"})  # older checkpoints do not name it
    with pytest.raises(UserError, match=r"lora_r: 16 there, 32 here; elicitation: null there, \"hp\" here") as error:
        check_same_run(checkpoint, {**before, "lora_r": 32, "elicitation": "hp"})
    assert "data" not in str(error.value).partition("Give")[0]
    with pytest.raises(UserError, match=f'data: "{"a" * 36}\\.\\.\\. there, "{"b" * 36}\\.\\.\\. here'):
        check_same_run(checkpoint, {**before, "data": "b" * 64})


def test_sealing_covers_all_that_a_resume_reads(tmp_path):
    (tmp_path / "a").write_text("1")
    seal(tmp_path, {})
    assert '"a"' in (tmp_path / MANIFEST).read_text()
