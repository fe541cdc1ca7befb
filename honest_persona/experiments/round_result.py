"""The folder of a run with rounds when it has ended: the last round's adapter where every run's stands, and one log."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from honest_persona.base import json_text
from honest_persona.base.errors import UserError
from honest_persona.base.files import moved_into, write_text
from honest_persona.base.manifest import MANIFEST
from honest_persona.config.keys import RunConfig
from honest_persona.evaluation.audit.run_reward import LABEL_GATE, LABELLED_BY, REWARD_SETTINGS, ROUND_GATES
from honest_persona.experiments.round_stages import round_folder
from honest_persona.experiments.round_state import State
from honest_persona.modeling.adapters.card import AdapterCard
from honest_persona.modeling.adapters.folder import CARD_FILE, is_loaded, seal_folder
from honest_persona.prompts.persona_token import ControlTokens
from honest_persona.training import finished

METRICS = "metrics.jsonl"
_OF_TRAINING = ("model", "model_revision", *(f"{name}_token_id" for name in ControlTokens._fields))
"""Keys of the card whose value the training found."""


def place_result(folder: Path, config: RunConfig, state: State) -> None:
    """Put the last round's adapter into the run's folder, and mark the run as ended.

    The card is that of the round's training, but its config is the run's, with rewards, rounds and gates.
    """
    place = round_folder(folder, state.rounds[-1].round)
    card = AdapterCard.load(place)
    finished.unmark(folder)
    (folder / MANIFEST).unlink(missing_ok=True)  # first: without it, half an adapter is not taken for a whole one
    for source in [*place.iterdir(), *(place / "additional_chat_templates").glob("*")]:
        name = source.relative_to(place).as_posix()
        if source.is_file() and is_loaded(name) and name != CARD_FILE:
            (folder / name).parent.mkdir(exist_ok=True)
            with moved_into(folder / name) as part:
                shutil.copyfile(source, part)
    replace(card, config=_config(config, card, state)).save(folder)
    seal_folder(folder)
    finished.mark(folder, state.steps, {"rounds": len(state.rounds)})


def _config(config: RunConfig, card: AdapterCard, state: State) -> dict[str, Any]:
    labelled = (card.config.get(LABEL_GATE) or {}).get(LABELLED_BY, {})
    return {
        **config.as_dict(),
        **{key: card.config[key] for key in _OF_TRAINING if key in card.config},
        "resume": False,
        "rounds": len(state.rounds),
        "gate": state.rounds[0].gate,
        ROUND_GATES: [done.gate for done in state.rounds],
        REWARD_SETTINGS: labelled.get("settings", {}),
    }


def write_metrics(folder: Path, number: int, steps_before: int) -> None:
    """Add a round's lines to the run's `metrics.jsonl`: `step` counts on over the rounds, `round` names the round."""
    path = folder / METRICS
    kept = [line for line in _lines(path) if line.get("round", 0) < number]
    new = [
        {**line, "step": steps_before + line["step"], "round": number}
        for line in _lines(round_folder(folder, number) / METRICS)
    ]
    write_text(path, "".join(json_text.dumps(json_text.defined(line)) + "\n" for line in [*kept, *new]))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.is_file():
        for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                line = json_text.loads(text, undefined=True)
            except ValueError:
                line = None
            if not isinstance(line, dict) or not isinstance(line.get("step"), int):
                raise UserError(f"{path}: line {number} is no line of a log; remove it, and --resume")
            yield line
