"""How often a reward model in training gives the better one of two held-out answers more: for its heavy logs.

A pair is a line of answers.jsonl with `margin`, the difference of its two rewards, so that figures, files and the page
are those of answers. All ranks call this together.
"""

from array import array
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch

from honest_persona.base.collectives import rank_and_world
from honest_persona.base.console import Column, Table, show
from honest_persona.base.progress import Progress
from honest_persona.base.tensors import moved, pad_with_mask
from honest_persona.base.words import ALL
from honest_persona.data.feedback import Feedback
from honest_persona.evaluation.answers.jobs import Job, jobs_of
from honest_persona.evaluation.answers.samples import sample_of, write_answers_file
from honest_persona.evaluation.answers.settings import AnswerSettings
from honest_persona.evaluation.answers.suite import AnswerResults, summarize
from honest_persona.evaluation.sets import ANSWERS_FILE, NewSet
from honest_persona.evaluation.shares import by_batches, on_all_ranks
from honest_persona.evaluation.suite import Stopped
from honest_persona.modeling.adapters.head import Head, head_of
from honest_persona.modeling.adapters.reward_model import at_last
from honest_persona.modeling.adapters.tuning import Model, backbone_of
from honest_persona.modeling.modes import evaluating
from honest_persona.modeling.zero import gathered
from honest_persona.prompts.feedback import closing_tokens
from honest_persona.prompts.tokens import TokenFormat


def evaluate_pairs(
    model: Model,
    parts: Mapping[str, Sequence[Feedback]],
    form: TokenFormat,
    settings: AnswerSettings,
    into: NewSet,
    stop: Callable[[], bool] | None,
    what: str,
) -> AnswerResults:
    """The rewards of both answers of every pair of the parts. Raises Stopped: `stop` said so.

    Args:
        model: with a head (`add_head`).
        into, stop, what: as of `evaluate_answers`.
    """
    pairs = {part: [row for row in rows if row.kind == "pair"] for part, rows in parts.items()}
    found = jobs_of(pairs, form, 0, settings.seq_len)
    margins: dict[int, float] = {}
    with evaluating(model), gathered(model, settings.gather), Progress(what, len(found.jobs), "pairs") as progress:
        work = partial(_margins, model, head_of(model), found.jobs, form)
        places = [job.place for job in found.jobs]
        for batch in on_all_ranks(places, settings.batch_size, partial(by_batches, work)):
            margins |= batch
            progress.advance(len(batch))
            if stop and stop():
                raise Stopped
    samples = [sample_of(job.row, job.part, "trained", margin=margins[i]) for i, job in enumerate(found.jobs)]
    rows = summarize(samples)
    if rank_and_world()[0] == 0:
        write_answers_file(samples, into.folder / ANSWERS_FILE, into.id)
    return AnswerResults(rows, samples, None, found.too_long, found.not_shown, found.why_not_shown)


@torch.no_grad()
def _margins(model: Model, head: Head, jobs: Sequence[Job], form: TokenFormat, batch: Sequence[int]) -> list[float]:
    closing = closing_tokens(form)
    answers = [(jobs[i].prompt, jobs[i].chosen) for i in batch] + [(jobs[i].prompt, jobs[i].rejected) for i in batch]
    rows = [[*prompt, *(answer or array("i")), *closing] for prompt, answer in answers]
    ids, mask = (moved(found, model.device) for found in pad_with_mask(rows, form.pad_id, "right"))
    with head.reading(lambda states: at_last(states, mask)):
        backbone_of(model)(input_ids=ids, attention_mask=mask, use_cache=False)
    chosen, rejected = head.taken().chunk(2)
    return (chosen - rejected).tolist()


def print_pairs(results: AnswerResults, title: str) -> None:
    """Print accuracy and margin of each part and topic."""
    headings = ("pairs", "accuracy", "95 %", "margin")
    note = (
        "accuracy: share of the held-out pairs whose chosen answer has the higher reward (before training all rewards "
        "are 0); intervals by group"
    )
    table = Table(title, [Column("topic", "name"), *(Column(heading) for heading in headings)], note)
    for row in results.rows:
        interval = row.intervals["preference_accuracy"]
        low_high = "-" if interval is None else f"{interval[0]:.2f}-{interval[1]:.2f}"
        accuracy, margin = row.rates["preference_accuracy"], row.rates["margin"]
        figures = ["-" if value is None else f"{value:.3f}" for value in (accuracy, margin)]
        name = row.part if row.topic == ALL else f"{row.part}: {row.topic}"
        table.add(name, str(row.n), figures[0], low_high, figures[1])
    show(table)
