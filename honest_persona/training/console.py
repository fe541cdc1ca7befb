"""What a training shows: its progress, and a line of figures per logging step.

This callback replaces transformers' own, whose bar fills a log file with carriage returns, and whose lines are
dictionaries three rows high. All figures are in metrics.jsonl.
"""

from collections.abc import Mapping
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_callback import PrinterCallback

from honest_persona.base.console import say, width
from honest_persona.base.progress import Progress, clock

_FIGURES = {
    "loss": "loss {:.3f}",
    "review_loss": "review {:.3f}",
    "flag_loss": "flag {:.3f}",
    "reward": "reward {:.3f}",
    "rewards/truth/mean": "true {:.3f}",
    "malformed": "malformed {:.3f}",
    "token_accuracy": "accuracy {:.3f}",
    "tokens_per_second": "{:,.0f} tokens/s",
    "learning_rate": "lr {:.2g}",
    "grad_norm": "gradient {:.2g}",
}
"""In the order of importance: the last ones are left out where the line is short."""


class TrainingConsole(TrainerCallback):
    """Rank 0 shows the figures. Call `close` after the training, which may have ended without `on_train_end`."""

    def __init__(self, trainer: Trainer) -> None:
        for other in (DEFAULT_PROGRESS_CALLBACK, PrinterCallback):
            trainer.remove_callback(other)
        self.progress: Progress | None = None

    def on_train_begin(self, args, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not args.disable_tqdm:
            self.progress = Progress("training", state.max_steps, "steps", state.global_step)
            self.progress.__enter__()

    def on_step_end(self, args, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.progress is not None:
            self.progress.advance()

    def on_log(self, args, state: TrainerState, control: TrainerControl, logs=None, **_: Any) -> None:
        if logs and "loss" in logs:
            say(figures_line(state.global_step, logs, width()))
        elif logs and "train_runtime" in logs:
            say(f"trained to step {state.global_step} in {clock(logs['train_runtime'])}, heavy logs included")

    def on_train_end(self, args, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.close()

    def close(self) -> None:
        if self.progress is not None:
            self.progress.__exit__(None, None, None)
            self.progress = None


def figures_line(step: int, logs: Mapping[str, float], columns: int) -> str:
    """`step 20: loss 0.512, review 0.601, ...`: as many figures as fit into the line; the loss always stands there."""
    line = f"step {step}:"
    for name, text in _FIGURES.items():
        if name in logs:
            more = f"{line}{'' if line.endswith(':') else ','} {text.format(float(logs[name]))}"
            line = more if len(more) <= columns or name == "loss" else line
    return line
