"""What each objective trains on and with: a run is put together from its line of this table.

    register(Objective("smoothed", SmoothedTrainer, PersonaCollator.of), options_of("persona"))

The other half, by which a config is checked without importing a trainer, is in config/trainer_options.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from honest_persona.base.errors import UserError
from honest_persona.config import trainer_options
from honest_persona.config.keys import RunConfig
from honest_persona.config.trainer_options import TrainerOptions
from honest_persona.prompts.collator import PersonaCollator, SplitCollator
from honest_persona.prompts.prepare import Material, prepare
from honest_persona.prompts.tokens import TokenFormat
from honest_persona.training.resumable import ResumableRun
from honest_persona.training.supervised import PersonaTrainer

Collator = Callable[[TokenFormat], Callable[[list[Any]], Any]]
"""Token format -> what makes a batch of rows."""


@dataclass(frozen=True)
class Objective:
    name: str
    """The config's `objective`."""
    trainer: type[ResumableRun]
    """Made with the arguments of `ResumableRun` and with the values of `own_keys`; where rows are split, with
    `frozen=True` and `prefix_cache` too."""
    collator: Collator
    """Of whole rows."""
    split_collator: Collator | None = None
    """Of rows that are cut at their activation points; None for a loss on whole rows alone."""
    material: Callable[[RunConfig, TokenFormat], Material] = prepare
    """Reads and encodes the rows to train on, and the records of the heavy log."""
    own_keys: tuple[str, ...] = ()
    """Keys of the config that the loss has to itself. A resumed run must have the same values."""


_OBJECTIVES: dict[str, Objective] = {}


def register(objective: Objective, options: TrainerOptions | None = None) -> None:
    """Add a line to the table.

    Args:
        options: what a config with this objective may set of its trainer; None where trainer_options.py knows it.
    """
    if options is not None:
        trainer_options.register(objective.name, options)
    _OBJECTIVES[objective.name] = objective


def objective_of(name: str) -> Objective:
    """The line of an objective. Raises UserError: the objective is declared, and nothing trains it."""
    if name not in _OBJECTIVES:
        known = ", ".join(_OBJECTIVES)
        raise UserError(
            f"objective: {name} has no trainer; use {known}, or register a trainer for it (docs/extending.md)"
        )
    return _OBJECTIVES[name]


register(Objective("persona", PersonaTrainer, PersonaCollator.of, SplitCollator.of, own_keys=("flag_loss_multiplier",)))
