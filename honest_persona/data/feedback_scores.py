"""Scored answers for objectives that learn from the scores themselves: single ones, and whole groups of one prompt.

Labels count as scores of 1 and -1, and so do the two answers of a pair. `groups` gives each answer its advantage over
the whole group, before anything is cut or laid out: so neither micro-batches nor ranks nor answers that are too long
for a training change it.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from statistics import fmean, stdev

from honest_persona.base.console import counted
from honest_persona.base.errors import UserError
from honest_persona.base.grouping import grouped
from honest_persona.data.feedback import Feedback, FeedbackRows

NO_SCORE = "no score: neither a score, nor a label, nor a pair"
ALONE = "the only answer to its prompt: nothing to compare with"
NO_SPREAD = "all answers to its prompt have one score: no advantage"
GOOD, BAD = 1.0, -1.0
"""Scores of a label, and of a pair's two answers."""
_SPREAD = 1e-2
_MOST_OF_ONE = 0.95
_LARGE = 10.0


def advantages(scores: Sequence[float]) -> list[float]:
    """(s - mean) / (std + 0.01) over the answers to one prompt, with the n - 1 of a sample. Shao et al. 2024 (arXiv
    2402.03300), Sec. 4.1.2, with a term that keeps nearly equal scores from counting as much as others.

    Args:
        scores: at least two.
    """
    mean, std = fmean(scores), stdev(scores)
    return [(score - mean) / (std + _SPREAD) for score in scores]


def scores(rows: FeedbackRows, left_out: Counter[str]) -> Iterator[Feedback]:
    """A row of kind `score` for each answer."""
    for row in rows:
        yield from _scored(row, left_out)


def groups(rows: FeedbackRows, left_out: Counter[str]) -> Iterator[Feedback]:
    """The same with advantages; scores are compared with scores, and labels and pairs with labels and pairs.

    Prompts are in the order of their first rows, and their answers stand together.
    """
    names = zip(rows.values("prompt_id"), rows.values("kind"), strict=True)
    name_of = [(prompt, kind == "score") for prompt, kind in names]
    for places in grouped(range(len(rows)), name_of.__getitem__).values():
        group = list(chain.from_iterable(_scored(rows[place], left_out) for place in places))
        found = [row.scores[0] for row in group if row.scores is not None]
        if len(group) < 2:
            left_out[ALONE] += len(group)
        elif max(found) == min(found):
            left_out[NO_SPREAD] += len(group)
        else:
            for row, advantage in zip(group, advantages(found), strict=True):
                yield row.model_copy(update={"advantage": advantage})


def check_scores(found: Sequence[float], objective: str) -> str | None:
    """A warning where nearly all scores are one, or are large; None: they are not.

    Raises:
        UserError: all scores are the same.
    """
    most, n = Counter(found).most_common(1)[0] if found else (0.0, 0)
    if n and n == len(found):
        raise UserError(
            f"dataset: all {counted(n, 'answer')} to train on have the score {most:g}, and objective {objective} "
            "learns from the difference: add answers with other scores, or labels of both kinds; to learn from good "
            "answers alone, use objective sft"
        )
    if n > _MOST_OF_ONE * len(found):
        return (
            f"{n / len(found):.1%} of the answers to train on have the score {most:g}, so the others hardly count: "
            "leave some of these out"
        )
    if (largest := max(map(abs, found), default=0.0)) > _LARGE:
        return f"scores of up to {largest:g} in size are taken as they are: bring them to about -1 to 1"
    return None


def _scored(row: Feedback, left_out: Counter[str]) -> Iterator[Feedback]:
    if row.kind == "score":
        found = row.scores or ()
    elif row.kind == "label":
        found = (GOOD if row.label else BAD,)
    elif row.kind == "pair":
        found = GOOD, BAD
    else:
        left_out[NO_SCORE] += 1
        return
    for i, (answer, score) in enumerate(zip(row.answers, found, strict=True)):
        assert math.isfinite(score)
        row_id = row.id if len(found) == 1 else f"{row.id}#{i}"
        changed = {"id": row_id, "kind": "score", "answers": (answer,), "scores": (score,), "label": None}
        yield row.model_copy(update={**changed, "margin": None})
