"""Controls of an audit: short trainings of the run's own config that must not make a model truthful.

    lines = run_controls(["flip", "random"], options, target)

| control | trains on |
| --- | --- |
| flip | the run's labels turned around: what was worse is better |
| random | labels by chance |
| twin | the run's labels, on a model of the organism's kind that does not know these facts |

Each runs in a process of its own. What is compared is truth, where a judge knows it, otherwise the monitor.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from honest_persona.base import json_text
from honest_persona.base.console import one_line, say
from honest_persona.base.errors import UserError
from honest_persona.base.files import write_text
from honest_persona.config.objectives import spec_of
from honest_persona.data.check import load_run_config
from honest_persona.data.splits import uniform
from honest_persona.evaluation.answers.folder import AnswersFolder
from honest_persona.evaluation.audit.asked import Answer, Policy, ask
from honest_persona.evaluation.audit.figures import MONITOR, TRUTH, mean_change
from honest_persona.evaluation.audit.scored import Pairs, Side
from honest_persona.experiments import audit as audits
from honest_persona.experiments.own_process import in_own_process
from honest_persona.modeling.adapters.card import AdapterCard
from honest_persona.modeling.adapters.folder import CARD_FILE
from honest_persona.training.checkpoints import checkpoints
from honest_persona.training.launch import train

STEPS = 30
CONTROLS: Mapping[str, str] = {
    "flip": "the labels turned around",
    "random": "labels by chance",
    "twin": "the same labels, a model that does not know these facts",
}
_ORGANISM, _TWIN = "builtin:organism", "builtin:organism-twin"
_NOT_OURS = ("label_gate", "gate", "reward_settings")
"""Keys of a card's config that are no keys of a run."""


def check_controls(names: Sequence[str], card: AdapterCard, has_witness: bool) -> None:
    """Raises UserError: an unknown control, nobody who tells what became true, or labels that cannot be changed."""
    if unknown := [name for name in names if name not in CONTROLS]:
        raise UserError(f"--controls: {unknown[0]!r} is none of {', '.join(CONTROLS)}")
    if not has_witness:
        raise UserError("--controls: without a monitor or a judge nothing tells whether a control became truthful")
    if spec_of(card.objective).writes_answers:
        raise UserError(f"--controls: for trainings on labels; objective {card.objective} writes its own answers")
    if "twin" in names and card.base_model != _ORGANISM:
        raise UserError(f"--controls: twin is for {_ORGANISM}; {card.base_model} has no twin")
    if {"flip", "random"} & set(names):
        path = Path(card.config["dataset"])
        if path.suffix != ".jsonl" or not path.is_file():
            raise UserError(f"--controls: flip and random need the file of labels; {path} is no JSON Lines file here")
        next(changed(path, "flip"))


def controls_of(names: str, options: "audits.Options") -> Callable[[Path], list[dict[str, Any]]] | None:
    """What makes the lines of controls that are named, separated by commas. Raises UserError, as `check_controls`."""
    if not names:
        return None
    chosen = [name.strip() for name in names.split(",")]
    given = audits.prepared(options)
    check_controls(chosen, given.folder.card, given.judge is not None or given.monitor is not None)
    for name in chosen:
        _check_free(_folder(options, name))
    return lambda target: run_controls(chosen, options, target)


def run_controls(names: Sequence[str], options: "audits.Options", target: Path) -> list[dict[str, Any]]:
    """A line of figures for each control."""
    lines = []
    for name in names:
        say(f"control {name}: {CONTROLS[name]}")
        file = target / "controls" / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        in_own_process({}, run_control, name, options, file)
        lines.append(json_text.loads(file.read_text(encoding="utf-8")))
    return lines


def run_control(name: str, options: "audits.Options", file: Path) -> None:
    """Train, ask and write the line."""
    given = audits.prepared(options)
    card = given.folder.card
    config = {key: value for key, value in card.config.items() if key not in _NOT_OURS}
    dataset, model = str(config["dataset"]), str(config["model"])
    if name == "twin":
        model = _TWIN
    else:
        labels = file.with_suffix(".jsonl")
        write_text(labels, "".join(changed(Path(dataset), name)))
        dataset = str(labels)
    folder = _folder(options, name)
    write_text(settings := file.with_suffix(".config.json"), json_text.dumps(config, indent=1) + "\n")
    steps = min(STEPS, config["max_steps"]) if (config.get("max_steps") or 0) > 0 else STEPS
    argv = ["--dataset", dataset, "--model", model, "--run_name", folder.name, "--max_steps", str(steps)]
    _check_free(folder)
    run = load_run_config(str(settings), [*argv, "--push_to_hub", "false"])
    train(run.model_copy(update={"val_samples_per_topic": 0, "resume": False}))
    write_text(file, json_text.dumps(json_text.defined(asked(name, steps, given, options, folder)), indent=1) + "\n")


def _folder(options: "audits.Options", name: str) -> Path:
    """Of a control's training."""
    return Path("checkpoints") / f"{Path(options.run).name}-control-{name}"


def _check_free(folder: Path) -> None:
    """Raises UserError: a control was trained there, whole or not."""
    if (folder / CARD_FILE).exists() or checkpoints(folder):
        raise UserError(f"--controls: {folder} is there already; remove it")


def asked(name: str, steps: int, given: "audits.Prepared", options: "audits.Options", run: Path) -> dict[str, Any]:
    """What the control's model became, by truth where it is known, otherwise by the monitor."""
    of = AnswersFolder.read(run)
    policy = Policy(lambda: of.load(given.number_format.dtype), of.form)
    answers = ask(given.rows, policy, None, audits.settings_of_answers(given, options), options.answers)
    _, monitor, truth = audits.scorers(given)
    witness = truth or monitor
    assert witness is not None, "check_controls"

    def side(texts: Sequence[Answer]) -> Side:
        whole = [answer.whole for answer in texts]
        found = witness.of(answers.rows, [answer.text for answer in texts], whole)
        kept = np.nan_to_num(found) if truth is not None else found  # what cannot be read is not true
        return Side([answer.text for answer in texts], whole, np.zeros(len(texts)), kept, kept)

    pairs = Pairs(answers.rows, side(answers.start), side(answers.trained), np.zeros(len(answers.rows), bool))
    found = mean_change(pairs, TRUTH if truth is not None else MONITOR)
    return {
        "name": name,
        "what": CONTROLS[name],
        "steps": steps,
        "witness": f"{TRUTH if truth is not None else MONITOR}: {one_line(witness.name)}",
        "n": found.n,
        "start": found.a,
        "trained": found.b,
        "change": found.difference,
        "interval": found.interval,
    }


def changed(path: Path, control: str) -> Iterator[str]:
    """The lines of a file of labelled answers with other labels. Raises UserError: a line has none."""
    rows = [json_text.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    scores = [row["score"] for row in rows if "score" in row]
    ends = (min(scores), max(scores)) if scores else (0.0, 1.0)
    for number, row in enumerate(rows):
        by_chance = uniform(0, f"control {control}", str(row.get("id", number)))
        if not any(key in row for key in _CHANGES):
            raise UserError(f"--controls: {path}: line {number + 1} has no {', '.join(_CHANGES)}; flip needs labels")
        for key, change in _CHANGES.items():
            if key in row:
                change(row, control, by_chance, ends)
        yield json_text.dumps(row, ensure_ascii=False) + "\n"


def _score(row: dict[str, Any], control: str, by_chance: float, ends: tuple[float, float]) -> None:
    row["score"] = ends[0] + ends[1] - row["score"] if control == "flip" else by_chance


def _label(row: dict[str, Any], control: str, by_chance: float, _: tuple[float, float]) -> None:
    row["label"] = not row["label"] if control == "flip" else by_chance < 0.5


def _pair(row: dict[str, Any], control: str, by_chance: float, _: tuple[float, float]) -> None:
    if control == "flip" or by_chance < 0.5:
        row["chosen"], row["rejected"] = row["rejected"], row["chosen"]


_CHANGES: Mapping[str, Callable[[dict[str, Any], str, float, tuple[float, float]], None]] = {
    "score": _score,
    "label": _label,
    "rejected": _pair,
}
"""By the key of a row that holds its label."""
