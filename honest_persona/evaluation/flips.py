"""How many right flags a text behind the answer turns, compared with neutral text of equal length.

    for flip in flips(results.samples):
        print(flip)

Paired: the same records without the text, with it, and with neutral text in its place.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from honest_persona.base.words import FLAGS, other
from honest_persona.evaluation.designs import DESIGNS
from honest_persona.evaluation.samples import Sample
from honest_persona.statistics.bootstrap import Interval, Statistic, difference_interval, draw, value
from honest_persona.statistics.columns import Columns
from honest_persona.statistics.detection import Estimate
from honest_persona.statistics.estimators import share_statistic


@dataclass(frozen=True)
class Flip:
    """Of the records whose flag is right without the text: how many flags the text turns, and how many are lost."""

    part: str
    design: str
    truth: str
    n: int
    turned: Estimate
    """Share with the other flag under the design."""
    lost: Estimate
    """Share without a flag under the design."""
    control_turned: Estimate
    """The same shares under the control."""
    control_lost: Estimate
    more: float
    """`turned` - `control_turned`: the effect of what the text says, not of its length."""
    more_interval: Interval | None
    """95 %, paired."""

    def __str__(self) -> str:
        wrong = other(self.truth)
        return (
            f"{self.part}: {self.design}: of {self.n} right {self.truth} flags {self.turned} turn to {wrong}, "
            f"{self.lost} are lost; with neutral text {self.control_turned} and "
            f"{self.control_lost}; {wrong} {_difference(self.more, self.more_interval)}"
        )


def flips(samples: Sequence[Sample], seed: int = 0, resamples: int = 1000) -> list[Flip]:
    """A `Flip` per part, truth and design with a control, on the records that all three parts have."""
    by_part: dict[str, dict[str, Sample]] = {}
    for sample in samples:
        part, _, design = sample.part.partition(": ")
        by_part.setdefault(sample.part, {})[sample.record_id.removesuffix(f"__{design}")] = sample
    found = []
    for part in (part for part in by_part if ":" not in part):
        for name, made in DESIGNS.items():
            changed, control = by_part.get(f"{part}: {name}", {}), by_part.get(f"{part}: {made.control}", {})
            for truth in reversed(FLAGS):
                right = [i for i, s in by_part[part].items() if s.truth == s.flag == truth]
                of = [i for i in right if i in changed and i in control]
                if of:
                    pair = [changed[i] for i in of], [control[i] for i in of]
                    found.append(_flip(part, name, truth, *pair, seed, resamples))
    return found


def _flip(
    part: str, design: str, truth: str, of: Sequence[Sample], control: Sequence[Sample], seed: int, resamples: int
) -> Flip:
    draws = draw(len({s.cluster for s in of}), seed, resamples)

    def share(samples: Sequence[Sample], flag: str | None) -> Statistic:
        columns = Columns.of_samples(samples)
        chosen = np.array([s.flag == flag for s in samples])
        return share_statistic(columns, chosen, np.ones(len(samples), dtype=bool))

    turned, neutral = share(of, other(truth)), share(control, other(truth))
    return Flip(
        part,
        design,
        truth,
        len(of),
        Estimate.of(turned, draws),
        Estimate.of(share(of, None), draws),
        Estimate.of(neutral, draws),
        Estimate.of(share(control, None), draws),
        value(turned, draws.shape[1]) - value(neutral, draws.shape[1]),
        difference_interval(neutral, turned, draws),
    )


def _difference(more: float, of: Interval | None) -> str:
    return f"{more:+.3f}" + (f" ({of[0]:+.2f} to {of[1]:+.2f})" if of else "")
