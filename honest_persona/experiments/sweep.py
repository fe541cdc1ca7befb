"""Several trainings that answer one question: does it carry over to new topics, and does it take a persona?

    python -m honest_persona sweep --config hp.yaml --leave_one_topic_out --limit 208
    python -m honest_persona sweep --config hp.yaml --topic_matrix
    deepspeed --num_gpus 8 --module honest_persona sweep --config configs/qwen3-8b.yaml --follow_up

A fold is a run of its own in DIR/<fold>/ (folds.py); `sweep.json` has the figures of all finished folds, and those of
their pooled records. A sweep that was stopped continues from there. `sweep --grid` is grid.py's.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from honest_persona.base import json_text
from honest_persona.base.collectives import held_by_all
from honest_persona.base.console import say
from honest_persona.base.errors import UserError
from honest_persona.base.files import write_text
from honest_persona.base.progress import rounds
from honest_persona.base.ranks import rank
from honest_persona.base.words import ACROSS
from honest_persona.config.keys import CHECKPOINTS_DIR, RunConfig
from honest_persona.config.objectives import spec_of
from honest_persona.data.load import load_records
from honest_persona.data.records import Record
from honest_persona.data.selection import Selection
from honest_persona.data.sources.jsonl import write_jsonl
from honest_persona.data.splits import split_records
from honest_persona.evaluation.compare import compare, print_comparison
from honest_persona.evaluation.provenance import provenance
from honest_persona.evaluation.report.page import GRID_TABLE, SWEEP_FILE
from honest_persona.evaluation.samples import Sample, read_samples
from honest_persona.evaluation.sets import BASELINES_FILE, SAMPLES_FILE, read_set
from honest_persona.evaluation.suite import summarize
from honest_persona.experiments.evaluate import evaluate_adapter
from honest_persona.experiments.folds import changed_keys, in_one_format, run_fold, state_of
from honest_persona.experiments.own_process import ranks_together
from honest_persona.experiments.sweep_table import print_sweep
from honest_persona.modeling.adapters.card import AdapterCard

RECORDS_FILE = "records.jsonl"

FOLLOW_UP: Mapping[str, Any] = MappingProxyType(
    {
        "elicitation_type": "ur",
        "add_sp_token": False,
        "sp_token_id": None,
        "intervention_prefix": "",
        "adapter_scope": "all",
    }
)
"""What makes a run the plain follow-up of the literature (self-report fine-tuning, arXiv 2511.06626, for one).

The user asks in the next turn (`ur`), nothing marks the question (neither persona token nor prefix), and the adapter is
ordinary LoRA, active on every token, also on what the main persona said. Data, order, seed, rank and the form of the
answer stay those of the compared run.
"""
PERSONA, PLAIN = "honest-persona", "plain-follow-up"
"""The folds of `follow_up`."""


def leave_one_topic_out(config: RunConfig, topics: Sequence[str]) -> list[RunConfig]:
    """For each topic a training without it, for figures on a topic that was never trained."""
    return [
        _fold(config, f"without-{topic}", train_topics=_others(topics, topic), validation_topics=(topic,))
        for topic in topics
    ]


def topic_matrix(config: RunConfig, topics: Sequence[str]) -> list[RunConfig]:
    """For each topic a training on it alone, for figures of every topic by the trained one."""
    return [
        _fold(config, f"only-{topic}", train_topics=(topic,), validation_topics=_others(topics, topic))
        for topic in topics
    ]


def follow_up(config: RunConfig, _: Sequence[str]) -> list[RunConfig]:
    """The run as it is, and as a plain follow-up question on the same records."""
    if all(getattr(config, key) == value for key, value in FOLLOW_UP.items()):
        raise UserError("--follow_up: this config is a plain follow-up already; give the run that it is compared with")
    if config.adapter is not None:
        raise UserError("adapter: the plain follow-up cannot start from the persona's adapter; leave it out")
    return [_fold(config, PERSONA), _fold(config, PLAIN, **FOLLOW_UP)]


FOLDS: Mapping[str, Callable[[RunConfig, Sequence[str]], list[RunConfig]]] = MappingProxyType(
    {"leave_one_topic_out": leave_one_topic_out, "topic_matrix": topic_matrix, "follow_up": follow_up}
)
"""The kinds of sweep: (config, topics) -> the runs, each named after its fold."""


@dataclass(frozen=True)
class Sweep:
    """What all folds share."""

    kind: str
    config: RunConfig
    limit: int | None
    topics: list[str]
    folder: Path

    @property
    def dataset(self) -> str:
        """For a topic matrix the records with their split: each fold is evaluated on held-out items of all topics."""
        return str(self.folder / RECORDS_FILE) if self.kind == "topic_matrix" else self.config.dataset


def sweep(config: RunConfig, kind: str, limit: int | None = None, output: Path | None = None) -> Path:
    """Train and evaluate every fold that is not done yet; returns the folder. Every rank of a launcher calls this.

    The topics are those that the config selects, trained and validation topics together. The heavy log is off in the
    folds: the evaluation at the end of each takes its place.

    Args:
        kind: a key of `FOLDS`.
        limit: records per topic in each evaluation, chosen by `splits.sample_per_topic`; all where it is not given.
        output: the sweep's folder; checkpoints/<run name>-<kind> where it is not given.

    Raises:
        UserError: too little data for a fold; the folder holds a sweep begun with other settings, which are named. All
            before the first training. Later, what `train` and `evaluate_adapter` raise.
    """
    if spec_of(config.objective).trains_answers:
        raise UserError(f"--{kind}: its trainings are of reviews, and {config.objective} trains answers; take --grid")
    if config.use_dummy_data:
        raise UserError("use_dummy_data: a sweep compares topics, and dummy data has none; leave it out")
    records = load_records(config.dataset, Selection.of(config.as_dict())).records
    topics = sorted({record.topic for record in records})
    if kind != "follow_up" and len(topics) < 2:
        raise UserError(f"--{kind}: the data has one topic only ({', '.join(topics)}); select more in train_topics")
    folder = output or Path(CHECKPOINTS_DIR) / f"{config.run_name}-{kind}"
    with ranks_together():
        config = in_one_format(config, folder / SWEEP_FILE)
        given = Sweep(kind, config, limit, topics, folder)
        folds = FOLDS[kind](config, topics)
        for fold in folds:
            _check_enough(fold, records)
        _check_same(given, folds)
        with held_by_all(folder, "a sweep", "choose another --output"):
            _check_same(given, folds)  # again: another sweep may have written to the folder
            _run_all(given, folds, records)
    if rank() == 0:
        print_sweep(_read(folder))
        if kind == "follow_up":
            print_comparison(compare(folder / PLAIN, folder / PERSONA))
        say(f"figures in {folder / SWEEP_FILE}")
    return folder


def _is_done(given: Sweep, fold: RunConfig) -> bool:
    return state_of(given.folder / fold.run_name) == "evaluated"


def _run_all(given: Sweep, folds: Sequence[RunConfig], records: Sequence[Record]) -> None:
    if rank() == 0:
        if given.kind == "topic_matrix":
            write_jsonl(_with_split(records, given.config), given.folder / RECORDS_FILE)
        _write(given, folds)
    for fold in rounds(folds, "fold", lambda fold: fold.run_name, lambda fold: _is_done(given, fold)):
        topics = json_text.dumps(given.topics)
        run_fold(fold, given.folder, evaluate_adapter, dataset=given.dataset, topics=topics, limit=given.limit)
        if rank() == 0:
            _write(given, folds)


def _fold(config: RunConfig, name: str, **changes: Any) -> RunConfig:
    run_name = re.sub(r"[^A-Za-z0-9._-]+", "-", name)
    return config.model_copy(update={"val_samples_per_topic": 0, "resume": False, "run_name": run_name, **changes})


def _others(topics: Sequence[str], topic: str) -> tuple[str, ...]:
    return tuple(other for other in topics if other != topic)


def _with_split(records: Sequence[Record], config: RunConfig) -> Iterator[Record]:
    """The records with the config's split written into them, so that no fold's choice of topics changes it."""
    held_out = {r.id for r in split_records(records, (), config.val_item_frac, config.seed).within}
    for record in records:
        yield record.model_copy(update={"split": "validation" if record.id in held_out else "train"})


def _check_enough(fold: RunConfig, records: Sequence[Record]) -> None:
    splits = split_records(records, fold.validation_topics, fold.val_item_frac, fold.seed)
    for what, found in {"train on": splits.train, "evaluate": splits.across or splits.within}.items():
        if not found:
            raise UserError(
                f"fold {fold.run_name}: no record is left to {what}; see `python -m honest_persona data --config ...`, "
                "select other topics, or change val_item_frac"
            )


def _check_same(given: Sweep, folds: Sequence[RunConfig]) -> None:
    """Raises UserError: the folder holds folds of another sweep, or a grid."""
    if (given.folder / GRID_TABLE).exists():
        raise UserError(f"{given.folder} holds a grid; choose another --output")
    if len({fold.run_name for fold in folds}) < len(folds):
        raise UserError(f"topics: two of {', '.join(given.topics)} give a folder of one name; rename one in the data")
    differing: set[str] = set()
    if (given.folder / SWEEP_FILE).exists():
        before = _read(given.folder)
        differing |= {
            key for key, value in {"design": given.kind, "limit": given.limit}.items() if before[key] != value
        }
    differing |= changed_keys(folds, given.folder)
    if differing:
        raise UserError(
            f"{given.folder} holds a sweep that was begun with other settings of {', '.join(sorted(differing))}; give "
            "it the same ones to continue, or choose another --output"
        )


def _read(folder: Path) -> dict[str, Any]:
    return json_text.loads((folder / SWEEP_FILE).read_text(encoding="utf-8"))


def _write(given: Sweep, folds: Sequence[RunConfig]) -> None:
    """`sweep.json` with every fold that has been evaluated, and their records pooled; a follow-up is not pooled."""
    done = [given.folder / fold.run_name for fold in folds if _is_done(given, fold)]
    pooled = [] if given.kind == "follow_up" else summarize([s for folder in done for s in _samples(given, folder)])
    content = {
        "about": provenance(),
        "design": given.kind,
        "limit": given.limit,
        "config": given.config.as_dict(),
        "folds": [
            {
                "name": folder.name,
                "train_topics": AdapterCard.load(folder).trained_topics,
                "rows": (read_set(folder / "eval") or {})["rows"],
            }
            for folder in done
        ],
        "pooled": [asdict(row) for row in pooled],
    }
    text = json_text.dumps(json_text.defined(content), indent=1, ensure_ascii=False)
    write_text(given.folder / SWEEP_FILE, text + "\n")


def _samples(given: Sweep, folder: Path) -> Iterator[Sample]:
    """The samples of every detector in one fold, without texts."""
    for name in (SAMPLES_FILE, BASELINES_FILE):
        for sample in read_samples(folder / "eval" / name):
            if given.kind == "topic_matrix" or sample.part == ACROSS:
                yield sample.without_texts()
