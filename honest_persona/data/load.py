"""Reads a dataset, wherever it lies, as records; locates and counts every intervention that is not used.

A dataset is one of the package (`builtin:sample`, `builtin:organism`), a folder `<dir>/<topic>/batch_*.json` of stage-3
files, a `.jsonl` file of records (or a folder of such files), or the id of a dataset on the Hub with a Record's
columns. Bad data never raises; rejections.py says in which order defects are counted.

    loaded = load_records("builtin:sample", Selection(topics=("sycophancy",)))
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from honest_persona.base.errors import UserError
from honest_persona.config.keys import RunConfig
from honest_persona.data.records import Record
from honest_persona.data.rejections import Candidate, Rejection
from honest_persona.data.selection import Selection, names_of, refusal, unknown_names
from honest_persona.data.sources.find import find_source
from honest_persona.data.splits import Splits, split_records


@dataclass(frozen=True)
class Loaded:
    """The result of reading a dataset: `read` interventions are either kept as records or rejected."""

    records: list[Record]
    rejections: list[Rejection]
    read: int
    rejected: Counter[str]
    """Number of rejections by reason."""
    ignored: Mapping[str, int] = field(default_factory=dict)
    """Columns of rows that are not used, and the number of their rows."""

    def __post_init__(self) -> None:
        assert self.read == len(self.records) + sum(self.rejected.values()), "an intervention was lost or counted twice"


def load_records(dataset: str, selection: Selection) -> Loaded:
    """Read the whole `dataset` and keep the records that `selection` asks for, in the order of the files.

    Raises UserError: the dataset cannot be found, or has nothing under a name that the selection asks for.
    """
    source = find_source(dataset)
    problems = [message for _, message in unknown_names(source, selection, "topics")]
    if problems:
        raise UserError("\n".join(problems))
    records, rejections, seen, read = [], [], set(), 0
    for outcome in source.outcomes():
        read += 1
        if isinstance(outcome, Candidate):
            refused = refusal(outcome, selection)
            if refused is None and outcome.values["id"] in seen:
                refused = "id", "duplicate_id"
            if refused is None:
                seen.add(outcome.values["id"])
                records.append(Record.model_validate(outcome.values))
                continue
            outcome = outcome.reject(*refused)
        rejections.append(outcome)
    rejected = Counter(rejection.reason for rejection in rejections)
    return Loaded(records, rejections, read, rejected, source.summary.ignored)


def load_splits(config: RunConfig) -> tuple[Loaded, Splits]:
    """The records that the config selects, and their split by item."""
    loaded = load_records(config.dataset, Selection.of(config.as_dict()))
    return loaded, split_records(loaded.records, config.validation_topics, config.val_item_frac, config.seed)


def check_selection(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The config checks that need the data: pairs of config key and message. `load_records` reuses the files read here.

    A key that is absent from `values` has failed an earlier check; checks that depend on such a key are left out.
    """
    if values.get("use_dummy_data") or "dataset" not in values:
        return
    try:
        source = find_source(values["dataset"])
    except UserError as error:
        yield "dataset", str(error)
        return
    problems: list[tuple[str, str]] = []
    train, validation = (names_of(values.get(key, ())) for key in ("train_topics", "validation_topics"))
    for key in ("train_topics", "validation_topics"):
        problems += unknown_names(source, Selection(topics=names_of(values.get(key, ()))), key)
    asked = Selection(
        intervention_types=values.get("intervention_types"), models=names_of(values.get("data_model_source", ()))
    )
    problems += unknown_names(source, asked, "topics")
    for topic in sorted(set(train or ()) & set(validation or ())):
        problems.append(("validation_topics", f"{topic!r} is in train_topics too: remove it from one of the two"))
    if not problems and Selection.KEYS.issubset(values):
        loaded = load_records(values["dataset"], Selection.of(values))
        if all(record.topic in (validation or ()) for record in loaded.records):
            counts = ", ".join(f"{reason} {n}" for reason, n in loaded.rejected.most_common(5))
            problems.append(
                (
                    "train_topics",
                    f"nothing is left to train on: of {loaded.read} interventions read, {len(loaded.records)} are "
                    f"kept, none of them in a trained topic (rejected: {counts or 'none'}). Select more "
                    "topics, models or intervention types, or filter fewer tags",
                )
            )
    yield from problems
