"""Reads a dataset, wherever it lies, as records; locates and counts every intervention that is not used.

A dataset is one of the package (`builtin:sample`, `builtin:organism`), a folder `<dir>/<topic>/batch_*.json` of stage-3
files, a file or a folder of rows, or the id of a dataset on the Hub. Bad data never raises; rejections.py says in which
order defects are counted.

    loaded = load_records("builtin:sample", Selection(topics=("sycophancy",)))
"""

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field

from honest_persona.base.errors import UserError
from honest_persona.base.words import OWN
from honest_persona.config.keys import RunConfig
from honest_persona.data.kept import Records
from honest_persona.data.records import Record
from honest_persona.data.rejections import Candidate, Rejection
from honest_persona.data.repeats import Repeats
from honest_persona.data.selection import Selection, refusal, unknown_names
from honest_persona.data.sources.find import find_source
from honest_persona.data.sources.source import Source
from honest_persona.data.splits import Splits, split_records


@dataclass(frozen=True)
class Loaded:
    """The result of reading a dataset: `read` interventions are either kept as records or rejected."""

    records: Records
    rejections: list[Rejection]
    read: int
    rejected: Counter[str]
    """Number of rejections by reason."""
    ignored: Mapping[str, int] = field(default_factory=dict)
    """Columns of rows that are not used, and the number of their rows."""
    notes: Mapping[str, int] = field(default_factory=dict)
    """What was read into kept rows, or stands in for what they lack, and the number of these rows."""
    config: str | None = None
    splits: Mapping[str, str | None] = field(default_factory=dict)
    """As in `Source`: what was taken of a dataset that has configs or splits."""

    def __post_init__(self) -> None:
        assert self.read == len(self.records) + sum(self.rejected.values()), "an intervention was lost or counted twice"


def load_records(dataset: str, selection: Selection) -> Loaded:
    """Read the whole `dataset` and keep the records that `selection` asks for, in the order of the files.

    Raises UserError: the dataset cannot be found, or has nothing under a name that the selection asks for.
    """
    source = find_source(dataset, selection.rows)
    selection = selection.in_source(source)
    problems = [message for _, message in unknown_names(source, selection, "topics")]
    if problems:
        raise UserError("\n".join(problems))
    return read_records(source, selection)


def read_records(source: Source, selection: Selection) -> Loaded:
    """The same of a source that was found; a name that it lacks keeps no record, and is no error.

    The last result is kept: a config is checked against the records that its run then trains on.
    """
    key = source.state(), selection
    if key not in _last:
        _last.clear()
        _last[key] = _read(source, selection)
    return _last[key]


_last: dict[Hashable, Loaded] = {}


def _read(source: Source, selection: Selection) -> Loaded:
    rejections: list[Rejection] = []
    seen: set[str] = set()
    notes: Counter[str] = Counter()
    repeats = Repeats()
    read = 0

    def kept() -> Iterator[Record]:
        nonlocal read
        for outcome in source.outcomes():
            read += 1
            if isinstance(outcome, Candidate):
                refused = refusal(outcome, selection)
                if refused is None and outcome.values["id"] in seen:
                    refused = "id", "duplicate_id"
                if refused is None:
                    seen.add(outcome.values["id"])
                    notes.update(outcome.notes)
                    if outcome.values["intervention_name"] == OWN and (note := repeats.note(outcome.values)):
                        notes[note] += 1
                    yield Record.model_validate(outcome.values)
                    continue
                outcome = outcome.reject(*refused)
            rejections.append(outcome)

    records = Records.of(kept())
    rejected = Counter(rejection.reason for rejection in rejections)
    return Loaded(records, rejections, read, rejected, source.summary.ignored, notes, source.config, source.splits)


def load_splits(config: RunConfig) -> tuple[Loaded, Splits]:
    """The records that the config selects, and their split by item. Raises UserError, as `load_records` does."""
    return _split(load_records(config.dataset, Selection.of(config.as_dict())), config)


def read_splits(config: RunConfig) -> tuple[Loaded, Splits]:
    """The same where names that the data lacks are no error. Raises UserError: the dataset cannot be found."""
    selection = Selection.of(config.as_dict())
    source = find_source(config.dataset, selection.rows)
    return _split(read_records(source, selection.in_source(source)), config)


def _split(loaded: Loaded, config: RunConfig) -> tuple[Loaded, Splits]:
    return loaded, split_records(loaded.records, config.validation_topics, config.val_item_frac, config.seed)
