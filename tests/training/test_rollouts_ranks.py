"""Online RL through train.py: the same answers on two ranks, under ZeRO-2 and ZeRO-3, and resumed after a kill."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.training.launches import TINY, Run, launch

pytestmark = [pytest.mark.slow, pytest.mark.long]

LAYOUTS = {
    "one process": ("python", "null"),
    "two ranks": ("torchrun", "null"),
    "ZeRO-2": ("deepspeed", "ds_configs/zero2.json"),
    "ZeRO-3": ("deepspeed", "ds_configs/zero3.json"),
}
STEPS = 4
SETTINGS = {
    "model": "builtin:organism",
    "dataset": "builtin:organism-prompts",
    "validation_topics": "[reward_hacks]",
    "system_tag": '"<SYSTEM> "',
    "bf16": "false",
    "num_samples": "12",
    "batch_size": "32",
    "num_generations": "8",
    "per_device_train_batch_size": "8",
    "max_steps": str(STEPS),
    "learning_rate": "1e-3",
    "lr_scheduler_type": "constant",
    "warmup_steps": "0",
    "lora_r": "4",
    "max_answer_tokens": "40",
    "save_strategy": "steps",
    "save_steps": "2",
    "logging_steps": "1",
    "first_heavy_log_step": "9999",
    "val_samples_per_topic": "0",
    "validation_batch_size": "32",
    "judge": "organism",
}
REWARDS = '''
def right(conversations, rows):
    return [float(row["about"]["truth"] in said[-1]["content"]) for said, row in zip(conversations, rows)]


def of_few(conversations, rows):
    """Fails on one rank alone, where rows are not shared out evenly."""
    return right(conversations, rows) if rows[0]["topic"] == "influence_seeking" else [0.0]
'''


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Finished runs by objective and layout; each is made once."""
    folder, made = tmp_path_factory.mktemp("runs"), {}
    (folder / "rewards.py").write_text(REWARDS)
    (folder / "gate.json").write_text(json.dumps(GATE))

    def run(objective: str, layout: str, *flags: str, **settings: str) -> Run:
        key = objective, layout
        if key not in made or flags:
            made[key] = started(folder, objective, layout, *flags, **settings)
            assert made[key].code == 0, made[key].output[-3000:]
        return made[key]

    return run


GATE = {"verdict": "passed", "reward": "python:rewards.py:right", "auroc": [1.0, [0.9, 1.0]], "n": 99}
"""Figures that stand in for asking the gate in each of these runs; one test asks it."""


def started(folder: Path, objective: str, layout: str, *flags: str, **settings: str) -> Run:
    launcher, deepspeed = LAYOUTS[layout]
    given = {
        **SETTINGS,
        "objective": objective,
        "reward": "[python:rewards.py:right]",
        "reward_gate": "gate.json",
        "deepspeed": deepspeed,
        **settings,
    }
    words = [word for key, value in given.items() for word in (f"--{key}", value)]
    return launch(folder, f"{objective}-{layout}".replace(" ", "-"), *TINY, *words, *flags, launcher=launcher)


def answers(run: Run) -> list[dict]:
    lines = [json.loads(line) for line in (run.folder / "rollouts.jsonl").read_text().splitlines()]
    return sorted(lines, key=lambda line: (line["step"], line["prompt_id"]))


def by_step(lines: list[dict], step: int) -> list[tuple]:
    return sorted((line["prompt_id"], line["answer"], line["reward"]) for line in lines if line["step"] == step)


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "one process"])
@pytest.mark.parametrize("objective", ["grpo", "rloo"])
def test_ranks_and_zero_stages_write_the_same_answers_and_learn_the_same(runs, objective, layout):
    one, other = runs(objective, "one process"), runs(objective, layout)
    assert len(answers(one)) == len(answers(other)) == STEPS * 32
    assert by_step(answers(one), 1) == by_step(answers(other), 1), "from equal weights"
    # later ones may differ where two sums of floats fall on two sides of a random number
    for step in range(2, STEPS + 1):
        same = sum(a == b for a, b in zip(by_step(answers(one), step), by_step(answers(other), step), strict=True))
        assert same >= 28
    for key in ("reward", "grad_norm"):
        assert abs(one.series(key)[0] - other.series(key)[0]) <= 1e-4 * max(1, abs(one.series(key)[0])), key
    first = [[line["advantage"] for line in answers(run) if line["step"] == 1] for run in (one, other)]
    assert (torch.tensor(first[0]).sort().values - torch.tensor(first[1]).sort().values).abs().max() <= 1e-5
    a, b = one.adapter(), other.adapter()
    assert a.keys() == b.keys()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("objective", ["grpo", "rloo"])
def test_a_run_that_lost_its_last_steps_resumes_with_the_same_numbers(runs, objective, layout):
    first = runs(objective, layout)
    before, lines, weights = answers(first), first.lines, first.adapter()
    for left in first.folder.iterdir():
        if left.name.startswith("checkpoint-") and left.name != "checkpoint-2":
            shutil.rmtree(left)
        elif left.is_file() and left.suffix != ".jsonl":
            left.unlink()
    again = runs(objective, layout, "--resume")
    assert answers(again) == before
    keys = ("loss", "reward", "kl", "grad_norm")
    assert [[line[key] for key in keys] for line in again.lines] == [[line[key] for key in keys] for line in lines]
    found = again.adapter()
    assert all(torch.equal(found[name], weights[name]) for name in weights)


def test_the_verdict_is_asked_whole_on_every_rank_of_zero_3(runs, tmp_path):
    """The gate, and a reward that loads a model of its own where transformers would shard it."""
    words = {"reward": "[verdict]", "reward_gate": "null", "max_verdict_tokens": "64", "max_steps": "1"}
    run = started(tmp_path, "grpo", "ZeRO-3", **words)
    assert run.code == 0, run.output[-3000:]
    assert "reward: by verdict, AUROC 1.000" in run.output
    assert run.lines[0]["rewards/verdict/mean"] == pytest.approx(run.lines[0]["rewards/truth/mean"], abs=0.15)


def test_a_reward_that_fails_on_one_rank_ends_all(tmp_path):
    (tmp_path / "rewards.py").write_text(REWARDS)
    (tmp_path / "gate.json").write_text(json.dumps({**GATE, "reward": "python:rewards.py:of_few"}))
    run = started(tmp_path, "grpo", "two ranks", reward="[python:rewards.py:of_few]")
    assert run.code == 2
    assert "of_few: 1 numbers for 16 conversations" in run.output
    assert "Traceback" not in run.output
