"""How far a run with rounds is: `rounds.json` in its folder, whole or not at all; and what it must share when resumed.

state = begun(config, folder, contents)         # UserError: another run's, with the key that differs
state = state.with_round(done)
write(folder, state)
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from honest_persona.base import json_text
from honest_persona.base.errors import UserError
from honest_persona.base.files import write_text
from honest_persona.config.keys import RunConfig
from honest_persona.config.parsing import show
from honest_persona.training.checkpoints import changed
from honest_persona.training.starting import ROUNDS_FILE

_FORMAT = 1
# fmt: off
_FREE = frozenset((
    "rounds", "resume", "run_name", "accept_weak_reward", "reward_gate", "max_nll_rise",
    "deepspeed", "per_device_train_batch_size", "gradient_accumulation_steps", "tokens_per_batch",
    "activation_checkpointing", "frozen_prefix", "padding_free", "prefix_cache", "prefix_cache_gb",
    "heavy_log_every", "first_heavy_log_step", "val_samples_per_topic", "max_new_tokens", "ood", "push_to_hub",
    "use_cpu", "reference_logprobs", "disable_tqdm", "project", "trackio_space_id",
))
# fmt: on
"""Keys that do not decide what is learned, or that a user changes to go on after a refusal."""
_FREE_BEGINNINGS = ("hub_", "save_", "logging_", "log_", "report_", "ddp_", "dataloader_num", "dataloader_p", "torch_")


@dataclass(frozen=True)
class Done:
    """A round that has ended."""

    round: int
    adapter: str
    """`identity_of` its folder."""
    steps: int
    gate: dict[str, Any]
    made: dict[str, Any]
    """Counts of its answers and rows, and its mean reward."""


@dataclass(frozen=True)
class State:
    config: dict[str, Any]
    """The resolved config, with its number format."""
    contents: dict[str, Any]
    """What the config names by path or name: prompts in their order, tokenizer, model, adapters, rewards."""
    rounds: tuple[Done, ...] = ()

    def with_round(self, done: Done) -> "State":
        return replace(self, rounds=(*self.rounds, done))

    @property
    def steps(self) -> int:
        return sum(done.steps for done in self.rounds)


def is_free(key: str) -> bool:
    """Whether a resumed run may have another value of this key."""
    return key in _FREE or key.startswith(_FREE_BEGINNINGS)


def write(folder: Path, state: State) -> None:
    write_text(folder / ROUNDS_FILE, json_text.dumps({"format": _FORMAT, **asdict(state)}, indent=1) + "\n")


def read(folder: Path) -> State | None:
    """None where no round was begun. Raises UserError: no state that this version writes."""
    path = folder / ROUNDS_FILE
    try:
        content = json_text.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != _FORMAT:
            raise ValueError("another format")
        TypeAdapter(State).validate_json(json_text.dumps(content), strict=True)  # a dataclass does not check types
        state = State(**{**content, "rounds": tuple(Done(**done) for done in content["rounds"])})
        if [done.round for done in state.rounds] != list(range(1, len(state.rounds) + 1)):
            raise ValueError("its rounds are not 1, 2, ...")
        return state
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        reason = error if first is None else f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise UserError(
            f"{path}: not the state of rounds ({reason}); take a sound copy, or start with another --run_name"
        ) from error


def check_same(folder: Path, state: State, config: RunConfig, contents: Mapping[str, Any]) -> None:
    """Raises UserError: the folder's run is another one; names the keys with both values."""
    before, now = _fixed({**_defaults(config), **state.config}), _fixed(config.as_dict())
    differing = changed(before, now) or changed(state.contents, contents)
    if differing:
        said = [f"{key}: {show(there, 40)} there, {show(here, 40)} here" for key, (there, here) in differing.items()]
        raise UserError(
            f"resume: {folder} belongs to another run: {'; '.join(said)}. Give the same settings and data, or start a "
            "new run with another --run_name"
        )


def _fixed(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in json_text.loads(json_text.dumps(values)).items() if not is_free(key)}


def _defaults(config: RunConfig) -> dict[str, Any]:
    """Of keys that an older version did not have."""
    return RunConfig(objective=config.objective).as_dict()
