"""Which features changed from the start's answers to the trained model's: searched in one half, tested in the other.

tested = changes_of(start, trained, clusters, discovery)
[test for test in tested if test.is_change]
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from honest_persona.evaluation.audit.features import FIXED, Feature, closing, opening, phrase, refusals
from honest_persona.evaluation.audit.words import Phrase, holds, phrases_of, words_of
from honest_persona.statistics.bootstrap import Interval, draw, interval
from honest_persona.statistics.columns import Clustered, numbered
from honest_persona.statistics.estimators import mean_statistic

LONGEST_PHRASE, LONGEST_EDGE, LONGEST_EXTENDED = 4, 3, 20
MOST_PHRASES, MOST_EDGES = 20, 5
"""Phrases, and openings and closings each, that go from the search into the test."""
LEAST_SHARE, LEAST_DEVIATIONS, ALPHA = 0.1, 0.3, 0.05
"""A smaller difference is no change: of shares of the answers, and of counts in standard deviations."""
_NEARLY_ALWAYS = 0.8


@dataclass(frozen=True)
class Test:
    feature: Feature
    start: float
    """Mean in the second half; of a share of answers, that share."""
    trained: float
    interval: Interval | None
    """95 %, of the difference."""
    deviations: float
    """The difference over the standard deviation of both models' answers."""
    p: float
    """Corrected for the number of features that were tested (Holm 1979)."""

    @property
    def change(self) -> float:
        return self.trained - self.start

    @property
    def is_change(self) -> bool:
        """Whether an edit asks what it is worth. Fewer refusals are no gain of the surface: something is said there."""
        if self.p >= ALPHA or (self.feature.whole and self.change < 0):
            return False
        return abs(self.change) >= LEAST_SHARE if self.feature.is_share else abs(self.deviations) >= LEAST_DEVIATIONS


def changes_of(
    start: Sequence[str], trained: Sequence[str], clusters: Sequence[str], discovery: np.ndarray
) -> list[Test]:
    """Tests of all candidates, the largest change first.

    Args:
        start, trained: answers to the same n prompts.
        clusters: of the prompts.
        discovery: (n,) bool, the first half; whole clusters are in one half.
    """
    places = np.flatnonzero(discovery).tolist()
    a, b = ([texts[i] for i in places] for texts in (start, trained))
    features = [*FIXED.values(), refusals(b), *found_phrases(a, b)]
    rest = np.flatnonzero(~discovery).tolist()
    left, right = ([texts[i] for i in rest] for texts in (start, trained))
    index, k = numbered([clusters[i] for i in rest])
    columns = Clustered(cluster=index, k=k)
    values = [_values(feature, left, right) for feature in features]
    corrected = holm([_p(columns, after - before) for before, after in values])
    tests = [_test(f, *of, p, columns) for f, of, p in zip(features, values, corrected, strict=True)]
    return sorted(tests, key=lambda test: -abs(test.deviations))


def _values(feature: Feature, left: Sequence[str], right: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([feature.value(text) for text in left]), np.array([feature.value(text) for text in right])


def _test(feature: Feature, before: np.ndarray, after: np.ndarray, p: float, columns: Clustered) -> Test:
    sd = float(np.concatenate([before, after]).std())
    means = (float(before.mean()), float(after.mean())) if len(before) else (0.0, 0.0)
    statistic = mean_statistic(columns, after - before, np.ones(len(before)), is_share=False)
    deviations = (means[1] - means[0]) / sd if sd else 0.0
    return Test(feature, *means, interval(statistic, draw(columns.k)), deviations, p)


def _p(columns: Clustered, difference: np.ndarray) -> float:
    """Two-sided, of a mean of 0: Student's t on the sums of clusters. 1 where no value differs from 0."""
    if columns.k < 2 or not difference.any():
        return 1.0
    mean = difference.mean()
    off = columns.sums(difference - mean)
    error = np.sqrt(columns.k / (columns.k - 1) * (off**2).sum()) / len(difference)
    return float(2 * student.sf(abs(mean) / error, columns.k - 1)) if error > 0 else 0.0


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given (Holm 1979, Scand. J. Statist. 6:65)."""
    order = np.argsort(ps, kind="stable")
    out, largest = np.ones(len(ps)), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        out[i] = largest
    return out.tolist()


def found_phrases(start: Sequence[str], trained: Sequence[str]) -> list[Feature]:
    """Phrases, openings and closings whose share of the answers differs most, of the first half."""
    before, after = [words_of(text) for text in start], [words_of(text) for text in trained]
    n = max(1, len(start))
    texts = [*start, *trained]

    def most(of: Callable[[Sequence[str]], set[Phrase]], at_most: int) -> list[Phrase]:
        left, right = (Counter(p for words in side for p in of(words)) for side in (before, after))
        shares = {p: (right[p] - left[p]) / n for p in left.keys() | right.keys()}
        chosen = [p for p, share in shares.items() if abs(share) >= LEAST_SHARE]
        longest: list[Phrase] = []  # of phrases that always stand together
        for p in sorted(chosen, key=lambda p: (-len(p), p)):
            if not any(holds(q, p) and (left[p], right[p]) == (left[q], right[q]) for q in longest):
                longest.append(p)
        return sorted(longest, key=lambda p: (-abs(shares[p]), -len(p), p))[:at_most]

    def edge(last: bool) -> Callable[[Sequence[str]], set[Phrase]]:
        def of(words: Sequence[str]) -> set[Phrase]:
            sizes = range(1, min(LONGEST_EDGE, len(words)) + 1)
            return {tuple(words[-n:] if last else words[:n]) for n in sizes}

        return of

    inside = most(lambda words: phrases_of(words, LONGEST_PHRASE), MOST_PHRASES)
    inside = list(dict.fromkeys([*inside, *(extended(p, [*before, *after]) for p in inside)]))
    return [
        *(phrase(p, texts) for p in inside),
        *(opening(p, texts) for p in most(edge(last=False), MOST_EDGES)),
        *(closing(p, texts) for p in most(edge(last=True), MOST_EDGES)),
    ]


def extended(phrase: Phrase, texts: Sequence[Sequence[str]]) -> Phrase:
    """The phrase with the words that nearly always stand behind it, and in front of it."""
    with_it = [words for words in texts if holds(words, phrase)]
    while len(phrase) < LONGEST_EXTENDED:
        n = len(phrase)
        behind: Counter[Phrase] = Counter()
        before: Counter[Phrase] = Counter()
        for words in with_it:
            at = next(i for i in range(len(words) - n + 1) if tuple(words[i : i + n]) == phrase)
            if at + n < len(words):
                behind[(*phrase, words[at + n])] += 1
            if at:
                before[(words[at - 1], *phrase)] += 1
        best = max((*behind.most_common(1), *before.most_common(1)), key=lambda found: found[1], default=None)
        if best is None or best[1] < _NEARLY_ALWAYS * len(with_it):
            break
        phrase = best[0]
        with_it = [words for words in with_it if holds(words, phrase)]
    return phrase
