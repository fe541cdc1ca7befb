"""What the config admits trains: three steps, and the same weights after a resume from the second step's checkpoint."""

import shutil
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load_file

from honest_persona.base.errors import UserError
from honest_persona.config import optimizers
from honest_persona.config.load import load_config
from honest_persona.training.launch import train
from honest_persona.training.resumable import ResumableRun
from tests.config.test_optimizers import OPTIMIZERS

pytestmark = pytest.mark.slow
ROOMY = ["--lora_r", "128"]  # states of 4,096 numbers and more are those that bitsandbytes quantizes
HERE = [name for name in OPTIMIZERS if optimizers.problem_with_optimizer(name) is None]
ARGUMENTS = {"sgd": "momentum=0.9, nesterov=true", "rmsprop": "momentum=0.5, centered=true", "adagrad": "eps=1e-8"}
SCHEDULES = {
    **dict.fromkeys(optimizers._SCHEDULES, "{}"),
    "cosine_with_min_lr": "{min_lr_rate: 0.1}",
    "cosine_warmup_with_min_lr": "{min_lr: 1.0e-5, warmup_lr_rate: 0.1}",
    "polynomial": "{power: 2}",
    "cosine_with_restarts": "{num_cycles: 2}",
    "inverse_sqrt": "{timescale: 10}",
}
LONG = pytest.mark.long


def config_of(name: str, *flags: str):
    words = "--model builtin:tiny --bf16 false --batch_size 4 --num_samples 12 --seq_len 512 --max_steps 3"
    words += " --learning_rate 1e-3 --save_strategy steps --save_steps 2 --val_samples_per_topic 0"
    return load_config(None, [*words.split(), "--run_name", name, *flags])


def check_resume(tmp_path, monkeypatch, *flags: str) -> None:
    monkeypatch.chdir(tmp_path)
    whole = train(config_of("whole", *flags))
    shutil.copytree(whole / "checkpoint-2", tmp_path / "checkpoints" / "resumed" / "checkpoint-2")
    resumed = train(config_of("resumed", "--resume", *flags))
    weights, again = (load_file(folder / "adapter_model.safetensors") for folder in (whole, resumed))
    assert any(weight.any() for name, weight in weights.items() if "lora_B" in name), "it was trained"
    assert all(torch.equal(weight, again[name]) for name, weight in weights.items())


def test_an_optimizer_and_a_schedule_with_arguments(tmp_path, monkeypatch):
    schedule = ["--lr_scheduler_type", "cosine_with_min_lr", "--lr_scheduler_kwargs", "{min_lr_rate: 0.1}"]
    check_resume(tmp_path, monkeypatch, "--optim", "sgd", "--optim_args", ARGUMENTS["sgd"], *schedule)


@LONG
@pytest.mark.parametrize("name", HERE)
def test_every_optimizer_that_can_be_made_here(name, tmp_path, monkeypatch):
    """With bitsandbytes installed these are 21."""
    check_resume(tmp_path, monkeypatch, "--optim", name, *ROOMY)
    if name in ARGUMENTS:
        monkeypatch.chdir(tmp_path)
        train(config_of("arguments", "--optim", name, "--optim_args", ARGUMENTS[name]))


@LONG
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule(name, tmp_path, monkeypatch):
    flags = ["--lr_scheduler_kwargs", SCHEDULES[name]] if SCHEDULES[name] != "{}" else []
    check_resume(tmp_path, monkeypatch, "--lr_scheduler_type", name, *flags)


def test_what_only_shows_when_the_optimizer_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def fail(*_):
        raise ImportError("You need to install `something`")

    monkeypatch.setattr(ResumableRun, "get_optimizer_cls_and_kwargs", staticmethod(fail))
    with pytest.raises(UserError, match="optim: adamw_torch_fused cannot be made: You need to install `something`"):
        train(config_of("fails"))


def test_the_plain_ones_are_tried():
    assert {"adamw_torch", "sgd", "adafactor", "rmsprop", "adagrad"} <= set(HERE)
    assert (find_spec("bitsandbytes") is None) == ("adamw_8bit" not in HERE)
