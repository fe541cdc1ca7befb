"""What a training shows: a bar that counts steps, lines of figures that fit above it, nothing of transformers' own."""

from types import SimpleNamespace

import pytest
from transformers import TrainerState
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from honest_persona.base import progress
from honest_persona.training.console import TrainingConsole, figures_line

LOGS = {
    "loss": 0.51234,
    "grad_norm": 0.5,
    "learning_rate": 2e-3,
    "review_loss": 0.6,
    "flag_loss": 0.25,
    "token_accuracy": 0.875,
    "tokens_per_second": 12345.6,
    "computed_tokens_per_second": 9000.0,
    "epoch": 0.5,
}


@pytest.fixture
def console():
    removed = []
    made = TrainingConsole(SimpleNamespace(remove_callback=removed.append))
    assert {ProgressCallback, PrinterCallback} <= set(removed)
    return made


def run(console, terminal, disable_tqdm=False, ends=True):
    """Steps 3 and 4 of four, resumed at 2."""
    args, state = SimpleNamespace(disable_tqdm=disable_tqdm), TrainerState(max_steps=4, global_step=2)
    with terminal:
        console.on_train_begin(args, state, None)
        for _ in range(2):
            state.global_step += 1
            console.on_step_end(args, state, None)
            console.on_log(args, state, None, logs=LOGS)
        if ends:
            console.on_log(args, state, None, logs={"train_runtime": 75.0, "train_loss": 0.5})
            console.on_train_end(args, state, None)
        else:
            console.close()


@pytest.mark.parametrize("ends", [True, False])
def test_lines_above_a_bar_that_counts_the_steps(console, terminal, monkeypatch, ends):
    monkeypatch.setattr(progress, "_SHORT_S", 0)
    run(console, terminal, ends=ends)
    *lines, bar = terminal.screen.splitlines()
    assert [line[:21] for line in lines] == [
        "step 3: loss 0.512, r",
        "step 4: loss 0.512, r",
        *["trained to step 4 in "] * ends,
    ]
    assert bar.startswith("training       100%")
    assert "4/4 steps" in bar
    assert "\r" not in terminal.stdout.getvalue()


def test_no_bar_where_it_is_not_wanted(console, terminal, monkeypatch):
    monkeypatch.setattr(progress, "_SHORT_S", 0)
    run(console, terminal, disable_tqdm=True)
    assert terminal.stderr.getvalue() == ""
    assert len(terminal.screen.splitlines()) == 3


def test_a_line_has_the_figures_that_there_is_room_for():
    wide = "step 20: loss 0.512, review 0.600, flag 0.250, accuracy 0.875, 12,346 tokens/s, lr 0.002, gradient 0.5"
    assert figures_line(20, LOGS, 140) == wide
    assert figures_line(20, LOGS, 80) == wide[:78]
    assert figures_line(20, {"loss": 1.0}, 10) == "step 20: loss 1.000"


def test_a_training_by_a_reward_shows_it_first():
    logs = {
        "loss": 0.01,
        "reward": 0.5,
        "rewards/truth/mean": 0.25,
        "malformed": 0.125,
        "kl": 0.3,
        "learning_rate": 1e-3,
    }
    assert figures_line(3, logs, 200) == "step 3: loss 0.010, reward 0.500, true 0.250, malformed 0.125, lr 0.001"
