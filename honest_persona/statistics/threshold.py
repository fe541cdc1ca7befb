"""The decision threshold on P(FAIL) for a wanted false positive rate, fixed on benign conversations.

    threshold = threshold_for([review.p_fail for review in persona.reviews(benign)], wanted_fpr=0.01)
    threshold.flags(p_fail)     # FAIL where P(FAIL) is above it
    threshold.note              # what so few conversations do not prove

A conversation is benign if the main persona had no hidden bias (variant A) and the truth is PASS, or if the user says
so.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from honest_persona.base.errors import UserError
from honest_persona.statistics.bootstrap import exact

_MANY = 0.2
"""A higher share of benign conversations scored as FAIL is worth a note, whatever rate is wanted."""


@dataclass(frozen=True)
class Threshold:
    """Flag what scores *above* `value`."""

    value: float
    wanted_fpr: float
    n: int
    """Benign conversations on which it was fixed."""
    n_clusters: int
    """Independent groups among them, the items; n where no items are named."""
    achieved_fpr: float
    """Share of the benign conversations above the threshold; never more than `wanted_fpr`."""
    interval: tuple[float, float]
    """95 %, of the false positive rate on new conversations of the same kind."""
    note: str = ""
    """What cannot be claimed, and what is odd about the scores; empty where there is nothing to say."""

    def flags(self, p_fail: Any) -> np.ndarray:
        """Bool, of the shape of `p_fail`."""
        return np.asarray(p_fail, dtype=float) > self.value

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Threshold":
        """The inverse of `asdict`, also after JSON; other keys of an adapter's card are ignored."""
        known = {field.name: content[field.name] for field in fields(cls)}
        return cls(**{**known, "interval": (known["interval"][0], known["interval"][1])})


def enough_for(wanted_fpr: float, n: int) -> bool:
    """Whether no flag among n would prove a rate of at most `wanted_fpr` at 95 % (the rule of three)."""
    return n >= 3 / wanted_fpr - 1e-9


def threshold_for(scores: Sequence[float], wanted_fpr: float, clusters: Sequence[str] | None = None) -> Threshold:
    """The lowest threshold that keeps the expected false positive rate on new conversations at `wanted_fpr` or below.

    With m independent benign scores and j of them above it, a new one is above it with probability (j + 1) / (m + 1)
    (the quantile of split conformal prediction), so j is the largest number with (j + 1) / (m + 1) <= wanted_fpr. Where
    m is too small for any, the threshold is the highest benign score, and the note says so. Equal scores are all above
    it or all not. The interval is Clopper and Pearson's; its upper end, the 97.5 % point of Beta(j + 1, m - j), is that
    of the true rate above an order statistic, so it holds although the threshold was chosen on the same scores.

    Args:
        scores: P(FAIL) of benign conversations.
        clusters: names; scores of one name count as one observation together.

    Raises:
        UserError: no scores, a score that is no probability, or a rate outside (0, 1).
    """
    values = np.sort(np.asarray(scores, dtype=float))[::-1]
    n = len(values)
    if not 0 < wanted_fpr < 1:
        raise UserError(f"the wanted false positive rate is {wanted_fpr}; give one between 0 and 1, such as 0.01")
    if not n:
        raise UserError("no benign conversation to fix a threshold on; give some (300 for a rate of 1 %)")
    if not np.all((values >= 0) & (values <= 1)):
        raise UserError("a score is no probability between 0 and 1: P(FAIL) is wanted")
    if clusters is not None and len(clusters) != n:
        raise UserError(f"{n} scores but {len(clusters)} clusters; name one for each score")
    m = n if clusters is None else len(set(clusters))
    allowed = max(0, math.floor(wanted_fpr * (m + 1) + 1e-9) - 1)  # of m
    value = float(values[math.floor(allowed / m * n + 1e-9)])
    achieved = float((values > value).mean())
    return Threshold(value, wanted_fpr, n, m, achieved, exact(achieved, m), _note(wanted_fpr, values, m, value))


def _note(wanted_fpr: float, scores: np.ndarray, m: int, value: float) -> str:
    n, alarms = len(scores), float((scores > 0.5).mean())
    told = f"{n} benign conversations" + ("" if m == n else f" of {m} items")
    unit = "conversations" if m == n else "items"
    notes = []
    if wanted_fpr * (m + 1) < 1 - 1e-9:
        notes.append(
            f"{told} cannot fix a threshold for a false positive rate of {wanted_fpr:g}: it is the highest benign "
            f"score, with an expected rate of {1 / (m + 1):.2g} or less; {math.ceil(1 / wanted_fpr - 1e-9) - 1} {unit} "
            "are the fewest that can"
        )
    if not enough_for(wanted_fpr, m):
        notes.append(
            f"{told} cannot show a false positive rate of {wanted_fpr:g} or less at 95 %: that takes "
            f"{math.ceil(3 / wanted_fpr - 1e-9)} {unit}, even with none flagged"
        )
    if alarms > _MANY:
        notes.append(
            f"{alarms:.0%} of {told} have P(FAIL) above 0.5: the adapter takes them for FAIL. Was it trained with this "
            "wording of the intervention, on such conversations?"
        )
    if value >= 1:
        notes.append("so many benign conversations have P(FAIL) = 1 that nothing can be flagged")
    return "; ".join(notes)
