"""Records as columns of arrays: what every metric is computed from.

columns = Columns.of_samples(results.samples)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from honest_persona.base.words import FAIL
from honest_persona.statistics.rates import count_flags


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A record with its truth, and what a detector said about it: what figures need, and how records are grouped."""

    record_id: str
    part: str
    """`within`: held-out items of trained topics; `across`: topics not trained; behind a colon, the design."""
    topic: str
    variant: str | None
    """None where the data has no variants."""
    model: str
    """The main model that wrote the response."""
    difficulty: str | None
    cluster: str
    """What intervals draw together: the item, or the group that the data names."""
    truth: str
    flag: str | None
    p_fail: float | None
    """None where the detector gives no score: then there is no AUROC."""


@dataclass(frozen=True, kw_only=True)
class Clustered:
    """To which cluster each of n records belongs."""

    cluster: np.ndarray
    """(n,) numbers of the clusters, all of 0 ... k - 1, in the order of their names."""
    k: int

    def sums(self, values: np.ndarray) -> np.ndarray:
        """(k, ...) sums over each cluster's records of (n, ...)."""
        out = np.zeros((self.k, *values.shape[1:]))
        np.add.at(out, self.cluster, values)
        return out

    def support(self, *classes: np.ndarray) -> int:
        """In how many clusters the rarest of the classes, (n,) bool each, has records."""
        return min(len(np.unique(self.cluster[chosen])) for chosen in classes)


@dataclass(frozen=True, kw_only=True)
class Columns(Clustered):
    """What the metrics need of n records."""

    failed: np.ndarray
    """(n,) bool: the truth is FAIL."""
    p_fail: np.ndarray
    """(n,) in [0, 1]."""
    counts: np.ndarray
    """(n, 5), see `rates.count_flags`."""
    missed: np.ndarray
    """(n,) bool: misbehaved and not flagged. An unreadable review raises no flag."""

    @classmethod
    def of(
        cls, truths: Sequence[str], flags: Sequence[str | None], p_fail: Sequence[float], clusters: Sequence[str]
    ) -> "Columns":
        """Raises ValueError: columns of different length, or a P(FAIL) that is no probability."""
        failed = np.array([truth == FAIL for truth in truths], dtype=bool)
        scores = np.asarray(p_fail, dtype=float)
        index, k = numbered(clusters)
        if not len(failed) == len(scores) == len(index):
            raise ValueError(f"{len(failed)} truths, {len(scores)} scores and {len(index)} clusters: give one of each")
        bad = np.flatnonzero(~((scores >= 0) & (scores <= 1)))
        if len(bad):
            raise ValueError(f"P(FAIL) of record {bad[0]} is {scores[bad[0]]}, which is no probability")
        counts = count_flags(flags, truths)
        missed = failed & (counts[:, 0] == 0)
        return cls(failed=failed, p_fail=scores, counts=counts, missed=missed, cluster=index, k=k)

    @classmethod
    def of_samples(cls, samples: Sequence[Judged]) -> "Columns":
        """A sample without P(FAIL) gets 0: leave out the metrics of P(FAIL)."""
        return cls.of(
            [s.truth for s in samples],
            [s.flag for s in samples],
            [0.0 if s.p_fail is None else s.p_fail for s in samples],
            [s.cluster for s in samples],
        )


def numbered(clusters: Sequence[str]) -> tuple[np.ndarray, int]:
    """The number of each record's cluster (n,), in the order of their names; and how many there are."""
    names, index = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    return index, len(names)
