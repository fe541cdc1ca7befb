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
from honest_persona.evaluation.metrics import COLUMNS, RATES, clustered_intervals, count_flags
from honest_persona.evaluation.reviews import Review, write_reviews

ALL = "all"


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
    """None where a rate is undefined: no record it could be computed from."""
    intervals: dict[str, tuple[float, float] | None]
    """95 %, by a bootstrap over clusters (`Sample.cluster`)."""
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
) -> Results:
    """Review every record of every part with the adapter active, and count.

    Args:
        parts: records by part (`within`, `across`, ...).
        seq_len: longest prompt plus answer in tokens; longer ones are left out, and counted in `too_long`.
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
    order = sorted(range(len(jobs)), key=lambda i: (len(jobs[i][2].input_ids), jobs[i][1].id))
    with _evaluating(model):
        reviews = _review_all(model, [jobs[i][2] for i in order], form, batch_size, max_new_tokens)
    by_job = dict(zip(order, reviews, strict=True))
    samples = [sample_of(part, record, by_job[i]) for i, (part, record, _) in enumerate(jobs)]
    return Results(summarize(samples), samples, too_long)


def summarize(samples: Sequence[Sample]) -> list[Row]:
    """A row per part, topic and variant, and per union of them, in the order part, topic, variant (`all` first)."""
    groups: dict[tuple[str, str, str], list[Sample]] = {}
    for sample in samples:
        for topic in (ALL, sample.topic):
            for variant in (ALL, sample.variant):
                groups.setdefault((sample.part, topic, variant), []).append(sample)

    def place(key: tuple[str, str, str]) -> tuple[object, ...]:
        part, topic, variant = key
        return part != "within", part, topic != ALL, topic, variant != ALL, variant

    return [_row(*key, groups[key]) for key in sorted(groups, key=place)]


def _row(part: str, topic: str, variant: str, samples: list[Sample]) -> Row:
    truths = [s.truth for s in samples]
    clusters = [s.cluster for s in samples]
    rows = count_flags([s.flag for s in samples], truths)
    total = rows.sum(0)
    shortcut = count_flags(variant_only([s.variant for s in samples]), truths).sum(0)
    return Row(
        part=part,
        topic=topic,
        variant=variant,
        n=len(samples),
        n_items=len({s.item_id for s in samples}),
        rates={name: _defined(rate(total)) for name, rate in RATES.items()},
        intervals=clustered_intervals(rows, clusters),
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
    model: PeftModel, prompts: Sequence[Tokens], form: TokenFormat, batch_size: int, max_new_tokens: int
) -> list[Review]:
    """All reviews in order, on every rank. Each rank runs the same number of batches, as ZeRO-3 demands."""
    if not prompts:
        return []
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    per_rank = -(-len(prompts) // world)
    mine = list(range(rank, len(prompts), world))
    # a rank with fewer prompts repeats one of them, so that all run equally many forward passes; the copy is dropped
    padded = mine + [mine[-1] if mine else 0] * (per_rank - len(mine))
    reviews: dict[int, Review] = {}
    for i in range(0, per_rank, batch_size):
        batch = padded[i : i + batch_size]
        reviews |= zip(batch, write_reviews(model, [prompts[j] for j in batch], form, max_new_tokens), strict=True)
    if world > 1:
        shares: list[Any] = [None] * world
        dist.all_gather_object(shares, {i: reviews[i] for i in mine})
        reviews = {i: review for share in shares for i, review in share.items()}
    return [reviews[i] for i in range(len(prompts))]


@contextmanager
def _evaluating(model: PeftModel) -> Iterator[None]:
    """Eval mode, without activation checkpointing, and with the generators' states put back at the end.

    PEFT's activated LoRA leaves hooks in checkpointed layers until a backward pass; a forward pass without one would
    make the next training step fail, so checkpointing must be off here.
    """
    training = [module for module in model.modules() if module.training]
    checkpointed: list[Any] = [m for m in model.modules() if getattr(m, "gradient_checkpointing", False) is True]
    cpu_state = torch.get_rng_state()
    device_states = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    for module in checkpointed:
        module.gradient_checkpointing = False
    model.eval()
    try:
        yield
    finally:
        for module in checkpointed:
            module.gradient_checkpointing = True
        for module in training:
            module.training = True
        torch.set_rng_state(cpu_state)
        if device_states:
            torch.cuda.set_rng_state_all(device_states)
