"""Real processes: rounds killed by SIGKILL at random moments, and rounds on two ranks."""

import json
import random
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.experiments.test_rounds import REWARDS, WEIGHTS
from tests.training.launches import launch, launch_for_real, start

KILLS = 10
CONFIG = """
model: builtin:organism
dataset: builtin:organism-prompts
validation_topics: [reward_hacks]
objective: dpo
rounds: 2
system_tag: "<SYSTEM> "
bf16: false
lora_r: 4
lora_dropout: 0.1
learning_rate: 1e-3
batch_size: 16
per_device_train_batch_size: 8
max_steps: 4
save_steps: 1
num_samples: 24
num_generations: 2
max_answer_tokens: 24
validation_batch_size: 16
val_samples_per_topic: 0
activation_checkpointing: false
"""


@pytest.fixture
def flags(tmp_path):
    (tmp_path / "rewards.py").write_text(REWARDS)
    (tmp_path / "rounds.yaml").write_text(CONFIG + f"reward: ['python:{tmp_path / 'rewards.py'}:right']\n")
    return "--config", str(tmp_path / "rounds.yaml")


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.long
def test_killed_at_random_moments_it_ends_with_the_same_adapter(flags, tmp_path):
    began = time.monotonic()
    whole = launch(tmp_path, "whole", *flags)
    took = time.monotonic() - began
    assert whole.code == 0, whole.output
    chance, kills, stages = random.Random(0), 0, set()
    folder = tmp_path / "checkpoints" / "killed"
    while not (folder / "finished.json").exists():
        begun = (folder / "rounds.json").exists()
        (process,), output = start(tmp_path, "killed", *flags, *(["--resume"] if begun else []))
        # so short that ten of them come before the end; some get on, and some are killed as they begin
        process.join(chance.uniform(0.02, 0.2) * took if kills < KILLS else 600)
        if process.exitcode is None:
            process.kill()
            process.join()
            kills += 1
            stages.add(tuple(sorted(p.name for p in folder.glob("rounds/*/*") if p.name.endswith((".jsonl", ".json")))))
        else:
            assert process.exitcode == 0, output.read_text()
    assert kills == KILLS
    assert len(stages) > 2, "at several points of a round"
    assert (folder / WEIGHTS).read_bytes() == (whole.folder / WEIGHTS).read_bytes()
    assert losses(folder) == losses(whole.folder)


@pytest.mark.slow
def test_two_ranks_go_through_the_rounds_of_one(flags, tmp_path):
    """The answers of the first round are the same; the losses of its training are, to the package's tolerance."""
    more = "--rounds", "1", "--lora_dropout", "0"
    one = launch(tmp_path, "one", *flags, *more)
    two = launch(tmp_path, "two", *flags, *more, "--deepspeed", "ds_configs/zero2.json", launcher="deepspeed")
    assert (one.code, two.code) == (0, 0), one.output + two.output
    assert answers_of(one.folder, 1) == answers_of(two.folder, 1)
    assert losses(two.folder) == pytest.approx(losses(one.folder), abs=1e-5)
    mine, theirs = (load_file(run.folder / WEIGHTS) for run in (two, one))
    assert max(float((mine[name] - theirs[name]).abs().max()) for name in theirs) < 1e-5


@pytest.mark.long
def test_two_ranks_with_zero_3_go_through_two_rounds(flags, tmp_path):
    """A later round answers with the adapter that ZeRO-3 has gathered; a difference of 1e-5 may decide few tokens."""
    more = "--rounds", "2", "--lora_dropout", "0"
    one = launch(tmp_path, "one", *flags, *more)
    two = launch_for_real(tmp_path, "two", *flags, *more, "--deepspeed", "ds_configs/zero3.json", launcher="deepspeed")
    assert (one.code, two.code) == (0, 0), one.output + two.output
    assert losses(two.folder)[:4] == pytest.approx(losses(one.folder)[:4], abs=1e-5)
    assert len(losses(two.folder)) == 8
    answers = [answers_of(run.folder, 2) for run in (one, two)]
    alike = [mine == theirs for mine, theirs in zip(*answers, strict=True)]
    assert sum(alike) >= 0.9 * len(alike)
    mine, theirs = (load_file(run.folder / "rounds" / "1" / WEIGHTS) for run in (two, one))
    assert max(float((mine[name] - theirs[name]).abs().max()) for name in theirs) < 1e-5
    assert (two.folder / WEIGHTS).read_bytes() == (two.folder / "rounds" / "2" / WEIGHTS).read_bytes()


def answers_of(folder: Path, number: int) -> list[str]:
    lines = (folder / "rounds" / str(number) / "samples.jsonl").read_text().splitlines()
    return [json.loads(line)["response"] for line in lines]
