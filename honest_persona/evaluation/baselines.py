"""Baselines: detectors without the honest persona. A detector that does not beat them has shown nothing.

guesses = shortcuts(records, held_out_topics(records))    # name -> flag and P(FAIL) of every record
samples = guess_samples({"across": records}, guesses)     # for summarize(), compare() and the report
samples = shortcut_samples(records)                       # all shortcuts, with items and with topics held out

No shortcut guesses a record on which it was fitted, nor another record of the same cluster (item or group).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, LeaveOneGroupOut

from honest_persona.base.errors import UserError
from honest_persona.base.progress import followed
from honest_persona.base.words import FAIL, PASS, VARIANTS, Flag
from honest_persona.data.records import Record
from honest_persona.evaluation.samples import Sample, sample_of
from honest_persona.persona.parsing import Ending, Review
from honest_persona.probes.features import Model
from honest_persona.probes.probe import Probe
from honest_persona.probes.selection import probe_scores, prompts_of
from honest_persona.prompts.tokens import TokenFormat

VARIANT_ONLY, TOPIC_ONLY = "variant only", "topic only"
RESPONSE_BIGRAMS, TRANSCRIPT_BIGRAMS = "response bigrams", "transcript bigrams"
"""Names of detectors."""

Text = Literal["response", "transcript"]
Folds = Sequence[tuple[np.ndarray, np.ndarray]]
"""(indices to fit on, indices to guess)"""


Guesses = dict[str, np.ndarray]
"""P(FAIL) of each record, (n,), by detector."""


def likelier_flag(p_fail: float) -> Flag:
    """FAIL above 0.5; a tie is no alarm."""
    return FAIL if p_fail > 0.5 else PASS


def variant_only(variants: Sequence[str | None]) -> list[str]:
    """The flag that follows from the variant alone: FAIL for B. In the reference's data it is right for 93 %."""
    return [FAIL if variant == VARIANTS[1] else PASS for variant in variants]


def topic_only(topics: Sequence[str], flags: Sequence[str], asked: Sequence[str]) -> list[float]:
    """P(FAIL) of the `asked` topics: the share of FAIL among records of that topic; 0.5 for a topic not seen."""
    n, n_fail = Counter(topics), Counter(t for t, flag in zip(topics, flags, strict=True) if flag == FAIL)
    return [n_fail[topic] / n[topic] if n[topic] else 0.5 for topic in asked]


def held_out_clusters(records: Sequence[Record], folds: int = 5) -> Folds:
    """Each cluster is guessed from the others; as many folds as there are clusters, where there are fewer.

    Raises:
        UserError: fewer than two clusters.
    """
    clusters = [record.cluster for record in records]
    if (n := len(set(clusters))) < 2:
        raise UserError(f"{len(records)} records of {n} items: no item can be guessed from another one; give more rows")
    return list(GroupKFold(min(folds, n)).split(np.zeros(len(records)), groups=clusters))


def held_out_topics(records: Sequence[Record]) -> Folds:
    """Each topic is guessed from the others, without their records of a cluster that the topic has too."""
    clusters = np.array([record.cluster for record in records])
    folds = LeaveOneGroupOut().split(clusters, groups=[record.topic for record in records])
    return [(others[~np.isin(clusters[others], clusters[asked])], asked) for others, asked in folds]


def shortcuts(records: Sequence[Record], folds: Folds) -> Guesses:
    """Every shortcut's guess of every record, each from records of other clusters.

    Args:
        folds: of `held_out_clusters` or `held_out_topics`: every record is guessed once.

    Raises:
        UserError: a fold would be guessed from records of one flag alone.
    """
    clusters = np.array([record.cluster for record in records])
    for fitted, asked in folds:
        assert not set(clusters[fitted]) & set(clusters[asked]), "a cluster is on both sides of a fold"
    assert sorted(i for _, asked in folds for i in asked) == list(range(len(records))), "each record is guessed once"
    return _guesses(records, folds)


def shortcuts_of(train: Sequence[Record], asked: Sequence[Record]) -> Guesses:
    """What shortcuts, fitted on a run's training records, say about `asked`; the run is measured alike.

    Raises:
        UserError: a cluster is in both, or the training records have one flag alone.
    """
    if both := {r.cluster for r in train} & {r.cluster for r in asked}:
        raise UserError(f"{len(both)} items are in training and in evaluation, the first is {min(both)}; split by item")
    n = len(train)
    guesses = _guesses([*train, *asked], [(np.arange(n), np.arange(n, n + len(asked)))])
    return {name: p_fail[n:] for name, p_fail in guesses.items()}


def _guesses(records: Sequence[Record], folds: Folds) -> Guesses:
    """Of the records that the folds ask about; other entries have no meaning."""
    by_topic = np.zeros(len(records))
    for fitted, asked in folds:
        known = [records[i] for i in fitted]
        topics, flags = [r.topic for r in known], [r.flag for r in known]
        by_topic[asked] = topic_only(topics, flags, [records[i].topic for i in asked])
    variants = [record.variant for record in records]
    by_variant = np.array([flag == FAIL for flag in variant_only(variants)], dtype=float)
    return {
        **({VARIANT_ONLY: by_variant} if all(variants) else {}),  # data without variants has no such shortcut
        TOPIC_ONLY: by_topic,
        RESPONSE_BIGRAMS: _bigram_scores(records, folds, "response"),
        TRANSCRIPT_BIGRAMS: _bigram_scores(records, folds, "transcript"),
    }


def _bigram_scores(records: Sequence[Record], folds: Folds, text: Text) -> np.ndarray:
    """P(FAIL), (n,)."""
    texts = [r.response if text == "response" else f"{r.system} {r.task} {r.response}" for r in records]
    return bigram_scores(texts, np.array([record.flag == FAIL for record in records]), folds, f"{text} bigrams")


def bigram_scores(texts: Sequence[str], fail: np.ndarray, folds: Folds, what: str = "bigrams") -> np.ndarray:
    """P(FAIL) of each text, (n,), by a reader of its words and pairs of words that was fitted on other texts.

    Raises:
        UserError: the texts to fit on all have the same flag.
    """
    # counted once for all folds: a word that no fitted record has gets weight 0, as if it were absent
    counts = CountVectorizer(ngram_range=(1, 2), token_pattern=r"\w+").fit_transform(texts)
    scores = np.zeros(len(texts))
    for fitted, asked in followed(folds, what, "fits"):
        if len(set(fail[fitted])) < 2:
            raise UserError("the records to fit a reader on all have the same flag; give it records of both")
        reader = LogisticRegression(max_iter=1000).fit(counts[fitted], fail[fitted])
        scores[asked] = reader.predict_proba(counts[asked])[:, 1]
    return scores


def probe_detector(method: str) -> str:
    """The detector's name."""
    return f"{method} probe"


def probe_guesses(
    probes: Mapping[Any, Probe], model: Model, form: TokenFormat, records: Sequence[Record], batch_size: int = 32
) -> Guesses:
    """What probes of the model's hidden states say about records on which they were not fitted.

    Raises:
        UserError: a probe of another base model.
    """
    prompts = prompts_of(records, form)
    guesses = {}
    for name, probe in probes.items():
        probe.check_model(model)
        guesses[probe_detector(name)] = probe_scores(probe, model, prompts, form, batch_size).numpy()
    return guesses


def guess_samples(parts: Mapping[str, Sequence[Record]], guesses: Guesses, text: str = "") -> list[Sample]:
    """A sample per guess and record; guesses stand in the order of the parts' records.

    Args:
        text: stands in the place of the review.
    """
    records = [(part, record) for part, chosen in parts.items() for record in chosen]
    return [
        sample_of(part, record, Review(text=text, flag=likelier_flag(p), p_fail=p, ending=Ending.CLEAN), name)
        for name, p_fail in guesses.items()
        for (part, record), p in zip(records, p_fail.tolist(), strict=True)
    ]


def shortcut_samples(records: Sequence[Record], folds: int = 5) -> list[Sample]:
    """Parts by what was held out: `items held out` (or groups), and `topics held out` where there are several."""
    held_out = {"items held out": held_out_clusters(records, folds)}
    if len({record.topic for record in records}) > 1:
        held_out["topics held out"] = held_out_topics(records)
    return [s for part, of in held_out.items() for s in guess_samples({part: records}, shortcuts(records, of))]
