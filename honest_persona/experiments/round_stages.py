"""What a round does before and in its training: the gate, answers, their rewards, rows.

    write_prompts(config, file)                     # once for all rounds
    make_rows(config, folder, number)               # gate/, samples.jsonl, scored.jsonl, rows.jsonl, round.json
    train(of_training(config, folder, number), folder=round_folder(folder, number))

Each goes on where it was stopped. `folder` is the run's; the files of a round stand in `rounds/<number>/`.
"""

import hashlib
from pathlib import Path
from typing import Any

from honest_persona.base import json_text
from honest_persona.base.console import counted, say
from honest_persona.base.errors import UserError
from honest_persona.base.files import write_text
from honest_persona.config.keys import RunConfig
from honest_persona.config.objective_spec import ROUND_KEYS
from honest_persona.config.objectives import spec_of
from honest_persona.data.feedback_load import limited, load_feedback_parts
from honest_persona.data.feedback_views import check_labels
from honest_persona.evaluation.answers.judgement import Judge
from honest_persona.evaluation.answers.judges import judge_of
from honest_persona.labelling.answer_file import read_lines
from honest_persona.labelling.gate import BLIND, NOT_ASKED, PASSED, WEAK, AllTrue, in_words, seal_gate
from honest_persona.labelling.label import Labelling, label_answers
from honest_persona.labelling.sample import TRAIN, VALIDATION, Sampling, sample_answers
from honest_persona.labelling.training_rows import rows_of_kind
from honest_persona.training.reward_gate import gate_figures, prompt_lines
from honest_persona.training.rewarded import rewards_of

PROMPTS, SAMPLES, SCORED, ROWS, MADE = "prompts.jsonl", "samples.jsonl", "scored.jsonl", "rows.jsonl", "round.json"
_MADE_OF = ("pairs", "labels", "responses")
"""Kinds of rows that are made of scored answers; an objective on another kind gets the scored answers as they are."""
_NEVER = 10**9


def round_folder(folder: Path, number: int) -> Path:
    return folder / "rounds" / str(number)


def prompts_file(folder: Path) -> Path:
    return folder / "rounds" / PROMPTS


def prompt_texts(config: RunConfig) -> str:
    """The prompts of a run's data as JSON lines: those to train on, and held-out ones, each once."""
    views = load_feedback_parts(config)[1].views
    train = limited(views.train.rows, config.num_samples, config.seed)
    lines = [*prompt_lines(train, TRAIN), *prompt_lines([*views.within.rows, *views.across.rows], VALIDATION)]
    return "".join(json_text.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def make_rows(config: RunConfig, folder: Path, number: int) -> None:
    """Let this round's policy answer, label the answers, and make the rows that the round trains on.

    Raises:
        UserError: the reward does not pass its gate, or the answers give no row to train on.
    """
    place = round_folder(folder, number)
    place.mkdir(parents=True, exist_ok=True)
    asked = _of_policy(config, folder, number)
    judge = None if config.judge is None else judge_of(config.judge)
    gate = _gate(asked, place, number, judge)
    say(in_words(gate, "reward"))
    samples, scored, rows = (place / name for name in (SAMPLES, SCORED, ROWS))
    n, temperature, longest = config.num_generations, config.temperature, config.max_answer_tokens
    assert n is not None, "a key with a default in rounds"
    assert temperature is not None, "and this"
    assert longest is not None, "and this"
    # numbers of their own in each round: a policy that is asked again with the same ones says much the same
    how = Sampling(n, temperature, longest, config.seed + (number - 1) * n)
    sample_answers(asked, samples, how, TRAIN, config.validation_batch_size, config.format_name)
    accept, reads = bool(config.accept_weak_reward), config.reward_reads or "base"
    label_answers(samples, scored, Labelling(rewards_of(asked), judge, accept, reads, gate=gate))
    lines, told = _rows(asked, scored)
    held_out = [line for _, line in read_lines(prompts_file(folder)) if line["split"] == VALIDATION]
    text = "".join(json_text.dumps(line, ensure_ascii=False) + "\n" for line in [*lines, *held_out])
    write_text(rows, text)
    seal_gate(scored, rows)
    made = {**_counts(scored), "rows": len(lines), "rows_sha256": _sha256(rows)}
    say(f"{counted(len(lines), 'row')} to train on in {rows}{told}; mean reward {made['reward']:.3f}")
    write_text(place / MADE, json_text.dumps({"gate": gate, "made": made}, indent=1) + "\n")


def made_of(folder: Path, number: int) -> dict[str, Any] | None:
    """What `make_rows` wrote; None where it has not ended. Raises UserError: the rows were changed since."""
    place = round_folder(folder, number)
    try:
        found: dict[str, Any] = json_text.loads((place / MADE).read_text(encoding="utf-8"))
        same = isinstance(found["gate"], dict) and found["made"]["rows_sha256"] == _sha256(place / ROWS)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{place / MADE}: not what a round writes ({error}); remove it to make the rows again"
        ) from error
    if not same:
        raise UserError(f"{place / ROWS} was changed since its round made it; remove {place / MADE} to make it again")
    return found


def of_training(config: RunConfig, folder: Path, number: int) -> RunConfig:
    """The config of the round's training, a run like any other in the round's folder."""
    place = round_folder(folder, number)
    reference = config.reference
    if reference == "start" and config.rounds_reference == "first":
        reference = config.adapter or "base"  # before the first round there is none, or the one that the run continues
    changes: dict[str, Any] = {
        **dict.fromkeys((*ROUND_KEYS, "rounds", "rounds_reference")),
        **_on(place / ROWS),
        "adapter": _adapter(config, folder, number),
        "reference": reference,
        "run_name": f"{config.run_name}-round-{number}",
        "trainer": {**config.trainer, "push_to_hub": False},
    }
    if number > 1 and config.first_heavy_log_step == 0:  # its first heavy log would be the last one of the round before
        changes["first_heavy_log_step"] = config.heavy_log_every or _NEVER
    return config.model_copy(update=changes)


def _of_policy(config: RunConfig, folder: Path, number: int) -> RunConfig:
    """The config by which this round's policy is asked."""
    return config.model_copy(update={**_on(prompts_file(folder)), "adapter": _adapter(config, folder, number)})


def _adapter(config: RunConfig, folder: Path, number: int) -> str | None:
    return config.adapter if number == 1 else str(round_folder(folder, number - 1))


def _on(dataset: Path) -> dict[str, Any]:
    """A file of this run's own, whose rows were chosen already."""
    return {
        "dataset": str(dataset),
        "columns": {},
        "flag_values": {},
        "data_model_source": "all",
        "train_topics": "all",
        "claude_frac": 1.0,
        "num_samples": None,
    }


def _gate(config: RunConfig, place: Path, number: int, judge: Judge | None) -> dict[str, Any]:
    """The gate's figures on this policy's answers. Raises UserError: the reward does not pass.

    In the first round the interval of the AUROC decides. Later policies err less, so that few of the held-out answers
    are false and intervals are wide: there the reward has passed, and is refused where the AUROC itself says otherwise.
    """
    if number == 1 or judge is None:
        return gate_figures(config, place, judge, refuses=True)
    anew = config.model_copy(update={"reward_gate": None})  # its figures are of another policy
    try:
        found = gate_figures(anew, place, judge, refuses=False)
    except AllTrue:
        return {"verdict": NOT_ASKED, "why": "all held-out answers of this round's policy are true"}
    if found["verdict"] in (PASSED, NOT_ASKED):
        return found
    auroc, told = found["auroc"][0], in_words(found, "reward")
    if auroc <= BLIND or (auroc < WEAK and not config.accept_weak_reward):
        remedy = "" if auroc <= BLIND else ", or set accept_weak_reward: true"
        raise UserError(
            f"gate: {told}, {found['n_false']:,} of them false. The reward passed before the first round, but does not "
            f"tell this policy's true answers from its false ones: take another reward in a new run{remedy}"
        )
    say(
        f"gate: {found['n_false']:,} of {counted(found['n'], 'held-out answer')} are false, too few for a narrow "
        "interval; nothing here speaks against the reward, which passed before the first round"
    )
    return found


def _rows(config: RunConfig, scored: Path) -> tuple[list[dict[str, Any]], str]:
    """The rows to train on, and what is told of them. Raises UserError: there are none, or all have one label."""
    kind = spec_of(config.objective).rows
    if kind not in _MADE_OF:
        return [line for _, line in read_lines(scored)], ""
    made = rows_of_kind(scored, kind, config)
    n = counted(sum(1 for _ in read_lines(scored)), "scored answer")
    if not made.lines:
        unit = kind.removesuffix("s")
        raise UserError(
            f"{n} in {scored} give no {unit} to train on ({made.reasons or 'no row'}). Raise temperature or "
            "num_generations, so that answers differ; lower min_margin; or take a reward that tells them apart"
        )
    if kind == "labels":
        try:
            warning = check_labels([line["label"] for line in made.lines], config.objective)
        except UserError as error:
            raise UserError(f"{n} in {scored}: {str(error).removeprefix('dataset: ')}") from error
        if warning:
            say(f"warning: {warning}")
    return made.lines, f" (gave none: {made.reasons})" if made.reasons else ""


def _counts(scored: Path) -> dict[str, Any]:
    lines = [line for _, line in read_lines(scored)]
    malformed = sum(not line["response"].strip() or line.get("ended", True) is False for line in lines)
    return {
        "prompts": len({line["prompt_id"] for line in lines}),
        "answers": len(lines),
        "reward": sum(line["score"] for line in lines) / len(lines),
        "malformed": malformed / len(lines),
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
