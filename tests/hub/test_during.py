"""Uploads of checkpoints while a training goes on."""

import shutil
import threading
from types import SimpleNamespace

import pytest
from transformers import TrainerControl, TrainerState

from honest_persona.base.manifest import seal
from honest_persona.config.load import load_config
from honest_persona.hub import during
from honest_persona.hub.during import PushCheckpoints, upload_callbacks


def config(**values):
    plain = load_config(None, ["--model", "builtin:tiny"])
    return plain.model_copy(
        update={"trainer": {**plain.trainer, "push_to_hub": True, "hub_model_id": "user/name", **values}}
    )


def save(callback, run, step, first_rank=True):
    state = TrainerState(global_step=step, is_world_process_zero=first_rank)
    callback.on_save(SimpleNamespace(output_dir=str(run)), state, TrainerControl())


def end(callback):
    callback.on_train_end(None, TrainerState(), TrainerControl())


def test_only_where_it_is_asked_for():
    assert upload_callbacks(config()) == []
    assert upload_callbacks(config(hub_strategy="end")) == []
    assert upload_callbacks(config(hub_strategy="every_save", push_to_hub=False)) == []
    assert len(upload_callbacks(config(hub_strategy="every_save"))) == 1
    for value in ("checkpoint", "all_checkpoints"):
        with pytest.raises(ValueError, match="would upload optimizer states"):
            load_config(None, ["--model", "builtin:tiny", "--hub_strategy", value])


def test_a_checkpoint_goes_up_without_what_a_resume_needs(hub, run_folder, tmp_path):
    shutil.copytree(run_folder, tmp_path / "checkpoint-3")
    for name in ("run_state.safetensors", "run_state.json", "trainer_state.json"):
        (tmp_path / "checkpoint-3" / name).write_text("{}")
    seal(tmp_path / "checkpoint-3", {"step": 3, "secret": "what the run was"})
    callback = PushCheckpoints(config())
    save(callback, tmp_path, 3, first_rank=False)
    end(callback)
    assert hub.requests == []
    save(callback, tmp_path, 3)
    end(callback)
    found = set(hub.files("user/name"))
    assert "adapter_model.safetensors" in found
    assert not {name for name in found if "state" in name}
    manifest = hub.files("user/name")["manifest.json"].decode()
    assert "state" not in manifest, "its manifest is that of what went up"
    assert "what the run was" not in manifest


def test_one_at_a_time_and_none_is_waited_for(monkeypatch, tmp_path):
    begun, may_end = [], threading.Event()

    def slow(_, folder):
        begun.append(folder.name)
        may_end.wait(60)

    monkeypatch.setattr(during, "push_run", slow)
    callback = PushCheckpoints(config())
    for step in (1, 2):
        save(callback, tmp_path, step)
    assert begun == ["checkpoint-1"]
    may_end.set()
    end(callback)
    save(callback, tmp_path, 3)
    end(callback)
    assert begun == ["checkpoint-1", "checkpoint-3"]


def test_a_checkpoint_that_is_gone_is_no_error(hub, tmp_path, capsys):
    callback = PushCheckpoints(config())
    save(callback, tmp_path, 4)
    end(callback)
    assert "not pushed: " in capsys.readouterr().out
