"""Several answers to each prompt of a dataset, sampled from a model or from an adapter as it was trained.

    sample_answers(config, Path("samples.jsonl"), Sampling(n=4))

An answer depends on the model, its prompt, its number and the seed alone. So a command that was stopped goes on where
it was, and asks nothing twice. Each line is a row of feedback without a label yet (data/sources/feedback.py).
"""

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

from honest_persona.base import json_text
from honest_persona.base.console import counted, say
from honest_persona.base.errors import UserError
from honest_persona.base.files import write_text
from honest_persona.base.grouping import grouped
from honest_persona.base.output import check_writable
from honest_persona.base.progress import Progress
from honest_persona.base.tensors import ids_key
from honest_persona.base.words import ACROSS, WITHIN
from honest_persona.config.keys import RunConfig
from honest_persona.data.feedback import Feedback
from honest_persona.data.feedback_load import load_feedback_parts
from honest_persona.evaluation.answers.jobs import Job, jobs_of
from honest_persona.evaluation.answers.settings import AnswerSettings
from honest_persona.evaluation.answers.writing import Written, write_answers
from honest_persona.labelling.answer_file import Line, answer_file, read_lines
from honest_persona.labelling.policy import Policy
from honest_persona.modeling.adapters.folder import identity_of
from honest_persona.modeling.modes import evaluating
from honest_persona.persona.batches import batches
from honest_persona.prompts.feedback_prepare import once

TRAIN, VALIDATION = "train", "validation"
_PARTS = {TRAIN: TRAIN, WITHIN: VALIDATION, ACROSS: VALIDATION}
"""The parts of a config's split that a training on it uses, and how a row says so."""


class Sampling(NamedTuple):
    n: int = 4
    """Answers per prompt."""
    temperature: float = 1.0
    max_new_tokens: int = 256
    seed: int = 0
    """Answer i of a prompt is drawn with seed + i."""


class _Asked(NamedTuple):
    job: Job
    number: int
    part: str

    @property
    def id(self) -> str:
        return f"{ids_key(self.job.prompt)[:16]}-{self.number}"


def sample_answers(
    config: RunConfig,
    output: Path,
    how: Sampling,
    part: str = "all",
    batch_size: int = 32,
    dtype: str | None = None,
    alpaca_eval: Path | None = None,
) -> None:
    """Write `how.n` answers to each distinct prompt of the config's dataset.

    Args:
        part: of the config's split, or `all`.
        batch_size: answers that are written together.
        alpaca_eval: where the answers go in the format of AlpacaEval, too.

    Raises:
        UserError: no such model or data, nothing to ask, or a file at `output` that another command began.
    """
    if how.n < 1 or how.max_new_tokens < 1 or not 0 <= how.temperature < math.inf:
        raise UserError("--n and --max_answer must be 1 or more, and --temperature a number from 0 on")
    if how.n > 1 and how.temperature == 0:
        raise UserError(f"--temperature: at 0 all {how.n} answers to a prompt are equal; give --n 1")
    if alpaca_eval is not None:
        _check_alpaca_eval(alpaca_eval, [output, Path(config.dataset)])
    policy = Policy.of(config, dtype)
    asked, left_out = _asked(config, policy, how, part)
    for line in left_out:
        say(line)
    if not asked:
        raise UserError(
            f"dataset: {config.dataset!r} has no prompt in part {part}; see `python -m honest_persona data`"
        )
    by = {
        "policy": policy.name,
        "weights": None if policy.folder is None else identity_of(policy.folder),
        "dtype": policy.number_format.name,
        **{name: getattr(how, name) for name in ("temperature", "max_new_tokens", "seed")},
    }
    # as JSON, in which a tuple is a list
    rows = {one.id: json_text.loads(json_text.dumps(_about(one, policy.name))) for one in asked}
    with answer_file(output, by, rows, "a sampling") as (append, done):
        if n_done := len(done):
            follow = f"{len(asked) - n_done:,} follow" if n_done < len(asked) else "nothing is left to do"
            say(f"{output} has {n_done:,} of {counted(len(asked), 'answer')}; {follow}")
        if n_done < len(asked):
            say(str(policy.number_format))
            for lines in _written(policy, asked, set(done), how, batch_size):
                append(lines)
    say(f"{counted(len(asked), 'answer')} to {counted(len(asked) // how.n, 'prompt')} in {output}")
    if alpaca_eval is not None:
        write_text(alpaca_eval, json_text.dumps(_alpaca_eval(output, policy.name), ensure_ascii=False, indent=1) + "\n")


def _asked(config: RunConfig, policy: Policy, how: Sampling, part: str) -> tuple[list[_Asked], list[str]]:
    """Each distinct prompt `how.n` times, and lines about what is left out."""
    _, parts = load_feedback_parts(config)
    rows = {name: once(getattr(parts.splits, name)) for name in _PARTS if part in ("all", name)}
    found = jobs_of(rows, policy.form, how.max_new_tokens, config.seq_len)
    seen: set[str] = set()
    asked: list[_Asked] = []
    for job in found.jobs:
        if job.key not in seen:
            asked += [_Asked(job, number, _PARTS[job.part]) for number in range(how.n)]
        seen.add(job.key)
    lines = []
    if found.too_long:
        lines.append(
            f"left out are {counted(sum(found.too_long.values()), 'prompt')}: too long for seq_len {config.seq_len}"
        )
    if found.not_shown:
        n = counted(sum(found.not_shown.values()), "prompt")
        lines.append(f"left out are {n}, which the chat template cannot show; first: {found.why_not_shown}")
    return asked, lines


def _written(
    policy: Policy, asked: Sequence[_Asked], done: Set[str], how: Sampling, batch_size: int
) -> Iterator[list[Line]]:
    """Answers to one prompt stand side by side, so that the prompt runs once for them.

    The batches are those of all answers, whatever is done already: a file that was continued is the same file.
    """
    settings = AnswerSettings(batch_size, how.max_new_tokens, temperature=how.temperature, seed=how.seed)
    with evaluating(policy.model), Progress("answers", len(asked), "answers") as progress:
        for batch in batches([one.job.place for one in asked], batch_size, 1)[0]:
            of = [asked[i] for i in batch if asked[i].id not in done]
            if of:
                jobs, seeds = [one.job for one in of], [how.seed + one.number for one in of]
                written = write_answers(policy.model, jobs, policy.form, settings, (policy.as_policy,), seeds)
                answers = [by_policy[policy.as_policy] for by_policy in written]
                yield [_line(one, answer, policy.name) for one, answer in zip(of, answers, strict=True)]
            progress.advance(len(batch))


def _line(one: _Asked, answer: Written, model: str) -> Line:
    return {**_about(one, model), "response": answer.text, "ended": answer.ended}


def _about(one: _Asked, model: str) -> dict[str, Any]:
    """What a line holds beside the answer; where it stands in the file otherwise, the line is of other data."""
    row: Feedback = one.job.row
    optional = {"tools": row.tools, "group": row.group, "about": row.about}
    return {
        "id": one.id,
        "prompt_id": row.prompt_id,
        "topic": row.topic,
        "split": one.part,
        "messages": row.prompt,
        "model": model,
        **{name: value for name, value in optional.items() if value is not None},
    }


def _check_alpaca_eval(path: Path, taken: Sequence[Path]) -> None:
    """Raises UserError: the place is taken by a file that is none of AlpacaEval's, or cannot be written to."""
    place = f"--alpaca_eval: {path}"
    if path.resolve() in {other.resolve() for other in taken}:
        raise UserError(f"{place} is another file of this command; name one of its own")
    if not path.absolute().parent.is_dir():
        raise UserError(f"{place} stands in a folder that does not exist; make it, or name another one")
    if path.exists():
        try:
            ours = all("generator" in answer for answer in json_text.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError):
            ours = False
        if not ours:
            raise UserError(f"{place} holds something else than AlpacaEval's answers; name another file, or remove it")
    check_writable(path.absolute().parent, place)


def _alpaca_eval(path: Path, generator: str) -> list[Mapping[str, Any]]:
    """The first answer to each prompt; AlpacaEval compares one answer per instruction."""
    firsts = grouped((line for _, line in read_lines(path)), lambda line: line["prompt_id"])
    return [
        {
            "instruction": lines[0]["messages"][-1]["content"],
            "output": lines[0]["response"],
            "generator": generator,
            "dataset": lines[0]["topic"],
        }
        for lines in firsts.values()
    ]
