"""Objectives on answers through train.py: the same losses on one process, two ranks, ZeRO-2 and ZeRO-3, and resumed."""

import shutil
from pathlib import Path

import pytest
import torch

from honest_persona.config.objectives import OBJECTIVES
from tests.feedback import write_feedback
from tests.training.launches import TINY, Run, drop, launch

pytestmark = pytest.mark.slow

STEPS, FEW = 20, 6
SETTINGS = {
    "validation_topics": "[]",
    "per_device_train_batch_size": "2",
    "max_steps": str(STEPS),
    "learning_rate": "0.01",
    "lr_scheduler_type": "constant",
    "warmup_steps": "0",
    "lora_r": "4",
    "max_nll_rise": "off",
    "first_heavy_log_step": "9999",
    "val_samples_per_topic": "0",
}
LAYOUTS = {
    "one process": ("python", "null"),
    "two ranks": ("torchrun", "null"),
    "ZeRO-2": ("deepspeed", "ds_configs/zero2.json"),
    "ZeRO-3": ("deepspeed", "ds_configs/zero3.json"),
}
REFERENCED = {name for name, spec in OBJECTIVES.items() if spec.needs_reference}
ANSWERS = [name for name, spec in OBJECTIVES.items() if spec.trains_answers and not spec.writes_answers]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Finished runs by name; each is made once."""
    folder, made = tmp_path_factory.mktemp("runs"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HONEST_PERSONA_CACHE", str(folder / "cache"))

        def run(name: str, objective: str, layout: str = "one process", *flags: str, **settings) -> Run:
            if name not in made or "--resume" in flags:
                made[name] = started(folder, name, objective, layout, *flags, **settings)
            return made[name]

        yield run
    for run in made.values():
        drop(run)


def started(folder: Path, name: str, objective: str, layout: str, *flags: str, code: int = 0, **settings: str) -> Run:
    data = folder / f"{OBJECTIVES[objective].rows}.jsonl"
    if not data.exists():
        write_feedback(data, OBJECTIVES[objective].rows)
    launcher, deepspeed = LAYOUTS[layout]
    live = {"reference_logprobs": "live"} if objective in REFERENCED else {}
    given = {"objective": objective, "dataset": str(data), "deepspeed": deepspeed, **SETTINGS, **live, **settings}
    if OBJECTIVES[objective].makes_reward:
        del given["max_nll_rise"]
    words = [word for key, value in given.items() for word in (f"--{key}", value)]
    run = launch(folder, name, *TINY, *words, *flags, launcher=launcher)
    assert run.code == code, run.output[-3000:]
    return run


def assert_same(run: Run, other: Run, steps: int = STEPS) -> None:
    for key in ("loss", "reward_margin") if "chosen_nll" not in run.lines[0] else ("loss", "chosen_nll", "nll_rise"):
        a, b = torch.tensor(run.series(key)), torch.tensor(other.series(key))
        assert len(a) == len(b) == steps
        assert (a - b).abs().max() <= 1e-5 * max(1, a.abs().max()), key
    losses, by_score = run.series("loss"), "policy_loss" in run.lines[0]
    learns = run.series("nll_rise")[-1] < -0.02 if by_score else losses[-1] < 0.97 * losses[0]
    assert learns, "it learns meanwhile"


@pytest.mark.parametrize(
    ("objective", "layout"),
    [
        ("dpo", "ZeRO-3"),
        ("kto", "two ranks"),
        ("ppo_offline", "ZeRO-3"),
        ("repr_direction", "ZeRO-3"),
        ("reward", "two ranks"),
        pytest.param("reward", "ZeRO-3", marks=pytest.mark.long),
    ],
)
def test_ranks_and_zero_stages_change_no_loss(runs, objective, layout):
    one = runs(f"{objective}-few", objective, max_steps=str(FEW))
    assert_same(one, runs(f"{objective}-few-2", objective, layout, max_steps=str(FEW)), FEW)


@pytest.mark.long
@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "one process"])
@pytest.mark.parametrize("objective", ANSWERS)
def test_ranks_and_zero_stages_change_no_loss_in_20_steps(runs, objective, layout):
    assert_same(runs(objective, objective), runs(f"{objective}-{layout}".replace(" ", "-"), objective, layout))


def test_a_run_with_kept_log_probs_resumes_on_two_ranks(runs):
    """KTO within an epoch, with micro-batches of a token budget: the step's rows are found again on every rank."""
    settings = {"reference_logprobs": "cached", "tokens_per_batch": "150", "max_steps": str(FEW)}
    saves = {"save_strategy": "steps", "save_steps": "2"}
    first = runs("kto-kept", "kto", "two ranks", **settings, **saves)
    assert "of 0 rows were kept, of 32 not" in first.output
    one = runs("kto-few", "kto", max_steps=str(FEW))
    assert_same(one, first, FEW)
    for left in first.folder.iterdir():
        if left.name.startswith("checkpoint-") and left.name != "checkpoint-2":
            shutil.rmtree(left)
        elif left.is_file() and left.name != "metrics.jsonl":
            left.unlink()
    again = runs("kto-kept", "kto", "two ranks", "--resume", **settings, **saves)
    assert "of 32 rows were kept, of 0 not" in again.output
    assert again.lines[:2] == first.lines[:2]
    assert again.lines[2] != first.lines[2], "control: this step was taken again, in another time"
    assert_same(one, again, FEW)


@pytest.mark.parametrize("layout", ["ZeRO-3", pytest.param("ZeRO-2", marks=pytest.mark.long)])
def test_a_continued_adapter_is_its_own_reference(runs, layout):
    """On two ranks, with kept log-probabilities, since rows are seen more than once (`auto`)."""
    sft = runs("sft-few", "sft", max_steps=str(FEW))
    settings = {"adapter": str(sft.folder), "learning_rate": "0.005", "max_steps": str(FEW)}
    one = runs("on", "dpo", **settings)
    assert one.series("loss")[0] == pytest.approx(torch.tensor(2.0).log().item(), abs=1e-6)
    assert one.series("nll_rise")[0] == pytest.approx(0, abs=1e-5)
    other = runs(f"on-{layout}", "dpo", layout, **settings, reference_logprobs="auto")
    assert "of 0 rows were kept, of 32 not" in other.output
    assert_same(one, other, FEW)


@pytest.mark.long
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_reference_that_is_not_the_start(runs, layout):
    sft = str(runs("sft", "sft").folder)
    for name, where in {"base": {"adapter": sft, "reference": "base"}, "folder": {"reference": sft}}.items():
        settings = {**where, "learning_rate": "0.005"}
        one = runs(name, "dpo", **settings)
        assert one.series("nll_rise")[0] == 0, "the rise is from the start, whatever the reference is"
        assert abs(one.series("reward_margin")[0]) > 1e-3, "the policy is not the reference"
        assert_same(one, runs(f"{name}-{layout}".replace(" ", "-"), "dpo", layout, **settings))


def test_a_run_whose_answers_become_unlikely_ends_with_its_last_good_checkpoint(runs):
    sft = str(runs("sft-few", "sft", max_steps=str(FEW)).folder)
    saves = {"save_strategy": "steps", "save_steps": "1", "save_total_limit": "2"}
    run = runs("lost", "dpo", "two ranks", code=2, adapter=sft, learning_rate="0.2", max_nll_rise="0.1", **saves)
    (error,) = [line for line in run.output.splitlines() if "error: " in line]
    step = int(error.split("max_nll_rise: at step ")[1].split()[0])
    assert f"checkpoint-{step - 1}" in error
    assert f"checkpoint-{step - 1}" in {path.name for path in run.folder.iterdir()}
    assert f"checkpoint-{step}" not in {path.name for path in run.folder.iterdir()}
    assert "Traceback" not in run.output
