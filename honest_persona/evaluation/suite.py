"""The evaluation, one path for the heavy log and for eval.py: reviews of held-out records, counted by topic.

All ranks call `evaluate_records` together; each reviews its share, and every rank returns the whole result.

    settings = EvalSettings(batch_size=8, max_new_tokens=96)
    results = evaluate_records(model, {"within": records}, form, settings)
"""

from array import array
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

from peft import PeftModel

from honest_persona.base.collectives import rank_and_world
from honest_persona.base.grouping import grouped
from honest_persona.base.progress import Progress, followed
from honest_persona.base.words import ALL, HONEST_PERSONA
from honest_persona.data.records import Record
from honest_persona.evaluation.baselines import variant_only
from honest_persona.evaluation.samples import Group, GroupRow, Runs, Sample, groups_of, sample_file, sample_of
from honest_persona.evaluation.sets import SAMPLES_FILE, NewSet
from honest_persona.evaluation.settings import EvalSettings
from honest_persona.evaluation.shares import Batches, on_all_ranks
from honest_persona.evaluation.shares import Results as Shared
from honest_persona.modeling.modes import evaluating
from honest_persona.modeling.zero import gathered
from honest_persona.persona.batches import Place, place_of
from honest_persona.persona.in_turn import each_review
from honest_persona.persona.parsing import Review
from honest_persona.prompts.kinds import Kind
from honest_persona.prompts.show import pieces
from honest_persona.prompts.tokens import TokenFormat, Tokens, prompt_of
from honest_persona.statistics.bootstrap import defined
from honest_persona.statistics.columns import Columns
from honest_persona.statistics.detection import detect
from honest_persona.statistics.rates import COLUMNS, balanced_accuracy, count_flags
from honest_persona.statistics.threshold import Threshold


@dataclass(frozen=True)
class DetectorRow(GroupRow):
    """The metrics of one detector on one group of samples."""

    detector: str
    n: int
    n_items: int
    rates: dict[str, float | None]
    """The metrics of `detection.detect`; None where a metric is undefined because it has no record."""
    intervals: dict[str, tuple[float, float] | None]
    """95 %, by a bootstrap over clusters (`Sample.cluster`)."""
    ns: dict[str, int]
    """The number of records behind each metric: for a rate, the records of its class."""
    notes: dict[str, str]
    """Text that must stand beside a figure; figures without such a text have no entry."""
    counts: dict[str, int]
    variant_only_balanced_accuracy: float | None
    """None where the data has no variants."""


@dataclass(frozen=True)
class Results:
    rows: list[DetectorRow]
    samples: list[Sample]
    """Without texts where these went to a file."""
    too_long: dict[str, int] = field(default_factory=dict)
    """Records per part that were left out because prompt and answer would exceed the model's positions."""

    def row(self, part: str, topic: str = ALL, variant: str = ALL) -> DetectorRow:
        """The honest persona's row."""
        group = Group(part, topic, variant)
        return next(r for r in self.rows if (r.detector, r.group) == (HONEST_PERSONA, group))

    def scalars(self) -> dict[str, float]:
        """`part/topic/rate` for loggers; undefined rates are left out.

        The row of one variant, main model or difficulty has `/variant_A`, `/model_X` or `/difficulty_X` in its name.
        """
        return {
            f"{row.part}/{_path(row.group)}/{name}": value
            for row in self.rows
            for name, value in {**row.rates, "n": row.n}.items()
            if value is not None
        }

    def as_dict(self) -> dict[str, Any]:
        return {"rows": [asdict(row) for row in self.rows], "too_long": self.too_long}


def _path(group: Group) -> str:
    of = group._asdict()
    narrowed = [f"{name}_{of[name]}" for name in ("variant", "model", "difficulty") if of[name] != ALL]
    return "/".join([group.topic, *narrowed])


class Reviewed(NamedTuple):
    samples: list[Sample]
    too_long: dict[str, int]
    """As in `Results`."""


class Stopped(Exception):
    """The evaluation was broken off, on all ranks; its file is not finished."""


class _Job(NamedTuple):
    """A record to review, with its prompt: 5 bytes per token, since all records are encoded before the first batch."""

    part: str
    record: Record
    place: Place
    input_ids: "array[int]"
    kinds: bytes

    @classmethod
    def of(cls, part: str, record: Record, prompt: Tokens) -> "_Job":
        return cls(part, record, place_of(prompt), array("i", prompt.input_ids), bytes(prompt.kinds))

    @property
    def prompt(self) -> Tokens:
        activation, *_ = self.place
        return Tokens(self.input_ids.tolist(), [Kind(kind) for kind in self.kinds], activation)


def evaluate_records(
    model: PeftModel,
    parts: Mapping[str, Sequence[Record]],
    form: TokenFormat,
    settings: EvalSettings,
    thresholds: Sequence[Threshold] = (),
    into: NewSet | None = None,
    stop: Callable[[], bool] | None = None,
    what: str = HONEST_PERSONA,
) -> Results:
    """Review every record of every part with the adapter active, and count; arguments as in `review_records`.

    Args:
        thresholds: on P(FAIL), fixed on other data; their rates are counted too.
    """
    samples, too_long = review_records(model, parts, form, settings, into=into, stop=stop, what=what)
    return Results(summarize(samples, thresholds), samples, too_long)


def review_records(
    model: PeftModel,
    parts: Mapping[str, Sequence[Record]],
    form: TokenFormat,
    settings: EvalSettings,
    detector: str = HONEST_PERSONA,
    into: NewSet | None = None,
    stop: Callable[[], bool] | None = None,
    what: str = "",
) -> Reviewed:
    """Review every record of every part.

    Args:
        parts: records by part (`within`, `across`, ...).
        detector: the name of the samples' detector.
        into: rank 0 writes the samples there, a batch at a time; they are returned without their texts then.
        stop: whether to break off. Every rank asks after each batch, and must get the same answer.
        what: the progress bar's title; the detector where it is not given.

    Raises:
        Stopped: `stop` said so.
    """
    jobs: list[_Job] = []
    too_long: dict[str, int] = {}
    everything = [(part, record) for part, records in parts.items() for record in records]
    for part, record in followed(everything, "encoding", "records"):
        prompt = prompt_of(record, form)
        if settings.seq_len is not None and len(prompt.input_ids) + settings.max_new_tokens > settings.seq_len:
            too_long[part] = too_long.get(part, 0) + 1
        else:
            jobs.append(_Job.of(part, record, prompt))
    # parts and designs share prompts: each is reviewed once
    by_place = grouped(range(len(jobs)), lambda i: jobs[i].place)
    places, of_prompt = list(by_place), list(by_place.values())
    write = partial(_reviewed, model, [jobs[first] for first, *_ in of_prompt], form, settings)
    writes = into is not None and rank_and_world()[0] == 0
    samples: dict[int, Sample] = {}
    with (
        evaluating(model),
        gathered(model, settings.gather),
        sample_file(into.folder / SAMPLES_FILE, into.id) if into and writes else nullcontext() as append,
        Progress(what or detector, len(jobs), "records") as progress,
        closing(on_all_ranks(places, settings.batch_size, write)) as shares,
    ):
        for reviews in shares:
            new = {
                i: sample_of(jobs[i].part, jobs[i].record, review, detector, _runs(jobs[i].prompt, form))
                for n, review in reviews.items()
                for i in of_prompt[n]
            }
            if append:
                append(new.values())
            samples |= {i: sample.without_texts() for i, sample in new.items()} if into else new
            progress.advance(len(new))
            if stop and stop():
                raise Stopped
    return Reviewed([samples[i] for i in range(len(jobs))], too_long)


def _runs(prompt: Tokens, form: TokenFormat) -> Runs:
    shown = zip(prompt.kinds, pieces(prompt.input_ids, form), strict=True)
    return tuple((kind.name, [text for _, text in run]) for kind, run in groupby(shown, key=lambda pair: pair[0]))


def summarize(samples: Sequence[Sample], thresholds: Sequence[Threshold] = ()) -> list[DetectorRow]:
    """A row per detector and group (`samples.groups_of`)."""
    by_detector = grouped(samples, lambda sample: sample.detector)
    groups = [(detector, *found) for detector, of in by_detector.items() for found in groups_of(of).items()]
    return [
        row_of(detector, group, members, thresholds if detector == HONEST_PERSONA else ())
        for detector, group, members in followed(groups, "figures", "groups")
    ]


def row_of(detector: str, group: Group, samples: Sequence[Sample], thresholds: Sequence[Threshold] = ()) -> DetectorRow:
    """The metrics of samples of one detector, of which `group` says what they have in common."""
    truths = [s.truth for s in samples]
    total = count_flags([s.flag for s in samples], truths).sum(0)
    estimates = detect(Columns.of_samples(samples), thresholds)
    variants = [s.variant for s in samples]
    shortcut = count_flags(variant_only(variants), truths).sum(0)
    return DetectorRow(
        *group,
        detector,
        n=len(samples),
        n_items=len({s.item_id for s in samples}),
        rates={name: estimate.value for name, estimate in estimates.items()},
        intervals={name: estimate.interval for name, estimate in estimates.items()},
        ns={name: estimate.n for name, estimate in estimates.items()},
        notes={name: estimate.note for name, estimate in estimates.items() if estimate.note},
        counts=dict(zip(COLUMNS, total.tolist(), strict=True)),
        variant_only_balanced_accuracy=defined(float(balanced_accuracy(shortcut))) if all(variants) else None,
    )


def _reviewed(
    model: PeftModel, jobs: Sequence[_Job], form: TokenFormat, settings: EvalSettings, mine: Batches
) -> Shared[Review]:
    return each_review(
        model,
        ([jobs[i].prompt for i in batch] for batch in mine),
        form,
        sum(map(len, mine)),
        settings.batch_size,
        settings.max_new_tokens,
        settings.frozen_prefix,
        settings.prefix_cache,
    )
