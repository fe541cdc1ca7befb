"""Seeded choices among records: the split by item, and samples for evaluation and for short runs.

Every choice hashes an id with the seed, so it does not depend on the order of the records. Nor does the split depend on
which others there are: a record stays in its part when files are added.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from typing import NamedTuple

from honest_persona.data.records import Record


class Splits(NamedTuple):
    """No item is in two parts."""

    train: list[Record]
    within: list[Record]
    """Held-out items of the trained topics."""
    across: list[Record]
    """The validation topics."""
    unused: list[Record]
    """Records of validation topics that the data itself gives to training (`Record.split`)."""


def uniform(seed: int, salt: str, key: str) -> float:
    """A number in [0, 1) that is fixed by its arguments. Choices with different salts are independent."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{salt}:{key}".encode()).digest()[:6]) / 2**48


def in_share(item_id: str, frac: float, seed: int) -> bool:
    """Whether the item belongs to a share `frac` of the items. A larger share contains every smaller one."""
    return uniform(seed, "topic_share", item_id) < frac


def split_records(
    records: Sequence[Record], validation_topics: Collection[str], val_item_frac: float, seed: int
) -> Splits:
    """Split by cluster (the item, or the group that the data names).

    Records of `validation_topics` are `across`; of the others, a share `val_item_frac` is `within`, unless the data
    says itself which part a record belongs to. An item that stands in a validation topic and in a trained one too is
    `across` with all its records, so that its content is never trained on.
    """
    across_items = {record.item_id for record in records if record.topic in validation_topics}
    splits = Splits([], [], [], [])
    for record in records:
        held_out = uniform(seed, "held_out_item", record.cluster) < val_item_frac
        if record.split is not None:
            held_out = record.split == "validation"
        if record.item_id in across_items:
            (splits.unused if record.split == "train" else splits.across).append(record)
        else:
            (splits.within if held_out else splits.train).append(record)
    return splits


def sample_per_topic(records: Sequence[Record], n: int, seed: int) -> list[Record]:
    """Up to `n` records of each topic, topics sorted, in the order chosen: a topic's first k are its choice for n = k.

    Each next record is of the flag chosen less often so far (where both are left), then of the variant chosen less
    often within that flag, so that the variant does not give the flag away. Within that cell it is of the item chosen
    least often so far, and ties go by the seeded hash of the record's id. So the sample's flag rate is not the topic's.
    """
    by_topic = defaultdict(list)
    for record in records:
        by_topic[record.topic].append(record)
    return [record for topic in sorted(by_topic) for record in _sample_topic(by_topic[topic], n, seed)]


def _sample_topic(records: Sequence[Record], n: int, seed: int) -> list[Record]:
    cells: dict[tuple[str, str], list[tuple[int, float, str, Record]]] = defaultdict(list)
    for record in records:
        cells[record.flag, record.variant].append((0, uniform(seed, "sample", record.id), record.id, record))
    for cell in cells.values():
        heapq.heapify(cell)
    chosen: list[Record] = []
    by_flag: Counter[str] = Counter()
    by_cell: Counter[tuple[str, str]] = Counter()
    by_item: Counter[str] = Counter()
    while len(chosen) < n and cells:
        key = min(cells, key=lambda key: (by_flag[key[0]], by_cell[key], key))
        cell = cells[key]
        # An entry's count is stale once another record of its item was chosen: push it back with the count of now.
        while cell[0][0] != by_item[cell[0][3].cluster]:
            _, u, record_id, record = cell[0]
            heapq.heapreplace(cell, (by_item[record.cluster], u, record_id, record))
        record = heapq.heappop(cell)[3]
        if not cell:
            del cells[key]
        chosen.append(record)
        by_flag[record.flag] += 1
        by_cell[key] += 1
        by_item[record.cluster] += 1
    return chosen


def limit_records(records: Sequence[Record], num_samples: int | None, seed: int) -> list[Record]:
    """A seeded choice of `num_samples` records, in their order; all for None or where there are no more."""
    if num_samples is None or num_samples >= len(records):
        return list(records)
    ranked = sorted(
        range(len(records)), key=lambda index: (uniform(seed, "limit", records[index].id), records[index].id)
    )
    return [records[index] for index in sorted(ranked[:num_samples])]
