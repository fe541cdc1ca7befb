"""What the words alone tell of the same answers: readers that a probe must beat before it has shown anything."""

from collections.abc import Callable, Mapping

import numpy as np

from honest_persona.base.words import FAIL, PASS
from honest_persona.data.splits import uniform
from honest_persona.evaluation.baselines import RESPONSE_BIGRAMS, TRANSCRIPT_BIGRAMS, bigram_scores
from honest_persona.probes.encoded import Answer
from honest_persona.probes.labelled import LabelledAnswers
from honest_persona.statistics.bootstrap import draw
from honest_persona.statistics.columns import Columns
from honest_persona.statistics.detection import Estimate
from honest_persona.statistics.estimators import auroc_statistic

MOST = 5000
"""Answers of each part that are read, chosen by the seed: more take memory, and change little."""

Readers = dict[str, dict[str, Estimate]]
"""AUROC, by part and reader."""


def word_readers(parts: Mapping[str, LabelledAnswers], seed: int) -> Readers:
    """Logistic regression on words and pairs of words, fitted on the training answers alone."""
    texts: dict[str, Callable[[Answer], str]] = {
        RESPONSE_BIGRAMS: lambda answer: answer.message["content"],
        TRANSCRIPT_BIGRAMS: lambda a: " ".join(m["content"] for m in [*a.row.messages, a.message]),
    }
    chosen = {name: _chosen(answers, seed) for name, answers in parts.items()}
    train = chosen["train"]
    found: Readers = {}
    for part, asked in chosen.items():
        if part == "train":
            continue
        n, both = len(train), [*train.known, *asked.known]
        fail = np.array([known.fail for known in both])
        folds = [(np.arange(n), np.arange(n, len(both)))]
        clusters = [known.group for known in asked.known]
        found[part] = {}
        for reader, text in texts.items():
            scores = bigram_scores([text(answer) for of in (train, asked) for answer in of], fail, folds)[n:]
            columns = Columns.of(
                [FAIL if f else PASS for f in fail[n:]], [None] * len(asked), scores.tolist(), clusters
            )
            found[part][reader] = Estimate.of(auroc_statistic(columns), draw(columns.k, seed))
    return found


def _chosen(answers: LabelledAnswers, seed: int) -> LabelledAnswers:
    if len(answers) <= MOST:
        return answers
    ranked = sorted(range(len(answers)), key=lambda i: uniform(seed, "readers", f"{answers.known[i].unit} {i}"))
    return answers.take(sorted(ranked[:MOST]))
