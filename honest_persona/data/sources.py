"""Reads a dataset, wherever it lies, into records; every intervention not used is located and counted.

A dataset is one of the package (`builtin:sample`, `builtin:organism`), a folder `<dir>/<topic>/batch_*.json` of stage-3
files, a `.jsonl` file of records (or a folder of such files), or the id of a dataset on the Hub with a Record's
columns. The order of the checks is told in records.py.

    loaded = load_records("builtin:sample", Selection(topics=("sycophancy",)))
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from honest_persona.base.errors import UserError
from honest_persona.base.files import whole_file
from honest_persona.base.progress import followed
from honest_persona.data.records import TRAINABLE_FLAGS, Candidate, Outcome, Record, Rejection, parse_batch, parse_row
from honest_persona.data.splits import in_share
from honest_persona.data.strict_json import loads

SAMPLE = "builtin:sample"
_PACKAGE = Path(__file__).parents[1]
BUILTIN = {SAMPLE: _PACKAGE / "data" / "sample", "builtin:organism": _PACKAGE / "organism" / "data"}
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclass(frozen=True)
class Selection:
    """Which of a dataset's records a run asks for."""

    topics: tuple[str, ...] | None = None
    """None takes every topic."""
    tags_to_filter: tuple[str, ...] = ()
    """A record that carries one of these tags is left out."""
    intervention_types: tuple[str, ...] | None = None
    """Names of interventions, or of their types, which take all versions. None takes all."""
    models: tuple[str, ...] | None = None
    """Main models whose responses are used. None takes all."""
    topic_frac: float = 1.0
    """Seeded share of each topic's items (`claude_frac` in the config)."""
    seed: int = 0

    KEYS: ClassVar[frozenset[str]] = frozenset(
        (
            "train_topics",
            "validation_topics",
            "intervention_types",
            "data_model_source",
            "tags_to_filter",
            "claude_frac",
            "seed",
        )
    )
    """The config keys that `of` reads."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Selection:
        """The selection of a run's config; `values` are its keys and values."""
        train = _names(values["train_topics"])
        return cls(
            topics=None if train is None else tuple(dict.fromkeys(train + (_names(values["validation_topics"]) or ()))),
            tags_to_filter=tuple(values["tags_to_filter"]),
            intervention_types=tuple(values["intervention_types"]),
            models=_names(values["data_model_source"]),
            topic_frac=values["claude_frac"],
            seed=values["seed"],
        )


@dataclass(frozen=True)
class Loaded:
    """What came of a dataset: `read` is the sum of what was kept and what was rejected."""

    records: list[Record]
    rejections: list[Rejection]
    read: int
    rejected: Counter[str]
    """Number of rejections by reason."""

    def __post_init__(self) -> None:
        assert self.read == len(self.records) + sum(self.rejected.values()), "an intervention was lost or counted twice"


def load_records(dataset: str, selection: Selection) -> Loaded:
    """Read `dataset` whole and keep what `selection` asks for, in the order of the files.

    Raises UserError where the dataset cannot be found, or has nothing by a name that the selection asks for.
    """
    source = _open(dataset)
    problems = [message for _, message in _unknown_names(source, selection, "topics")]
    if problems:
        raise UserError("\n".join(problems))
    records, rejections, seen = [], [], set()
    for outcome in followed(source.outcomes, "selecting", "interventions"):
        if isinstance(outcome, Candidate):
            refusal = _refusal(outcome, selection)
            if refusal is None and outcome.values["id"] in seen:
                refusal = "id", "duplicate_id"
            if refusal is None:
                seen.add(outcome.values["id"])
                records.append(Record.model_validate(outcome.values))
                continue
            outcome = outcome.reject(*refusal)
        rejections.append(outcome)
    rejected = Counter(rejection.reason for rejection in rejections)
    return Loaded(records, rejections, len(source.outcomes), rejected)


def write_jsonl(records: Iterable[Record], path: str | Path) -> None:
    """One record a line, in a form that `load_records` reads back."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.writelines(record.model_dump_json() + "\n" for record in records)


def check_selection(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The config checks that need the data: pairs of config key and message. What they read is kept for `load_records`.

    A key that is absent from `values` has failed a check of its own, and nothing that depends on it is checked here.
    """
    if values.get("use_dummy_data") or "dataset" not in values:
        return
    try:
        source = _open(values["dataset"])
    except UserError as error:
        yield "dataset", str(error)
        return
    problems: list[tuple[str, str]] = []
    train, validation = (_names(values.get(key, ())) for key in ("train_topics", "validation_topics"))
    for key in ("train_topics", "validation_topics"):
        problems += _unknown_names(source, Selection(topics=_names(values.get(key, ()))), key)
    asked = Selection(
        intervention_types=values.get("intervention_types"), models=_names(values.get("data_model_source", ()))
    )
    problems += _unknown_names(source, asked, "topics")
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


@dataclass(frozen=True)
class _Source:
    outcomes: list[Outcome]
    topics: Mapping[str, int]
    """Number of batch files (or rows) of each topic."""
    label: str


def _open(dataset: str) -> _Source:
    path = BUILTIN.get(dataset) or Path(os.path.expanduser(dataset))  # Path's own way raises for an unknown ~user
    if dataset.startswith("builtin:") and dataset not in BUILTIN:
        raise UserError(f"dataset {dataset!r} is not known; the builtin datasets are {', '.join(BUILTIN)}")
    if os.path.isdir(path):  # and not path.is_dir(), which raises for a name that is too long
        lines = sorted(path.glob("*.jsonl"))
        if lines and any(path.glob("*/batch_*.json")):
            raise UserError(
                f"dataset {dataset!r} holds both .jsonl files and topic folders with batch_*.json: move one of the two "
                f"away, or give {lines[0]}"
            )
        return _rows(dataset, _jsonl_files(lines)) if lines else _open_stage3(dataset, path)
    is_file = os.path.isfile(path)
    if is_file and path.suffix == ".jsonl":
        return _rows(dataset, _jsonl_files([path]))
    if is_file:
        raise UserError(
            f"dataset {dataset!r} is a single file that is not JSON Lines: give a .jsonl file of records, or the "
            "folder that holds the topic folders"
        )
    if _HUB_ID.fullmatch(dataset) and path.suffix not in (".jsonl", ".json"):
        return _rows(dataset, list(_hub_outcomes(dataset)))
    raise UserError(
        f"dataset {dataset!r} does not exist: give a folder <dir>/<topic>/batch_*.json, a .jsonl file, a Hub id "
        f"owner/name, or {' or '.join(BUILTIN)}"
    )


def _open_stage3(dataset: str, root: Path) -> _Source:
    try:
        folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"dataset {dataset!r} cannot be read: {error.strerror}; check its permissions") from error
    files = {folder: sorted(folder.glob("batch_*.json")) for folder in folders}
    if not any(files.values()):
        hint = "give its parent folder" if any(root.glob("batch_*.json")) else "it must hold <topic>/batch_*.json"
        raise UserError(f"dataset {dataset!r} has no topic folder with batch files: {hint}")
    outcomes: list[Outcome] = []
    entries = [(folder, batch) for folder, batches in files.items() for batch in batches or (None,)]
    for folder, batch in followed(entries, "reading", "files"):
        if batch is None:
            outcomes.append(Rejection(_shown(folder), "folder", "topic", "topic_without_files"))
        else:
            outcomes += _file_outcomes(batch, _batch_outcomes)
    return _Source(outcomes, {_shown(folder.name): len(batches) for folder, batches in files.items()}, dataset)


def _file_outcomes(path: Path, read: Callable[[Path, int, int], tuple[Outcome, ...]]) -> tuple[Outcome, ...]:
    try:
        if path.is_file():  # no folder, and no pipe, which would be waited for
            stat = path.stat()
            return read(path, stat.st_mtime_ns, stat.st_size)
    except OSError:
        pass  # told as any other file that cannot be read
    return (Rejection(_shown(path), "whole file", "file", "unreadable_file"),)


# Keyed by time and size too, so that an edited file is read again. Held are the columns in use, not the parsed JSON.
@lru_cache(maxsize=4096)
def _batch_outcomes(path: Path, mtime_ns: int, size_bytes: int) -> tuple[Outcome, ...]:
    file = _shown(path)
    batch = _decode(path.read_bytes(), file)
    return (batch,) if isinstance(batch, Rejection) else tuple(parse_batch(batch, file, _shown(path.parent.name)))


def _jsonl_files(paths: list[Path]) -> list[Outcome]:
    return [outcome for path in paths for outcome in _file_outcomes(path, _jsonl_outcomes)]


@lru_cache(maxsize=4096)
def _jsonl_outcomes(path: Path, mtime_ns: int, size_bytes: int) -> tuple[Outcome, ...]:
    outcomes: list[Outcome] = []
    for number, line in enumerate(followed(path.read_bytes().split(b"\n"), "reading", "lines"), start=1):
        if line.strip():
            row = _decode(line, _shown(path), number)
            outcomes.append(row if isinstance(row, Rejection) else parse_row(row, _shown(path), f"line {number}"))
    return tuple(outcomes)


@lru_cache(maxsize=8)
def _hub_outcomes(dataset: str) -> tuple[Outcome, ...]:
    import datasets  # takes seconds, and most runs do not need it

    try:
        splits = datasets.load_dataset(dataset)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"dataset {dataset!r} is neither a path here nor a Hub dataset that can be reached "
            f"({type(error).__name__}: {error}). Check the spelling, the network, and HF_TOKEN for a private dataset"
        ) from error
    return tuple(
        parse_row(row, dataset, f"{name}[{index}]") for name, rows in splits.items() for index, row in enumerate(rows)
    )


def _rows(dataset: str, outcomes: list[Outcome]) -> _Source:
    topics = Counter(outcome.values["topic"] for outcome in outcomes if isinstance(outcome, Candidate))
    return _Source(outcomes, topics, dataset)


def _decode(raw: bytes, file: str, line: int | None = None) -> Any:
    """The parsed JSON, or a Rejection; `line` is the number of a JSONL line, else the decoder's own is used."""
    try:
        return loads(raw.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        place = f"line {line or error.lineno}, column {error.colno}"
    except UnicodeDecodeError as error:
        newlines = raw.count(b"\n", 0, error.start)
        place = f"line {line or newlines + 1}, not UTF-8"
    except RecursionError:
        place = f"line {line or 1}, nested too deep"
    return Rejection(file, place, "file" if line is None else "row", "malformed_json")


def _shown(path: str | Path) -> str:
    """A path as text that can be printed: bytes of its name that are not UTF-8 as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _refusal(candidate: Candidate, selection: Selection) -> tuple[str, str] | None:
    """Column and reason why `selection` leaves a sound intervention out. The order is told in records.py."""
    values = candidate.values
    if selection.topics is not None and values["topic"] not in selection.topics:
        return "topic", "topic_not_selected"
    if selection.models is not None and values["model"] not in selection.models:
        return "model", "model_not_selected"
    types = selection.intervention_types
    if types is not None and not any(matches_type(values["intervention_name"], kind) for kind in types):
        return "intervention_name", "intervention_type_not_selected"
    if values["flag"] not in TRAINABLE_FLAGS:
        return "flag", f"flag_not_trainable:{values['flag']}"
    for tag in selection.tags_to_filter:
        if tag in values["tags"]:
            return "tags", f"tag:{tag}"
    if not in_share(values["group"] or values["item_id"], selection.topic_frac, selection.seed):
        return "item_id", "outside_topic_share"
    return None


def matches_type(name: str, kind: str) -> bool:
    """`split_personality` takes every version; `split_personality__version_3` that one, and not version_30."""
    return name == kind or name.startswith(f"{kind}__")


def _unknown_names(source: _Source, selection: Selection, topics_key: str) -> Iterator[tuple[str, str]]:
    """(config key, message) for each topic, intervention type and model that `source` has nothing of."""
    for topic in selection.topics or ():
        if topic not in source.topics:
            yield topics_key, f"topic {topic!r} is not in {source.label!r}{_hint(topic, source.topics)}"
        elif not source.topics[topic]:
            yield (
                topics_key,
                f"topic {topic!r} of {source.label!r} has no batch_*.json file: add files or leave the topic out",
            )
    candidates = [outcome.values for outcome in source.outcomes if isinstance(outcome, Candidate)]
    names = {values["intervention_name"] for values in candidates}
    for kind in selection.intervention_types or ():
        if not any(matches_type(name, kind) for name in names):
            yield "intervention_types", f"no intervention in {source.label!r} is of type {kind!r}{_hint(kind, names)}"
    models = {values["model"] for values in candidates}
    for model in selection.models or ():
        if model not in models:
            yield (
                "data_model_source",
                f"no response in {source.label!r} is by the model {model!r}{_hint(model, models)}",
            )


def _hint(name: str, known: Iterable[str]) -> str:
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return (f"; did you mean {close[0]!r}?" if close else ".") + f" There are: {', '.join(known) or 'none'}"


def _names(value: str | Iterable[str] | None) -> tuple[str, ...] | None:
    """A config value as names; `all` and null mean all of them, which is None."""
    if value is None or value == "all":
        return None
    return (value,) if isinstance(value, str) else tuple(value)
