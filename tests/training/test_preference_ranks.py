"""Objectives on answers through the launcher: the same losses on one process, two ranks, ZeRO-2 and ZeRO-3."""

from pathlib import Path

import pytest
import torch

from tests.training.launches import TINY, Run, launch

pytestmark = pytest.mark.slow

SCRIPT = str(Path(__file__).with_name("feedback_run.py"))
STEPS = 20
COMMON = (*TINY, "--batch_size", "8", "--max_steps", str(STEPS), "--learning_rate", "0.02", "--lora_r", "4")
COMMON = (*COMMON, "--reference_logprobs", "live", "--per_device_train_batch_size", "2")
LAYOUTS = {
    "two ranks": ("torchrun", ("--deepspeed", "null")),
    "ZeRO-2": ("deepspeed", ("--deepspeed", "ds_configs/zero2.json")),
    "ZeRO-3": ("deepspeed", ("--deepspeed", "ds_configs/zero3.json")),
}


def run_of(folder: Path, name: str, objective: str, flags: tuple[str, ...] = (), launcher: str = "python") -> Run:
    words = (*COMMON, "--run_name", name, "--objective", objective, *flags)
    run = launch(folder, name, *words, launcher=launcher, script=SCRIPT)
    assert run.code == 0, run.output[-3000:]
    return run


@pytest.fixture(scope="module", params=["dpo", "kto"])
def one(request, tmp_path_factory) -> tuple[str, Run]:
    folder = tmp_path_factory.mktemp("one")
    return request.param, run_of(folder, "one", request.param, ("--deepspeed", "null"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ranks_and_zero_stages_change_no_loss(one, tmp_path, layout):
    objective, reference = one
    launcher, flags = LAYOUTS[layout]
    other = run_of(tmp_path, "other", objective, flags, launcher)
    for key in ("loss", "chosen_nll", "nll_rise"):
        a, b = torch.tensor(reference.series(key)), torch.tensor(other.series(key))
        assert len(a) == len(b) == STEPS
        assert (a - b).abs().max() <= 1e-5 * max(1, a.abs().max()), key
    losses = reference.series("loss")
    assert losses[-1] < losses[0] - 0.02, "it learns meanwhile"
