"""A run with `rounds: N`: the policy answers, its answers are rewarded, it is trained on them, and the result answers.

    train_rounds(config)                # config.rounds, config.reward; docs/rounds.md

Each round has a folder in the run's: `rounds/1/` holds the gate, answers, scores, rows, and a training like any other.
`rounds.json` says which rounds have ended; everything else is seen from the files, and goes on where it was stopped.

Without a launcher all is done in this process. Under one, the first rank answers and labels, and all ranks train, each
in processes of their own: memory is given back, and no state of DeepSpeed or torch.distributed is left to a next round.
"""

import gc
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from honest_persona.base.collectives import from_rank_0, held_by_all, on_rank_0
from honest_persona.base.console import counted, hand_out, say
from honest_persona.base.errors import UserError
from honest_persona.base.files import write_text
from honest_persona.base.interrupts import if_interrupted
from honest_persona.base.number_format import fastest_format
from honest_persona.base.ranks import is_launched, on_first_machine, rank, world_size
from honest_persona.config.keys import CHECKPOINTS_DIR, RunConfig
from honest_persona.data.feedback_load import load_feedback_parts
from honest_persona.evaluation.answers.judges import judge_of
from honest_persona.experiments.own_process import ALONE, free_port, in_own_process, joined_at, ranks_together
from honest_persona.experiments.round_result import place_result, write_metrics
from honest_persona.experiments.round_stages import (
    made_of,
    make_rows,
    of_training,
    prompt_texts,
    prompts_file,
    round_folder,
)
from honest_persona.experiments.round_state import Done, State, check_same, read, write
from honest_persona.modeling.adapters.folder import CARD_FILE, identity_of
from honest_persona.modeling.load import check_loadable, load_skeleton
from honest_persona.modeling.quantized import check_trainable
from honest_persona.modeling.sparse.weights import fingerprint_in_files
from honest_persona.modeling.token_format import token_format
from honest_persona.training import finished
from honest_persona.training.checkpoints import checkpoints
from honest_persona.training.continued import check_continued
from honest_persona.training.identity import tokenizer_hash
from honest_persona.training.launch import on_its_base, train
from honest_persona.training.reference import reference_identity
from honest_persona.training.rewarded import reward_identity, rewards_of, tell_reading
from honest_persona.training.starting import ROUNDS_FILE
from honest_persona.training.trackers import finish_trackers


def train_rounds(config: RunConfig, root: Path = Path(CHECKPOINTS_DIR)) -> Path:
    """Go through the rounds that have not ended; returns the run's folder. Every rank of a launcher calls this.

    Raises:
        UserError: bad data, model or config; the folder holds another run; a reward that does not pass its gate; a
            round without rows to train on. Rounds that have ended stay.
    """
    folder = root / config.run_name
    if on_first_machine():
        _check_there(folder, config.resume)
    texts, contents = _checked(config)
    os.environ.setdefault("WANDB_RUN_GROUP", config.run_name)  # each round is a run of its tracker
    with (
        ranks_together(),
        if_interrupted(f"the run is in {folder}; continue with --resume"),
        held_by_all(folder, "a training", "choose another --run_name"),
    ):
        config, state = on_rank_0(lambda: _begun(config, folder, texts, contents))
        n_done, n = len(state.rounds), config.rounds or 0
        if _has_ended(folder, state, n):
            say(f"resume: {folder} is finished, nothing to do: {n_done} of {counted(n, 'round')}")
            return folder
        for number in range(n_done + 1, n + 1):
            say(f"round {number} of {n}")
            state = _run(config, folder, number, state)
        on_rank_0(lambda: place_result(folder, config, state))
    say(f"adapter of round {n} saved in {folder}")
    hand_out(f"next: python eval.py --adapter {folder}")  # a command to copy: not broken
    return folder


def _check_there(folder: Path, resume: bool) -> None:
    """A resume needs a run with rounds; a new run must not overwrite one."""
    begun = (folder / ROUNDS_FILE).exists()
    if resume and not begun:
        raise UserError(
            f"resume: {folder} holds no run with rounds; check run_name, start without --resume, or leave rounds out: "
            "then a run without them is resumed"
        )
    if not resume and (begun or checkpoints(folder) or (folder / CARD_FILE).exists()):
        raise UserError(
            f"run_name: {folder} already holds a run; continue it with --resume, choose another --run_name, or remove "
            "the folder"
        )


def _checked(config: RunConfig) -> tuple[str, dict[str, Any]]:
    """The prompts, and what a resumed run must share beside its keys. Raises UserError: all that can be known early."""
    based = on_its_base(config)[0]
    check_trainable(based.model, check_loadable(based.model, based.model_revision, based.bits), config.tuning)
    rewards_of(config)
    tell_reading(config)
    form = token_format(based)
    check_continued(config, form)
    config.examples_per_step(world_size())
    if (judge := None if config.judge is None else judge_of(config.judge)) is not None:
        views = load_feedback_parts(config)[1].views
        judge.check([*views.within.rows, *views.across.rows])
    texts = prompt_texts(config)
    skeleton = load_skeleton(based.model, based.model_revision)
    start = {} if config.adapter is None else {"adapter": identity_of(Path(config.adapter))}
    return texts, {
        "data": hashlib.sha256(texts.encode()).hexdigest(),
        "tokenizer": tokenizer_hash(form.tokenizer),
        "base model": fingerprint_in_files(based.model, based.model_revision, skeleton),
        **start,
        **reference_identity(config, form),
        **reward_identity(config),
    }


def _begun(config: RunConfig, folder: Path, texts: str, contents: dict[str, Any]) -> tuple[RunConfig, State]:
    """The config in its number format, and the state: a new one, or that of the run that is resumed."""
    _check_there(folder, config.resume)  # again: another process may have written to the folder
    state = read(folder)
    before = None if state is None else state.config
    if config.format_name == "auto":
        found = fastest_format()
        bf16 = found.name == "bfloat16" if before is None else before.get("bf16") is True
        reason = found.reason if before is None else "as the run began"
        say(f"number format {'bfloat16' if bf16 else 'float32'}: {reason} (bf16: auto)")
        config = config.in_format("bfloat16" if bf16 else "float32")
    if state is None:
        prompts_file(folder).parent.mkdir(parents=True, exist_ok=True)
        write_text(prompts_file(folder), texts)
        state = State(config.as_dict(), contents)
        write(folder, state)
        return config, state
    check_same(folder, state, config, contents)
    if not prompts_file(folder).is_file() or prompts_file(folder).read_bytes() != texts.encode():
        write_text(prompts_file(folder), texts)  # as they were: the state names their hash
    if state.rounds:
        last = state.rounds[-1]
        place = round_folder(folder, last.round)
        if not (place / CARD_FILE).is_file() or identity_of(place) != last.adapter:
            raise UserError(
                f"resume: the adapter in {place} is not the one that round {last.round} ended with; put that one back, "
                "or start a new run with another --run_name"
            )
    return config, state


def _has_ended(folder: Path, state: State, rounds: int) -> bool:
    """Whether nothing is left to do. Raises UserError: fewer rounds are wanted than have ended, and none is placed."""
    n_done = len(state.rounds)
    ended = finished.read(folder, None) if n_done else None
    if ended is not None and ended.run == {"rounds": n_done} and n_done >= rounds:
        return True
    if n_done > rounds:
        raise UserError(f"rounds: {n_done} rounds of {folder} have ended already; give --rounds {n_done} or more")
    return False


def _run(config: RunConfig, folder: Path, number: int, state: State) -> State:
    """One round; the state with it. All ranks call this."""
    place = round_folder(folder, number)
    try:
        on_rank_0(lambda: None if made_of(folder, number) else _alone(make_rows, config, folder, number))
        _train(config, folder, number)
    except UserError as error:
        kept = round_folder(folder, number - 1)
        ends = f" The adapter of round {number - 1} is whole in {kept}; to end with it: --rounds {number - 1} --resume"
        raise type(error)(f"round {number}: {error}.{ends if number > 1 else ''}".replace("..", ".")) from error
    return on_rank_0(lambda: _noted(folder, place, number, state))


def _alone(work: Callable[..., Any], *args: Any) -> None:
    """Here, or under a launcher in a process of its own without the other ranks."""
    if is_launched():
        in_own_process(ALONE, work, *args)
    else:
        work(*args)
        _give_back()


def _train(config: RunConfig, folder: Path, number: int) -> None:
    """The round's training, from where it was stopped; nothing where it has ended."""
    place = round_folder(folder, number)

    def found() -> tuple[bool, bool, int]:
        ended, begun = finished.read(place, None) is not None, bool(checkpoints(place))
        if not ended and not begun:
            (place / CARD_FILE).unlink(missing_ok=True)  # of a run that was killed while its adapter came into place
        return ended, begun, free_port()

    ended, begun, port = from_rank_0(found() if rank() == 0 else (False, False, 0))
    if ended:
        return
    training = of_training(config, folder, number).model_copy(update={"resume": begun})
    if is_launched():
        in_own_process(joined_at(port), train, training, folder=place)
    else:
        train(training, folder=place)
        finish_trackers()
        _give_back()


def _noted(folder: Path, place: Path, number: int, state: State) -> State:
    ended, made = finished.read(place, None), made_of(folder, number)
    assert ended is not None, "this round has ended"
    assert made is not None, "and was trained on rows"
    write_metrics(folder, number, state.steps)
    state = state.with_round(Done(number, identity_of(place), ended.step, made["gate"], made["made"]))
    write(folder, state)
    return state


def _give_back() -> None:
    """Memory of models that are gone."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
