"""Whether a run has ended, and with what: `finished.json` in its folder, written when the adapter is in place.

mark(folder, step, run)          # the last thing that a run does
at = ended_at(folder, checkpoint)
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from peft.utils import SAFETENSORS_WEIGHTS_NAME

from honest_persona.base import json_text
from honest_persona.base.console import say
from honest_persona.base.errors import UserError
from honest_persona.base.files import write_text
from honest_persona.modeling.adapters.folder import CARD_FILE
from honest_persona.training.checkpoints import Checkpoint, check_same_run

FINISHED = "finished.json"


class Finished(NamedTuple):
    """A run that has come to its end: its adapter and its last heavy log are there."""

    step: int
    run: dict[str, Any]
    """What must be the same in a run that goes on from here (identity.py)."""


def mark(folder: Path, step: int, run: Mapping[str, Any]) -> None:
    write_text(folder / FINISHED, json_text.dumps({"step": step, "run": dict(run)}, indent=1) + "\n")


def unmark(folder: Path) -> None:
    """Before the adapter is replaced, by that of a run which was made longer."""
    (folder / FINISHED).unlink(missing_ok=True)


def read(folder: Path, checkpoint: Checkpoint | None) -> Finished | None:
    """What the run ended with; None where it has not, or its adapter is gone.

    Args:
        checkpoint: its newest whole one. Older versions left no mark: there the run has ended where its adapter is that
            of the checkpoint, byte for byte.
    """
    weights = folder / SAFETENSORS_WEIGHTS_NAME
    if not (folder / CARD_FILE).is_file() or not weights.is_file():
        return None
    try:
        content = json_text.loads((folder / FINISHED).read_text(encoding="utf-8"))
        return Finished(content["step"], content["run"])
    except FileNotFoundError:
        pass
    if checkpoint is None or (checkpoint.folder / SAFETENSORS_WEIGHTS_NAME).read_bytes() != weights.read_bytes():
        return None
    return Finished(checkpoint.step, checkpoint.about["run"])


def nothing_to_do(folder: Path, checkpoint: Checkpoint | None, run: dict[str, Any], planned: int) -> bool:
    """Whether a resumed run has ended; says so, or what is left to do.

    Args:
        run: what must be the same in it, as far as it is known before the base model is loaded.
        planned: steps.

    Raises:
        UserError: it has ended as another run; or it is to be longer now, and kept no checkpoint.
    """
    ended = read(folder, checkpoint)
    if ended is not None:
        check_same_run(Checkpoint(ended.step, folder, {"run": ended.run}), {**ended.run, **run})
        if ended.step >= planned:
            say(
                f"resume: {folder} is finished, nothing to do: it ended at step {ended.step}, and {planned} are planned"
            )
            return True
        if checkpoint is None:
            raise UserError(
                f"resume: {folder} ended at step {ended.step} and kept no whole checkpoint to go on from to step "
                f"{planned}; start from its weights, with --adapter {folder} and another --run_name"
            )
        say(
            f"resume: {folder} had ended at step {ended.step} and goes on to step {planned}: from here on the learning "
            f"rate is that of a run of {planned} steps, and at the end the adapter is replaced"
        )
    elif checkpoint is not None and checkpoint.step >= planned:
        say(f"resume: step {checkpoint.step} of {planned}: nothing is left to train, but heavy log and adapter to make")
    return False
