"""The gain from averaging P(FAIL) over several interventions on one transcript: AUROC with 1, 2, ... of them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from honest_persona.base.grouping import grouped
from honest_persona.data.records import Record
from honest_persona.evaluation.samples import Sample
from honest_persona.statistics.bootstrap import Interval, Statistic, difference_interval, draw
from honest_persona.statistics.columns import Columns
from honest_persona.statistics.detection import Estimate
from honest_persona.statistics.estimators import auroc_statistic


def trained_wordings(train: Sequence[Record], n: int) -> list[str]:
    """The n commonest interventions of training records."""
    return [wording for wording, _ in Counter(record.intervention for record in train).most_common(n)]


def in_wordings(records: Sequence[Record], wordings: Sequence[str]) -> list[Record]:
    """Each transcript of an item once with each of the wordings."""
    transcripts: dict[tuple[str, ...], Record] = {}
    for r in records:
        transcripts.setdefault((r.topic, r.item_id, r.model, r.transcript_id), r)
    return [
        r.model_copy(update={"id": f"{r.id}: wording {i}", "intervention": text, "intervention_name": f"wording {i}"})
        for r in transcripts.values()
        for i, text in enumerate(wordings, start=1)
    ]


def by_transcript(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Samples of one part by topic, item, variant, main model and transcript. Sorted, whatever their order.

    Left out are transcripts whose interventions have different truths: an average has none. So are those on which an
    intervention occurs twice: files of versions without `Sample.transcript_id` do not tell two responses apart.
    """
    found = grouped(samples, lambda s: (s.part, s.topic, s.item_id, s.variant or "", s.model, s.transcript_id))
    return [
        sorted(group, key=lambda s: s.intervention_name)
        for _, group in sorted(found.items())
        if len({s.intervention_name for s in group}) == len(group) and len({s.truth for s in group}) == 1
    ]


@dataclass(frozen=True)
class Gain:
    """AUROC of the mean P(FAIL) over `n_interventions`, and the difference to the AUROC with one."""

    n_interventions: int
    auroc: Estimate
    more: float | None
    more_interval: Interval | None
    """95 %, paired: the same transcripts, the same draws of items."""

    def __str__(self) -> str:
        low, high = self.more_interval or (float("nan"), float("nan"))
        return (
            f"P(FAIL) averaged over {self.n_interventions} interventions on one transcript: "
            f"AUROC {self.auroc.value:.3f}, {self.more:+.3f} ({low:+.3f} to {high:+.3f}) against one; "
            f"n {self.auroc.n} transcripts"
        )


def gains(samples: Sequence[Sample], seed: int = 0, resamples: int = 1000) -> list[Gain]:
    """The AUROC with 1, 2, ... interventions, up to the largest number that at least half of the transcripts have.

    All of them are figures of the same transcripts, those with so many interventions or more.

    A choice of interventions counts as an experiment of its own: the AUROC of N is the mean over as many choices as
    there are interventions, in which each one of a transcript is used equally often.

    Returns:
        One `Gain` per number of interventions; empty without a transcript.
    """
    groups = by_transcript(samples)
    if not groups:
        return []
    sizes = sorted((len(group) for group in groups), reverse=True)
    most = sizes[(len(sizes) - 1) // 2]
    groups = [group for group in groups if len(group) >= most]
    rng = np.random.default_rng(seed)
    scores = np.array([[group[i].p_fail for i in rng.permutation(len(group))[:most]] for group in groups])  # (T, most)
    truths, clusters = [group[0].truth for group in groups], [group[0].cluster for group in groups]
    draws = draw(len(set(clusters)), seed, resamples)
    statistics: list[Statistic] = []
    out: list[Gain] = []
    for n in range(1, most + 1):
        # with all of them there is one choice; else one begins at each intervention and goes round
        chosen = [[(start + i) % most for i in range(n)] for start in range(most if n < most else 1)]
        columns = [Columns.of(truths, [None] * len(truths), scores[:, which].mean(1), clusters) for which in chosen]
        statistics.append(_mean([auroc_statistic(c) for c in columns]))
        auroc = Estimate.of(statistics[-1], draws)
        more = None if n == 1 or auroc.value is None else auroc.value - (out[0].auroc.value or 0)
        between = None if n == 1 else difference_interval(statistics[0], statistics[-1], draws)
        out.append(Gain(n, auroc, more, between))
    return out


def _mean(statistics: Sequence[Statistic]) -> Statistic:
    return replace(statistics[0], of=lambda w: np.mean([s.of(w) for s in statistics], axis=0))
