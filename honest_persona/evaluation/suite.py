"""The evaluation, one path for the heavy log and for eval.py: reviews of held-out records, counted by topic.

All ranks call `evaluate_records` together; each reviews its share, and every rank returns the whole result.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from peft import PeftModel

from honest_persona.data.records import Record
from honest_persona.data.segments import record_messages
from honest_persona.data.tokens import TokenFormat, Tokens, apply_intervention
from honest_persona.evaluation.baselines import variant_only
from honest_persona.evaluation.calibrate import Threshold
from honest_persona.evaluation.detection import Columns, detect
from honest_persona.evaluation.metrics import ALL, COLUMNS, RATES, count_flags
from honest_persona.evaluation.reviews import Review, write_reviews
from honest_persona.modeling.frozen_prefix import in_mode
from honest_persona.modeling.zero import gathered


@dataclass(frozen=True)
class Sample:
    """One record and what the honest persona said about it: a line of samples.jsonl."""

    record_id: str
    item_id: str
    cluster: str
    """What intervals draw together: the item, or the group that the data names."""
    part: str
    """`within`: held-out items of trained topics; `across`: topics not trained; `eval`: chosen by hand."""
    topic: str
    variant: str
    model: str
    intervention_name: str
    truth: str
    flag: str | None
    p_fail: float
    ending: str
    review: str
    reference_review: str


@dataclass(frozen=True)
class Row:
    """The metrics of one group of samples."""

    part: str
    topic: str
    variant: str
    n: int
    n_items: int
    rates: dict[str, float | None]
    """The metrics of `detection.detect`. None where one is undefined: no record it could be computed from."""
    intervals: dict[str, tuple[float, float] | None]
    """95 %, by a bootstrap over clusters (`Sample.cluster`)."""
    ns: dict[str, int]
    """Records that each is computed from: of a rate, those of its class."""
    notes: dict[str, str]
    """What must be said beside a figure; only where there is something."""
    counts: dict[str, int]
    variant_only_balanced_accuracy: float | None


@dataclass(frozen=True)
class Results:
    rows: list[Row]
    samples: list[Sample]
    too_long: dict[str, int] = field(default_factory=dict)
    """Records per part that were left out because prompt and answer would exceed the model's positions."""

    def row(self, part: str, topic: str = ALL, variant: str = ALL) -> Row:
        return next(r for r in self.rows if (r.part, r.topic, r.variant) == (part, topic, variant))

    def scalars(self) -> dict[str, float]:
        """`part/topic/rate` (with `/variant_A` where it is within one), for loggers; undefined rates are left out."""
        return {
            f"{row.part}/{row.topic}{'' if row.variant == ALL else f'/variant_{row.variant}'}/{name}": value
            for row in self.rows
            for name, value in {**row.rates, "n": row.n}.items()
            if value is not None
        }

    def as_dict(self) -> dict[str, Any]:
        return {"rows": [asdict(row) for row in self.rows], "too_long": self.too_long}


def evaluate_records(
    model: PeftModel,
    parts: Mapping[str, Sequence[Record]],
    form: TokenFormat,
    batch_size: int,
    max_new_tokens: int,
    seq_len: int | None = None,
    frozen_prefix: bool = True,
    gather: bool | None = None,
    thresholds: Sequence[Threshold] = (),
) -> Results:
    """Review every record of every part with the adapter active, and count.

    Args:
        parts: records by part (`within`, `across`, ...).
        seq_len: longest prompt plus answer in tokens; longer ones are left out, and counted in `too_long`.
        frozen_prefix: run each transcript of a batch once, where the model allows it.
        gather: whether weights that ZeRO-3 shards are gathered while this lasts; None where they fit (zero.py).
        thresholds: on P(FAIL), fixed on other data; their rates are counted too.
    """
    jobs: list[tuple[str, Record, Tokens]] = []
    too_long: dict[str, int] = {}
    for part, records in parts.items():
        for record in records:
            prompt = apply_intervention(record_messages(record), record.intervention, form)
            if seq_len is not None and len(prompt.input_ids) + max_new_tokens > seq_len:
                too_long[part] = too_long.get(part, 0) + 1
            else:
                jobs.append((part, record, prompt))
    with _evaluating(model), gathered(model, gather):
        reviews = _review_all(model, [job[2] for job in jobs], form, batch_size, max_new_tokens, frozen_prefix)
    samples = [sample_of(part, record, review) for (part, record, _), review in zip(jobs, reviews, strict=True)]
    return Results(summarize(samples, thresholds), samples, too_long)


def summarize(samples: Sequence[Sample], thresholds: Sequence[Threshold] = ()) -> list[Row]:
    """A row per part, topic and variant, and per union of them, in the order part, topic, variant (`all` first)."""
    groups: dict[tuple[str, str, str], list[Sample]] = {}
    for sample in samples:
        for topic in (ALL, sample.topic):
            for variant in (ALL, sample.variant):
                groups.setdefault((sample.part, topic, variant), []).append(sample)

    def place(key: tuple[str, str, str]) -> tuple[object, ...]:
        part, topic, variant = key
        return part != "within", part, topic != ALL, topic, variant != ALL, variant

    return [_row(*key, groups[key], thresholds) for key in sorted(groups, key=place)]


def _row(part: str, topic: str, variant: str, samples: list[Sample], thresholds: Sequence[Threshold]) -> Row:
    truths = [s.truth for s in samples]
    total = count_flags([s.flag for s in samples], truths).sum(0)
    estimates = detect(Columns.of_samples(samples), thresholds)
    shortcut = count_flags(variant_only([s.variant for s in samples]), truths).sum(0)
    return Row(
        part=part,
        topic=topic,
        variant=variant,
        n=len(samples),
        n_items=len({s.item_id for s in samples}),
        rates={name: estimate.value for name, estimate in estimates.items()},
        intervals={name: estimate.interval for name, estimate in estimates.items()},
        ns={name: estimate.n for name, estimate in estimates.items()},
        notes={name: estimate.note for name, estimate in estimates.items() if estimate.note},
        counts=dict(zip(COLUMNS, total.tolist(), strict=True)),
        variant_only_balanced_accuracy=_defined(RATES["balanced_accuracy"](shortcut)),
    )


def _defined(value: Any) -> float | None:
    return None if value != value else float(value)  # nan


def sample_of(part: str, record: Record, review: Review) -> Sample:
    """A record with what was said about it."""
    return Sample(
        record_id=record.id,
        item_id=record.item_id,
        cluster=record.cluster,
        part=part,
        topic=record.topic,
        variant=record.variant,
        model=record.model,
        intervention_name=record.intervention_name,
        truth=record.flag,
        flag=review.flag,
        p_fail=review.p_fail,
        ending=str(review.ending),
        review=review.text,
        reference_review=record.review,
    )


def _review_all(
    model: PeftModel,
    prompts: Sequence[Tokens],
    form: TokenFormat,
    batch_size: int,
    max_new_tokens: int,
    frozen_prefix: bool = True,
) -> list[Review]:
    """All reviews in the order of the prompts, on every rank."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    reviews: dict[int, Review] = {}
    for batch in batches(prompts, batch_size, world)[rank]:
        chosen = [prompts[i] for i in batch]
        reviews |= zip(batch, write_reviews(model, chosen, form, max_new_tokens, frozen_prefix), strict=True)
    if world > 1:
        shares: list[Any] = [None] * world
        dist.all_gather_object(shares, reviews)
        # a prompt that fills up another rank's batch is that rank's copy: the first rank's review counts everywhere
        reviews = {i: review for share in reversed(shares) for i, review in share.items()}
    return [reviews[i] for i in range(len(prompts))]


def batches(prompts: Sequence[Tokens], batch_size: int, world: int) -> list[list[list[int]]]:
    """Which prompts each rank reviews together: indices by rank and batch.

    Prompts on one transcript stand side by side, and transcripts of similar length, so that a batch runs few prefixes
    and pads little. Every rank gets equally many batches, each as large as the other ranks', as ZeRO-3 demands: where
    there is nothing left for a rank, it repeats a prompt.
    """

    def place(i: int) -> tuple[object, ...]:
        prompt = prompts[i]
        return prompt.activation, prompt.input_ids[: prompt.activation], len(prompt.input_ids), prompt.input_ids

    order = sorted(range(len(prompts)), key=place)
    by_rank: list[list[list[int]]] = [[] for _ in range(world)]
    for start in range(0, len(order), batch_size * world):
        together = order[start : start + batch_size * world]
        size = -(-len(together) // world)
        together += together[-1:] * (size * world - len(together))
        for rank in range(world):
            by_rank[rank].append(together[rank * size : (rank + 1) * size])
    return by_rank


@contextmanager
def _evaluating(model: PeftModel) -> Iterator[None]:
    """Eval mode, without activation checkpointing, and with the generators' states put back at the end.

    PEFT's activated LoRA leaves hooks in checkpointed layers until a backward pass; a forward pass without one would
    make the next training step fail, so checkpointing must be off here.
    """
    checkpointed: list[Any] = [m for m in model.modules() if getattr(m, "gradient_checkpointing", False) is True]
    cpu_state = torch.get_rng_state()
    device_states = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    for module in checkpointed:
        module.gradient_checkpointing = False
    try:
        with in_mode(model, training=False):
            yield
    finally:
        for module in checkpointed:
            module.gradient_checkpointing = True
        torch.set_rng_state(cpu_state)
        if device_states:
            torch.cuda.set_rng_state_all(device_states)
