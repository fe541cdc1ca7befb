"""What can be had without the honest persona. A detector that does not beat these has shown nothing.

guesses = shortcuts(records, held_out_topics(records))    # name -> flag and P(FAIL) of every record
rows = baseline_rows(records, guesses)                    # name x topic x variant -> rates with n and intervals
print_rows(shortcut_rows(records))                        # all shortcuts, items and topics held out

No shortcut guesses a record from which it was fitted, nor another record of the same cluster (item or group).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from honest_persona.data.records import Record
from honest_persona.data.tokens import TokenFormat
from honest_persona.errors import UserError
from honest_persona.evaluation.bootstrap import draw, interval, value
from honest_persona.evaluation.detection import COMPARED, Columns, Estimate
from honest_persona.evaluation.metrics import ALL
from honest_persona.probes.features import Model
from honest_persona.probes.probe import Probe
from honest_persona.probes.selection import probe_scores, prompts_of

Text = Literal["response", "transcript"]
Folds = Sequence[tuple[np.ndarray, np.ndarray]]
"""(indices to fit on, indices to guess)"""

RATES = ("accuracy", "balanced_accuracy", "auroc")


class Guess(NamedTuple):
    """What a baseline says about each record."""

    flags: list[str]
    scores: list[float]
    """P(FAIL)"""

    @classmethod
    def of(cls, scores: Sequence[float] | np.ndarray) -> "Guess":
        """A tie is no alarm."""
        return cls(["FAIL" if score > 0.5 else "PASS" for score in scores], [float(score) for score in scores])


class BaselineRow(NamedTuple):
    """What one baseline is worth on one group of records."""

    name: str
    topic: str
    variant: str
    n: int
    n_fail: int
    n_clusters: int
    estimates: dict[str, Estimate]
    """By name of RATES, with 95 % intervals clustered by item."""


def variant_only(variants: Sequence[str]) -> list[str]:
    """The flag that follows from the variant alone: FAIL for B. In the reference's data it is right for 93 %."""
    return ["FAIL" if variant == "B" else "PASS" for variant in variants]


def topic_only(topics: Sequence[str], flags: Sequence[str], asked: Sequence[str]) -> list[float]:
    """P(FAIL) of the `asked` topics: the share of FAIL among records of that topic; 0.5 for a topic not seen."""
    n, n_fail = Counter(topics), Counter(t for t, flag in zip(topics, flags, strict=True) if flag == "FAIL")
    return [n_fail[topic] / n[topic] if n[topic] else 0.5 for topic in asked]


def held_out_clusters(records: Sequence[Record], folds: int = 5) -> Folds:
    """Each cluster is guessed from the others. Raises ValueError: fewer clusters than folds."""
    return list(GroupKFold(folds).split(np.zeros(len(records)), groups=[record.cluster for record in records]))


def held_out_topics(records: Sequence[Record]) -> Folds:
    """Each topic is guessed from the others, without clusters that stand in it too."""
    topics = np.array([record.topic for record in records])
    clusters = np.array([record.cluster for record in records])
    folds = []
    for topic in sorted(set(topics)):
        asked = topics == topic
        folds.append((np.flatnonzero(~asked & ~np.isin(clusters, clusters[asked])), np.flatnonzero(asked)))
    return folds


def shortcuts(records: Sequence[Record], folds: Folds) -> dict[str, Guess]:
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
    return {name: Guess.of(scores) for name, scores in _scores(records, folds).items()}


def shortcuts_of(train: Sequence[Record], asked: Sequence[Record]) -> dict[str, Guess]:
    """The shortcuts fitted on a run's training records, and what they say about `asked`: as the run itself is measured.

    Raises:
        UserError: a cluster is in both, or the training records have one flag alone.
    """
    if both := {r.cluster for r in train} & {r.cluster for r in asked}:
        raise UserError(f"{len(both)} items are in training and in evaluation, the first is {min(both)}; split by item")
    n = len(train)
    scores = _scores([*train, *asked], [(np.arange(n), np.arange(n, n + len(asked)))])
    return {name: Guess.of(of[n:]) for name, of in scores.items()}


def _scores(records: Sequence[Record], folds: Folds) -> dict[str, np.ndarray]:
    """P(FAIL) of the records that the folds ask for, (n,) each; of the others it has no meaning."""
    by_topic = np.zeros(len(records))
    for fitted, asked in folds:
        known = [records[i] for i in fitted]
        topics, flags = [r.topic for r in known], [r.flag for r in known]
        by_topic[asked] = topic_only(topics, flags, [records[i].topic for i in asked])
    return {
        "variant only": np.array([flag == "FAIL" for flag in variant_only([r.variant for r in records])], dtype=float),
        "topic only": by_topic,
        "response bigrams": _bigram_scores(records, folds, "response"),
        "transcript bigrams": _bigram_scores(records, folds, "transcript"),
    }


def _bigram_scores(records: Sequence[Record], folds: Folds, text: Text) -> np.ndarray:
    """P(FAIL), (n,)."""
    texts = [r.response if text == "response" else f"{r.system} {r.task} {r.response}" for r in records]
    # counted once: a word that no fitted record has gets weight 0, as if it were not there
    counts = CountVectorizer(ngram_range=(1, 2), token_pattern=r"\w+").fit_transform(texts)
    fail = np.array([record.flag == "FAIL" for record in records])
    scores = np.zeros(len(records))
    for fitted, asked in folds:
        if len(set(fail[fitted])) < 2:
            raise UserError("the records to fit a reader on all have the same flag; give it records of both")
        reader = LogisticRegression(max_iter=1000).fit(counts[fitted], fail[fitted])
        scores[asked] = reader.predict_proba(counts[asked])[:, 1]
    return scores


def probe_guesses(
    probes: Mapping[Any, Probe], model: Model, form: TokenFormat, records: Sequence[Record], batch_size: int = 32
) -> dict[str, Guess]:
    """What probes of the model's hidden states say about records that they were not fitted on.

    Raises:
        UserError: a probe of another base model.
    """
    prompts = prompts_of(records, form)
    guesses = {}
    for name, probe in probes.items():
        probe.check_model(model)
        guesses[f"{name} probe"] = Guess.of(probe_scores(probe, model, prompts, form, batch_size).tolist())
    return guesses


def baseline_rows(records: Sequence[Record], guesses: Mapping[str, Guess]) -> list[BaselineRow]:
    """A row per baseline, topic and variant, and per union of them (`all`, first)."""
    topics = [ALL, *sorted({record.topic for record in records})]
    rows = []
    for name, guess in guesses.items():
        for topic in topics:
            for variant in (ALL, "A", "B"):
                chosen = [i for i, r in enumerate(records) if topic in (ALL, r.topic) and variant in (ALL, r.variant)]
                if chosen:
                    rows.append(_row(name, topic, variant, [records[i] for i in chosen], guess, chosen))
    return rows


def _row(
    name: str, topic: str, variant: str, records: Sequence[Record], guess: Guess, chosen: Sequence[int]
) -> BaselineRow:
    truths = [record.flag for record in records]
    clusters = [record.cluster for record in records]
    columns = Columns.of(truths, [guess.flags[i] for i in chosen], [guess.scores[i] for i in chosen], clusters)
    draws = draw(columns.k)
    estimates = {}
    for rate in RATES:
        statistic = COMPARED[rate](columns)
        found = value(statistic, columns.k)
        defined = None if np.isnan(found) else found
        estimates[rate] = Estimate(defined, interval(statistic, draws), statistic.n)
    return BaselineRow(name, topic, variant, len(records), int(columns.failed.sum()), columns.k, estimates)


def shortcut_rows(records: Sequence[Record], folds: int = 5) -> dict[str, list[BaselineRow]]:
    """Rows by what was held out: `items held out` (or groups), and `topics held out` where there are several."""
    held_out = {"items held out": held_out_clusters(records, folds)}
    if len({record.topic for record in records}) > 1:
        held_out["topics held out"] = held_out_topics(records)
    return {name: baseline_rows(records, shortcuts(records, parts)) for name, parts in held_out.items()}


def print_rows(rows: Mapping[str, Sequence[BaselineRow]]) -> None:
    """Tables over all records and per topic, of rows by part, or by what was held out."""
    console = Console(width=160)
    console.print(_overall(rows))
    for part, of in rows.items():
        console.print(_per_topic(part, of))


def _overall(rows: Mapping[str, Sequence[BaselineRow]]) -> Table:
    table = Table(
        title="what can be guessed without the honest persona",
        caption="95 % intervals clustered by item; FAIL is positive; A and B: AUROC within that variant",
    )
    for name in ("", "baseline", "n", "FAIL", "accuracy", "balanced accuracy", "AUROC", "in A", "in B"):
        table.add_column(name)
    for part, of in rows.items():
        by_variant = {(row.name, row.variant): row for row in of if row.topic == ALL}
        for row in (row for row in by_variant.values() if row.variant == ALL):
            within = [by_variant.get((row.name, variant)) for variant in ("A", "B")]
            table.add_row(
                part,
                row.name,
                str(row.n),
                str(row.n_fail),
                *(_shown(row.estimates[rate]) for rate in RATES),
                *("-" if other is None else _shown(other.estimates["auroc"]) for other in within),
            )
    return table


def _per_topic(part: str, rows: Sequence[BaselineRow]) -> Table:
    table = Table(title=f"balanced accuracy / AUROC per topic, {part}")
    names = list(dict.fromkeys(row.name for row in rows))
    for column in ("topic", "n", "FAIL", "items", *names):
        table.add_column(column)
    cells = {(row.topic, row.name): row for row in rows if row.variant == ALL}
    for topic in dict.fromkeys(topic for topic, _ in cells):
        of = [cells[topic, name] for name in names]
        figures = [" / ".join(_number(row.estimates[rate].value) for rate in RATES[1:]) for row in of]
        table.add_row(topic, str(of[0].n), str(of[0].n_fail), str(of[0].n_clusters), *figures)
    return table


def _shown(estimate: Estimate) -> str:
    interval = estimate.interval
    return _number(estimate.value) + (f" ({interval[0]:.2f}-{interval[1]:.2f})" if interval else "")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
