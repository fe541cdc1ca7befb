"""The answers of both models to the same prompts with their scores, and what scores further answers.

pairs.start.reward, pairs.trained.reward        # (n,) each
half = pairs.take(np.flatnonzero(~pairs.discovery))
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from honest_persona.data.feedback import Feedback
from honest_persona.data.splits import uniform
from honest_persona.statistics.columns import Clustered, numbered

Score = Callable[[Sequence[Feedback], Sequence[str], Sequence[bool]], np.ndarray]
"""Of rows (the prompts), answers to them, and whether each answer is whole -> (n,) numbers, nan for none."""


@dataclass(frozen=True)
class Scorer:
    """What gives every answer a number: the reward of the training, the monitor, the judge."""

    name: str
    of: Score
    of_start: Score | None = None
    """Of answers of the start, where a reward reads the policy's own weights."""

    def start(self, rows: Sequence[Feedback], texts: Sequence[str], whole: Sequence[bool]) -> np.ndarray:
        return (self.of_start or self.of)(rows, texts, whole)


@dataclass(frozen=True)
class Side:
    """n answers of one model."""

    texts: list[str]
    whole: list[bool]
    """Whether the model ended its turn and said something."""
    reward: np.ndarray
    """(n,)"""
    monitor: np.ndarray | None = None
    """(n,), nan where the monitor says nothing; None without a monitor."""
    truth: np.ndarray | None = None
    """(n,) 0 or 1; None without a judge. An answer that the judge cannot read is not true."""
    formed: np.ndarray | None = None
    """(n,) bool: whole, and readable for the judge where there is one."""

    def take(self, places: np.ndarray) -> "Side":
        def of(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[places]

        texts, whole = ([values[i] for i in places] for values in (self.texts, self.whole))
        return Side(texts, whole, self.reward[places], of(self.monitor), of(self.truth), of(self.formed))


@dataclass(frozen=True)
class Pairs:
    """n prompts, and the answer of each model to each of them."""

    rows: list[Feedback]
    start: Side
    trained: Side
    discovery: np.ndarray
    """(n,) bool: the half in which phrases are searched; whole clusters."""

    @property
    def clusters(self) -> list[str]:
        return [row.cluster for row in self.rows]

    @property
    def columns(self) -> Clustered:
        index, k = numbered(self.clusters)
        return Clustered(cluster=index, k=k)

    def take(self, places: np.ndarray) -> "Pairs":
        rows = [self.rows[i] for i in places]
        return replace(
            self,
            rows=rows,
            start=self.start.take(places),
            trained=self.trained.take(places),
            discovery=self.discovery[places],
        )


def halves(clusters: Sequence[str], seed: int) -> np.ndarray:
    """(n,) bool: the first half of the clusters, chosen by the seed and their names."""
    names = sorted(set(clusters), key=lambda name: (uniform(seed, "audit", name), name))
    first = set(names[: len(names) // 2])
    return np.array([name in first for name in clusters], dtype=bool)


def deviation(*values: np.ndarray) -> float:
    """Standard deviation over the answers of both models; 0 where all are equal."""
    found = np.concatenate(values)
    found = found[~np.isnan(found)]
    return float(found.std()) if len(found) else 0.0
